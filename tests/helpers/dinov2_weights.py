"""The parameters of a small network under the names of DINOv2, timm and Hugging Face, written down by hand."""

import functools

import numpy as np
import pytest

from ass_jax.models import deeplab
from benchmarks.parity import vit_inputs

AROUND = {  # Ours -> DINOv2's, Hugging Face's.
    ("embedding", "class_token"): ("cls_token", "embeddings.cls_token"),
    ("embedding", "positions"): ("pos_embed", "embeddings.position_embeddings"),
    ("embedding", "registers"): ("register_tokens", "embeddings.register_tokens"),
    ("embedding", "patches", "kernel"): ("patch_embed.proj.weight", "embeddings.patch_embeddings.projection.weight"),
    ("embedding", "patches", "bias"): ("patch_embed.proj.bias", "embeddings.patch_embeddings.projection.bias"),
    ("output", "scale"): ("norm.weight", "layernorm.weight"),
    ("output", "bias"): ("norm.bias", "layernorm.bias"),
}
BLOCK = {
    ("attention_input", "scale"): ("norm1.weight", "norm1.weight"),
    ("attention_input", "bias"): ("norm1.bias", "norm1.bias"),
    ("attention_output", "kernel"): ("attn.proj.weight", "attention.output.dense.weight"),
    ("attention_output", "bias"): ("attn.proj.bias", "attention.output.dense.bias"),
    ("attention_scale",): ("ls1.gamma", "layer_scale1.lambda1"),
    ("mlp_input", "scale"): ("norm2.weight", "norm2.weight"),
    ("mlp_input", "bias"): ("norm2.bias", "norm2.bias"),
    ("mlp_hidden", "kernel"): ("mlp.fc1.weight", "mlp.fc1.weight"),
    ("mlp_hidden", "bias"): ("mlp.fc1.bias", "mlp.fc1.bias"),
    ("mlp_output", "kernel"): ("mlp.fc2.weight", "mlp.fc2.weight"),
    ("mlp_output", "bias"): ("mlp.fc2.bias", "mlp.fc2.bias"),
    ("mlp_scale",): ("ls2.gamma", "layer_scale2.lambda1"),
}
FUSED = ("query", "key", "value")


def foreign(params, naming):
    """Returns the arrays of a network of ours under the names "dinov2", "timm" or "huggingface"."""
    column = int(naming == "huggingface")
    found = {names[column]: leaf(params, path) for path, names in AROUND.items() if has(params, path)}
    for number in range(sum(name.startswith("block") for name in params)):
        block, prefix = params[f"block{number + 1}"], ("blocks", "encoder.layer")[column]
        own = {names[column]: leaf(block, path) for path, names in BLOCK.items()}
        for name, theirs in (("kernel", "weight"), ("bias", "bias")):
            arrays = [leaf(block, (layer, name)) for layer in FUSED]
            if naming == "huggingface":
                layers = (f"attention.attention.{layer}.{theirs}" for layer in FUSED)
                own |= dict(zip(layers, arrays, strict=True))
            else:
                own[f"attn.qkv.{theirs}"] = np.concatenate(arrays)
        found |= {f"{prefix}.{number}.{name}": array for name, array in own.items()}
    if naming == "timm" and "register_tokens" in found:
        found["reg_token"] = found.pop("register_tokens")
        found["pos_embed"] = found["pos_embed"][:, 1:]
    return found


def has(tree, path):
    return path[0] in tree and (len(path) == 1 or has(tree[path[0]], path[1:]))


def leaf(tree, path):
    """Returns a parameter in PyTorch's layout."""
    for name in path:
        tree = tree[name]
    if path[-1] == "kernel":
        tree = tree.transpose(3, 2, 0, 1) if tree.ndim == 4 else tree.T
    return np.ascontiguousarray(tree)


@pytest.fixture
def small(monkeypatch):
    """Makes the networks small: that of `vit_inputs`, one with other channels, and one with more blocks."""
    sizes = {"dinov2_s": {}, "dinov2_b": {"width": 16}, "dinov2_l": {"depth": 5}, "vit_tiny": {"depth": 2}}
    for name, changed in sizes.items():
        backbone = functools.partial(deeplab._vit, **vit_inputs.SETTINGS | changed)
        monkeypatch.setitem(deeplab.BACKBONES, name, backbone)
