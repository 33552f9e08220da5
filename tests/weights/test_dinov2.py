"""Weights of DINOv2 under each of their names, and back."""

import jax
import numpy as np
import pytest

from ass_jax.weights import export, pretrained
from ass_jax.weights.files import WeightFileError, read_arrays
from ass_jax.weights.names import TORCHVISION_PIXELS, find_source, without_prefix
from ass_jax.weights.pretrained import describe, flatten, open_weights, place
from ass_jax.weights.trained_model import Trained
from benchmarks.parity import vit_inputs
from configs import base
from tests.helpers import dinov2_weights
from tests.helpers.dinov2_weights import foreign
from tests.helpers.foreign_weights import draw, opened, segmenter

small = dinov2_weights.small
NAMINGS = ("dinov2", "timm", "huggingface")
NAMES = {
    "params/backbone/embedding/class_token": ("cls_token", "embeddings.cls_token"),
    "params/backbone/embedding/patches/kernel": (
        "patch_embed.proj.weight",
        "embeddings.patch_embeddings.projection.weight",
    ),
    "params/backbone/block12/key/bias": ("blocks.11.attn.qkv.bias", "encoder.layer.11.attention.attention.key.bias"),
    "params/backbone/block1/attention_scale": ("blocks.0.ls1.gamma", "encoder.layer.0.layer_scale1.lambda1"),
    "params/backbone/block3/mlp_input/scale": ("blocks.2.norm2.weight", "encoder.layer.2.norm2.weight"),
    "params/backbone/output/bias": ("norm.bias", "layernorm.bias"),
    "params/backbone/stage1_block1/reduce/kernel": (None, None),
    "params/backbone/block1_conv1/kernel": (None, None),
    "batch_stats/backbone/stem_norm/mean": (None, None),
    "params/classifier/logits/bias": (None, None),
}


def of_file(kind, naming):
    """Returns the parameters that a file of the small network gives."""
    params = vit_inputs.params(kind)
    if (naming, kind) == ("timm", "registers"):
        params["embedding"]["positions"][:, 0] = 0  # timm's own import adds it to the class token.
    return params


@pytest.mark.parametrize("naming", NAMINGS)
def test_names(naming):
    source = find_source(foreign(vit_inputs.params("dinov2"), naming))
    column = int(naming == "huggingface")
    assert {path: source.name(path) for path in NAMES} == {path: names[column] for path, names in NAMES.items()}


def test_prefixes_and_chunks():
    assert without_prefix("dinov2.encoder.layer.0.norm1.bias") == "encoder.layer.0.norm1.bias"
    assert without_prefix("module.dinov2_with_registers.layernorm.bias") == "layernorm.bias"
    assert without_prefix("blocks.2.11.attn.qkv.weight") == "blocks.11.attn.qkv.weight"
    assert without_prefix("blocks.11.attn.qkv.weight") == "blocks.11.attn.qkv.weight"


@pytest.mark.parametrize("kind", vit_inputs.REGISTERS)
@pytest.mark.parametrize(("naming", "suffix"), [*((naming, ".safetensors") for naming in NAMINGS), ("dinov2", ".pth")])
def test_import_equals_direct_placement(tmp_path, small, naming, kind, suffix):
    found = opened(tmp_path / f"weights{suffix}", foreign(vit_inputs.params(kind), naming))
    registers = vit_inputs.REGISTERS[kind]
    assert found.settings_for(19) == TORCHVISION_PIXELS | {"registers": registers}
    assert found.num_classes is None
    variables, placement = place(found, segmenter("dinov2_s", registers=registers, head="linear"))
    assert all("/classifier/" in path for path in placement.random)
    assert placement.skipped == {}
    assert len(placement.loaded) == len(jax.tree.leaves(vit_inputs.params(kind)))
    assert all(leaf.flags.c_contiguous for leaf in jax.tree.leaves(variables["params"]["backbone"]))
    jax.tree.map(np.testing.assert_array_equal, variables["params"]["backbone"], of_file(kind, naming))


@pytest.mark.parametrize(
    ("naming", "rename"),
    [
        ("huggingface", lambda name: f"dinov2_with_registers.{name}"),
        ("dinov2", lambda name: f"module.{name}"),
        ("dinov2", lambda name: name.replace("blocks.", "blocks.0.", 1)),
    ],
)
def test_wrapped_names_and_what_is_left_out(tmp_path, small, naming, rename):
    arrays = {rename(name): array for name, array in foreign(vit_inputs.params("registers"), naming).items()}
    arrays |= {"classifier.weight": np.ones((7, 64), np.float32), "mask_token": np.zeros((1, 32), np.float32)}
    found = opened(tmp_path / "weights.npz", arrays)
    variables, placement = place(found, segmenter("dinov2_s", registers=4))
    assert placement.skipped == dict.fromkeys(("classifier.weight", "mask_token"), "no part of this model")
    jax.tree.map(np.testing.assert_array_equal, variables["params"]["backbone"], vit_inputs.params("registers"))
    assert "Skipped, no part of this model: classifier.weight, mask_token." in describe(found, placement)


def test_other_transformers_are_unknown():
    names = foreign(vit_inputs.params("dinov2"), "timm")
    assert find_source([name for name in names if ".ls" not in name]) is None


QKV = "blocks.1.attn.qkv.weight"


@pytest.mark.parametrize(
    ("backbone", "naming", "change", "expected"),
    [
        (
            "dinov2_s",
            "dinov2",
            lambda arrays: arrays.pop(QKV),
            f"lacks 1 of 85 parameters of this model: {QKV}. `python",
        ),
        (
            "dinov2_s",
            "huggingface",
            lambda arrays: arrays.pop("encoder.layer.3.attention.attention.key.bias"),
            "lacks 1 of 85 parameters of this model: encoder.layer.3.attention.attention.key.bias. `python",
        ),
        (
            "dinov2_l",
            "dinov2",
            lambda arrays: None,
            "lacks 14 of 103 parameters of this model: blocks.4.norm1.bias,",
        ),
        (
            "dinov2_s",
            "dinov2",
            lambda arrays: arrays.update({QKV: np.zeros((95, 32), np.float32)}),
            f"expected shape (32, 32) for params/backbone/block2/key/kernel, found (32, 95) in {QKV}",
        ),
        (
            "dinov2_s",
            "dinov2",
            lambda arrays: arrays.update({QKV: np.zeros((), np.float32)}),
            f"expected shape (32, 32) for params/backbone/block2/key/kernel, found () in {QKV}",
        ),
        (
            "dinov2_s",
            "timm",
            lambda arrays: arrays.update(pos_embed=np.zeros((1, 24, 32), np.float32)),
            "expected shape (1, 26, 32) for params/backbone/embedding/positions, found (1, 25, 32) in pos_embed",
        ),
        (
            "dinov2_s",
            "dinov2",
            lambda arrays: arrays.update({QKV: np.zeros((96, 32), np.int32)}),
            f"expected floating-point numbers in {QKV}, found int32",
        ),
        (
            "dinov2_b",
            "huggingface",
            lambda arrays: None,
            "found (32,) in encoder.layer.0.norm1.bias. `python -m ass_jax.weights.pretrained ",
        ),
        (  # ViT-g has another MLP.
            "dinov2_s",
            "dinov2",
            lambda arrays: arrays.update({"blocks.0.mlp.w12.weight": arrays.pop("blocks.0.mlp.fc1.weight")}),
            "lacks 1 of 85 parameters of this model: blocks.0.mlp.fc1.weight. `python -m",
        ),
    ],
)
def test_files_that_do_not_fit(tmp_path, small, backbone, naming, change, expected):
    arrays = foreign(vit_inputs.params("registers"), naming)
    change(arrays)
    with pytest.raises(WeightFileError) as error:
        place(opened(tmp_path / "weights.npz", arrays), segmenter(backbone, registers=4, head="linear", branches=1))
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_weights_without_registers_do_not_fit_a_network_with_them(tmp_path, small):
    found = opened(tmp_path / "weights.npz", foreign(vit_inputs.params("dinov2"), "dinov2"))
    with pytest.raises(
        WeightFileError, match=r"\(DINOv2\) lacks 1 of 87 parameters of this model: register_tokens\. `python"
    ):
        place(found, segmenter("dinov2_s", registers=4))


def test_command_line_finds_the_network_by_its_shapes(tmp_path, small, capsys, monkeypatch):
    monkeypatch.setattr(
        pretrained, "BACKBONES", {name: pretrained.BACKBONES[name] for name in ("vit_tiny", "dinov2_b", "dinov2_s")}
    )
    opened(tmp_path / "model.npz", foreign(vit_inputs.params("registers"), "timm"))
    output = tmp_path / "model.safetensors"
    monkeypatch.setenv("HOME", str(tmp_path))  # A shell leaves the ~ of --output=~/file as it is.
    assert pretrained.main([str(tmp_path / "model.npz"), f"--output=~/{output.name}"]) == 0
    told = capsys.readouterr().out
    assert "timm's DINOv2; 79 arrays loaded" in told
    assert "model.registers=4" in told
    assert "Backbone: dinov2_s." in told
    again = open_weights(output)
    assert again.settings == TORCHVISION_PIXELS | {"registers": 4}
    variables, _ = place(again, segmenter("dinov2_s", registers=4))
    jax.tree.map(np.testing.assert_array_equal, variables["params"]["backbone"], of_file("registers", "timm"))


def trained(backbone="dinov2_s", kind="registers", classes=3, head="linear"):
    config = base.get_config()
    config.data.target_size = (28, 42)
    config.model.update(backbone=backbone, head=head, registers=vit_inputs.REGISTERS[kind])
    shapes = segmenter(backbone, classes, head=head, registers=vit_inputs.REGISTERS[kind])
    leaves = list(draw({path: leaf.shape for path, leaf in flatten(shapes)}).values())
    variables = jax.tree.unflatten(jax.tree.structure(shapes), leaves)
    names = tuple(f"class {number}" for number in range(classes))
    return Trained(config, names, np.zeros((classes, 3), np.uint8), variables)


@pytest.mark.parametrize("kind", vit_inputs.REGISTERS)
def test_export_with_names_of_hugging_face_comes_back(tmp_path, small, monkeypatch, capsys, kind):
    model = trained(kind=kind)
    monkeypatch.setattr(export, "open_run", lambda *_: model)
    path = tmp_path / "backbone.safetensors"
    assert export.main(["runs/toy", f"--output={path}", "--names=huggingface"]) == 0
    assert f"Written: {path}, " in capsys.readouterr().out
    arrays, metadata = read_arrays(path)
    assert metadata == {"format": "pt"}
    expected = foreign(model.variables["params"]["backbone"], "huggingface")
    assert arrays.keys() == expected.keys() | {"embeddings.mask_token"}
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)
    variables, placement = place(open_weights(path), segmenter("dinov2_s", registers=vit_inputs.REGISTERS[kind]))
    jax.tree.map(np.testing.assert_array_equal, variables["params"]["backbone"], model.variables["params"]["backbone"])
    assert placement.skipped == {"embeddings.mask_token": "no part of this model"}


def test_export_refuses_other_backbones_and_endings(tmp_path, small, monkeypatch, capsys):
    monkeypatch.setattr(export, "open_run", lambda *_: trained("resnet_tiny", "dinov2", head="atrous"))
    assert export.main(["runs/toy", f"--output={tmp_path}/a.safetensors", "--names=huggingface"]) == 2
    assert "names are those of DINOv2; the run's backbone is 'resnet_tiny'." in capsys.readouterr().err
    with pytest.raises(WeightFileError, match=r"unknown ending\. Valid with huggingface's names: \.safetensors\."):
        export.write(trained(), tmp_path / "a.pth", "huggingface")
    with pytest.raises(ValueError, match="no backbone 'dinov2_s'"):
        export.state_dict(trained())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("head", ["linear", "multilevel"])
def test_own_classifier_for_other_classes_is_left_out(tmp_path, small, head):
    model = trained(head=head)
    path = tmp_path / "own.safetensors"
    export.write(model, path)
    found = open_weights(path)
    assert found.num_classes == 3
    assert found.settings["registers"] == 4
    same, placement = place(found, segmenter("dinov2_s", 3, head=head, registers=4))
    assert (placement.random, placement.skipped) == ((), {})
    jax.tree.map(np.testing.assert_array_equal, same, model.variables)
    _, placement = place(found, segmenter("dinov2_s", 5, head=head, registers=4))
    reason = "a classifier for 3 classes instead of 5"
    outputs = {"params/classifier/logits/bias", "params/classifier/logits/kernel"}  # The last layer alone.
    assert placement.skipped == dict.fromkeys(outputs, reason)
    assert set(placement.random) == outputs
