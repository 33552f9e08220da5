"""What other projects call the segmenter's parameters: one table for each source of weights.

Our names are the paths in the variables of `ass_jax.models.deeplab.DeepLab`, joined by "/", such as
"params/backbone/stage1_block1/reduce/kernel".
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping

import jax.numpy as jnp
import numpy as np

from ass_jax.models.deeplab import DILATIONS
from ass_jax.models.efficientnet import STAGES
from configs.user_error import UserError

CAFFE_PIXELS: dict[str, object] = {
    "pixel_order": "bgr",
    "pixel_mean": (104.00698793, 116.66876762, 122.67891434),
    "pixel_deviation": (1.0, 1.0, 1.0),
}
TORCHVISION_PIXELS: dict[str, object] = {
    "pixel_order": "rgb",
    "pixel_mean": (123.675, 116.28, 103.53),
    "pixel_deviation": (58.395, 57.12, 57.375),
}
# EfficientNet's Lite variants map 0..255 to about -1..1.
LITE_PIXELS: dict[str, object] = {
    "pixel_order": "rgb",
    "pixel_mean": (127.0, 127.0, 127.0),
    "pixel_deviation": (128.0, 128.0, 128.0),
}

# Our layer -> theirs, in ResNet's blocks of both kinds and before them.
_RESNET_BLOCK = {
    "reduce": "conv1",
    "reduce_norm": "bn1",
    "spatial": "conv2",
    "spatial_norm": "bn2",
    "expand": "conv3",
    "expand_norm": "bn3",
    "first": "conv1",
    "first_norm": "bn1",
    "second": "conv2",
    "second_norm": "bn2",
    "shortcut": "downsample.0",
    "shortcut_norm": "downsample.1",
}
_RESNET_STEM = {"stem": "conv1", "stem_norm": "bn1"}
# The same for EfficientNet-Lite0, whose blocks are numbered through all stages.
_EFFICIENTNET_BLOCK = {
    "expand": "_expand_conv",
    "expand_norm": "_bn0",
    "depthwise": "_depthwise_conv",
    "depthwise_norm": "_bn1",
    "project": "_project_conv",
    "project_norm": "_bn2",
}
_EFFICIENTNET_STEM = {"stem": "_conv_stem", "stem_norm": "_bn0"}
# Places of VGG-16's convolutions in torchvision's list of layers; AdaptSegNet removes the fourth pool and puts
# the two that stand for fully connected layers at the end.
_VGG_BLOCKS = {1: (0, 2), 2: (5, 7), 3: (10, 12, 14), 4: (17, 19, 21)}
_VGG_LAST_BLOCK = {"torchvision": (24, 26, 28), "adaptsegnet": (23, 25, 27)}
_VGG_HEAD = (29, 31)
# Our layers and parameters -> DINOv2's, in its blocks and around them, and the same for Hugging Face's.
_DINOV2 = {
    "class_token": "cls_token",
    "positions": "pos_embed",
    "registers": "register_tokens",
    "patches": "patch_embed.proj",
    "block": "blocks",
    "attention_input": "norm1",
    "query": "attn.qkv",
    "key": "attn.qkv",
    "value": "attn.qkv",
    "attention_output": "attn.proj",
    "attention_scale": "ls1.gamma",
    "mlp_input": "norm2",
    "mlp_hidden": "mlp.fc1",
    "mlp_output": "mlp.fc2",
    "mlp_scale": "ls2.gamma",
    "output": "norm",
}
_HUGGINGFACE = _DINOV2 | {
    "class_token": "embeddings.cls_token",
    "positions": "embeddings.position_embeddings",
    "registers": "embeddings.register_tokens",
    "patches": "embeddings.patch_embeddings.projection",
    "block": "encoder.layer",
    "query": "attention.attention.query",
    "key": "attention.attention.key",
    "value": "attention.attention.value",
    "attention_output": "attention.output.dense",
    "attention_scale": "layer_scale1.lambda1",
    "mlp_scale": "layer_scale2.lambda1",
    "output": "layernorm",
}
_TIMM = _DINOV2 | {"registers": "reg_token"}
_FUSED = ("query", "key", "value")  # In DINOv2's order.
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


@dataclasses.dataclass(frozen=True)
class Source:
    """Where weights come from.

    Attributes:
      title: for messages.
      settings: of `config.model`, which belong to the weights.
      name: from our path to the foreign name; None where the source has no such parameter.
      part: from our path and the array of that name to what is ours of it, in the foreign layout.
      layout: of the kernels: "pytorch", [out, in, height, width], or "ours", [height, width, in, out].
      branches_open: several projects have these names, and differ in how many branches of the classifier act.
    """

    title: str
    settings: Mapping[str, object]
    name: Callable[[str], str | None]
    part: Callable[[str, np.ndarray], np.ndarray] = lambda path, array: array
    layout: str = "pytorch"
    branches_open: bool = False


def join_classifiers(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Makes one classifier of CLAN's two, "layer5" and "layer6".

    CLAN (arXiv 1809.09478) labels images by the sum of both. Both read the last stage and are linear, so that the sum
    of their weights is one classifier, which becomes "layer6". In other models with these names, "layer5" reads an
    earlier stage of half as many channels: their arrays are returned as they are.

    Args:
      arrays: by name, without prefixes.
    """
    joined = {}
    for name, second in arrays.items():
        if name.startswith("layer6.conv2d_list."):
            first = arrays.get(name.replace("layer6", "layer5", 1))
            if first is None or not _can_be_added(first, second):
                return dict(arrays)
            joined[name] = first + second
    if not joined:
        return dict(arrays)
    return {name: array for name, array in arrays.items() if not name.startswith("layer5.")} | joined


def _can_be_added(first: np.ndarray, second: np.ndarray) -> bool:
    """Returns whether two arrays are floating-point numbers of one shape."""
    floating = all(jnp.issubdtype(array.dtype, np.floating) for array in (first, second))  # NumPy lacks bfloat16.
    return floating and first.shape == second.shape


def find_source(names: Iterable[str]) -> Source | None:
    """Tells where weights come from by the names of their arrays, prefixes removed; None if that is unknown.

    Args:
      names: after `without_prefix`.
    """
    names = list(names)

    def has(start: str) -> bool:
        return any(name.startswith(start) for name in names)

    if has("params/"):
        return Source("ass_jax", {}, lambda path: path, layout="ours")
    if has("layer1.0."):
        heads = [head for head in ("layer6", "layer5") if has(f"{head}.conv2d_list.")]
        if not heads:
            return Source("torchvision ResNet", TORCHVISION_PIXELS | {"stride_in": "3x3"}, _resnet_name)
        settings = CAFFE_PIXELS | {"stride_in": "1x1"}
        name = functools.partial(_resnet_name, head=heads[0])
        if heads == ["layer6"]:  # ADVENT's with one classifier, or CLAN's after `join_classifiers`.
            return Source("ADVENT's or CLAN's DeepLab (ResNet)", settings | {"branches": len(DILATIONS)}, name)
        return Source("AdaptSegNet's or ADVENT's DeepLab (ResNet)", settings, name, branches_open=True)
    if has("features.0."):
        if has("classifier.conv2d_list."):
            return Source("AdaptSegNet's DeepLab (VGG)", CAFFE_PIXELS, _adaptsegnet_vgg_name, branches_open=True)
        return Source("torchvision VGG-16", TORCHVISION_PIXELS, _torchvision_vgg_name)
    if has("_conv_stem."):
        return Source("EfficientNet-Lite0", LITE_PIXELS, efficientnet_name)
    if has("blocks.0.ls1."):
        if has("reg_token"):
            return Source("timm's DINOv2", TORCHVISION_PIXELS | {"registers": 4}, _timm_name, _timm_part)
        settings = TORCHVISION_PIXELS | {"registers": 4 if has("register_tokens") else 0}
        return Source("DINOv2", settings, _dinov2_name, _dinov2_part)
    if has("encoder.layer.0.layer_scale1."):
        settings = TORCHVISION_PIXELS | {"registers": 4 if has("embeddings.register_tokens") else 0}
        return Source("Hugging Face's DINOv2", settings, huggingface_name)
    if has("block1/layers/conv2d/"):
        return Source("HED's VGG-16", CAFFE_PIXELS, _hed_vgg_name, layout="ours")
    return None


def without_prefix(name: str) -> str:
    """Removes what wrappers put before names.

    `module.` of data parallelism, `Scale.` of the COCO weights, `dinov2.` of Hugging Face's models with a head,
    `model.` and `backbone.` of networks inside others, and the chunk from `blocks.CHUNK.NUMBER.` of DINOv2's training.
    """
    name = re.sub(r"^((module|Scale|dinov2|dinov2_with_registers|model|backbone)\.)+", "", name)
    return re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", name)


def adaptsegnet_name(path: str, backbone: str) -> str:
    """Returns the name of our path in AdaptSegNet's model with one classifier.

    Args:
      path: of a parameter or running statistic.
      backbone: `config.model.backbone`.

    Raises:
      UserError: that model has no such backbone.
    """
    if backbone.startswith("vgg"):
        name = _adaptsegnet_vgg_name(path)
    elif backbone.startswith("resnet"):
        name = _resnet_name(path, "layer5")
    else:
        name = None
    if name is None:
        raise UserError(
            f"AdaptSegNet's model has no backbone {backbone!r}, so its parameters have no names for a .pth file; "
            "expected a name that ends in .safetensors or .jaxexport."
        )
    return name


def _resnet_name(path: str, head: str | None = None) -> str | None:
    _, part, *layers, leaf = path.split("/")
    if part == "classifier":
        return _branch_name(head, layers[0], leaf) if head else None
    if layers[0] in _RESNET_STEM:
        return f"{_RESNET_STEM[layers[0]]}.{_LEAVES[leaf]}"
    place = re.fullmatch(r"stage(\d)_block(\d+)", layers[0])
    if not place or layers[1] not in _RESNET_BLOCK:
        return None
    stage, block = place.groups()
    return f"layer{stage}.{int(block) - 1}.{_RESNET_BLOCK[layers[1]]}.{_LEAVES[leaf]}"


def efficientnet_name(path: str) -> str | None:
    """Returns the name of our path in the package `efficientnet-lite-pytorch`; None if it has no such parameter."""
    _, part, *layers, leaf = path.split("/")
    if part != "backbone":
        return None
    if layers[0] in _EFFICIENTNET_STEM:
        return f"{_EFFICIENTNET_STEM[layers[0]]}.{_LEAVES[leaf]}"
    place = re.fullmatch(r"stage(\d)_block(\d+)", layers[0])
    if not place or layers[1] not in _EFFICIENTNET_BLOCK:
        return None
    stage, block = map(int, place.groups())
    number = sum(count for count, *_ in STAGES[: stage - 1]) + block - 1
    return f"_blocks.{number}.{_EFFICIENTNET_BLOCK[layers[1]]}.{_LEAVES[leaf]}"


def huggingface_name(path: str) -> str | None:
    """Returns the name of our path in `Dinov2Model` of transformers; None if it has no such parameter."""
    return _vit_name(path, _HUGGINGFACE)


def _dinov2_name(path: str) -> str | None:
    return _vit_name(path, _DINOV2)


def _timm_name(path: str) -> str | None:
    return _vit_name(path, _TIMM)


def _vit_name(path: str, names: Mapping[str, str]) -> str | None:
    _, part, *layers = path.split("/")
    if part != "backbone":
        return None
    prefix = ""
    if layers[0] == "embedding":
        layers = layers[1:]
    elif place := re.fullmatch(r"block(\d+)", layers[0]):
        prefix, layers = f"{names['block']}.{int(place[1]) - 1}.", layers[1:]
    if layers[0] not in names:
        return None
    return prefix + ".".join([names[layers[0]], *(_LEAVES[leaf] for leaf in layers[1:])])


def _dinov2_part(path: str, array: np.ndarray) -> np.ndarray:
    """Takes query, key or value out of the array of all three."""
    layer = path.split("/")[-2]
    if layer not in _FUSED or array.ndim == 0 or len(array) % 3:
        return array  # With another size it does not fit, and the import raises an error.
    return np.split(array, 3)[_FUSED.index(layer)]


def _timm_part(path: str, array: np.ndarray) -> np.ndarray:
    """Adds the position of the class token, 0: timm's networks with registers have it in the token itself."""
    if path.endswith("/positions") and array.ndim == 3:
        return np.concatenate([np.zeros_like(array[:, :1]), array], axis=1)
    return _dinov2_part(path, array)


def _hed_vgg_name(path: str) -> str | None:
    """Names the convolutions of Keras: the first of a block is `conv2d`, the next `conv2d_1`."""
    _, _, layer, *_, leaf = path.split("/")
    place = re.fullmatch(r"(block\d)_conv(\d)", layer)
    if not place:
        return None
    block, index = place.groups()
    number = "" if index == "1" else f"_{int(index) - 1}"
    return f"{block}/layers/conv2d{number}/vars/{('kernel', 'bias').index(leaf)}"


def _torchvision_vgg_name(path: str) -> str | None:
    return _vgg_name(path, "torchvision")


def _adaptsegnet_vgg_name(path: str) -> str | None:
    return _vgg_name(path, "adaptsegnet")


def _vgg_name(path: str, source: str) -> str | None:
    _, part, layer, *_, leaf = path.split("/")
    if part == "classifier":
        return _branch_name("classifier", layer, leaf) if source == "adaptsegnet" else None
    place = re.fullmatch(r"(block\d|head)_conv(\d)", layer)
    if not place:
        return None
    block, index = place.groups()
    if block == "head":
        return f"features.{_VGG_HEAD[int(index) - 1]}.{_LEAVES[leaf]}" if source == "adaptsegnet" else None
    places = (_VGG_BLOCKS | {5: _VGG_LAST_BLOCK[source]})[int(block[-1])]
    return f"features.{places[int(index) - 1]}.{_LEAVES[leaf]}"


def _branch_name(head: str, layer: str, leaf: str) -> str | None:
    dilation = layer.removeprefix("dilation")
    if not dilation.isdecimal():
        return None  # Of another head.
    place = DILATIONS.index(int(dilation))
    return f"{head}.conv2d_list.{place}.{_LEAVES[leaf]}"
