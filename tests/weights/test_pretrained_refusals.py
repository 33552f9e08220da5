"""Weight files that do not fit are refused, in one line that says why."""

import numpy as np
import pytest

import main
from ass_jax.method.state import abstract_segmenter
from ass_jax.models import build_networks
from ass_jax.weights import pretrained as module
from ass_jax.weights.files import WeightFileError, write_arrays
from ass_jax.weights.model_settings import to_metadata
from ass_jax.weights.pretrained import place
from configs import toy
from tests.helpers import foreign_weights
from tests.helpers.foreign_weights import NARROW, STAGES, draw, opened, pyramid, resnet_shapes, segmenter

narrow = foreign_weights.narrow


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pth"])
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda arrays: {name: array for name, array in arrays.items() if not name.startswith("layer3.1.bn2.r")},
            "lacks 2 of 273 parameters of this model: layer3.1.bn2.running_mean, layer3.1.bn2.running_var. `python",
        ),
        (
            lambda arrays: {name: array for name, array in arrays.items() if name != "layer1.0.conv1.weight"},
            "lacks 1 of 273 parameters of this model: layer1.0.conv1.weight. `python -m ass_jax.weights.pretrained ",
        ),
        (
            lambda arrays: arrays | {"bn1.bias": np.zeros(NARROW, np.int32)},
            "expected floating-point numbers in bn1.bias, found int32",
        ),
        (
            lambda arrays: arrays | {"conv1.weight": np.zeros((NARROW, 3, 5, 5), np.float32)},
            "expected shape (7, 7, 3, 2) for params/backbone/stem/kernel, found (5, 5, 3, 2) in conv1.weight",
        ),
        (
            lambda arrays: arrays | {"bn1.bias": np.array([1.0, np.nan], np.float32)},
            "expected finite numbers, found NaN or infinity in bn1.bias",
        ),
        (
            lambda arrays: arrays | {"conv1.weight": np.zeros((NARROW, 3), np.float32)},
            "found (2, 3) in conv1.weight",
        ),
        (
            lambda arrays: arrays | {"bn1.weight": np.zeros((NARROW, 1), np.float32)},
            "expected shape (2,) for params/backbone/stem_norm/scale, found (2, 1) in bn1.weight",
        ),
    ],
)
def test_files_that_do_not_fit(tmp_path, narrow, suffix, change, expected):
    arrays = change(draw(resnet_shapes(STAGES["resnet50"], NARROW)))
    path = tmp_path / f"resnet{suffix}"
    with pytest.raises(WeightFileError) as error:
        place(opened(path, arrays), segmenter("resnet50"))
    assert str(error.value).startswith(str(path))
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_wrong_backbone_and_unknown_names(tmp_path, narrow):
    resnet = opened(tmp_path / "resnet.npz", draw(resnet_shapes(STAGES["resnet50"], NARROW)))
    with pytest.raises(WeightFileError, match=r"lacks 255 of .* layer3\.9\.bn3\.running_mean.* and 250 more\. `python"):
        place(resnet, segmenter("resnet101"))
    with pytest.raises(WeightFileError, match=r"\(torchvision ResNet\) lacks 26 of 38 .*params/backbone/block1_conv1"):
        place(resnet, segmenter("vgg16"))
    with pytest.raises(WeightFileError, match=r"unknown names, such as w0, w1, w2, w3, w4 and 2 more\. Known are"):
        opened(tmp_path / "other.npz", {f"w{index}": np.ones(2) for index in range(7)})
    with pytest.raises(WeightFileError, match="the same names with and without a prefix"):
        opened(tmp_path / "other.npz", {"bn1.bias": np.ones(2), "module.bn1.bias": np.ones(2)})


def test_classifiers_that_do_not_fit_are_refused(tmp_path, narrow):
    body = resnet_shapes(STAGES["resnet50"], NARROW)
    shallow = opened(tmp_path / "model.npz", draw(body | pyramid("layer5", 21, 5)))
    with pytest.raises(WeightFileError, match=r"found \(21,\) in layer5\.conv2d_list\.1\.bias"):
        place(shallow, segmenter("resnet50"))
    mixed = body | pyramid("layer5", 19, 32 * NARROW) | {"layer5.conv2d_list.3.bias": (7,)}
    with pytest.raises(WeightFileError, match=r"found \(7,\) in layer5\.conv2d_list\.3\.bias"):
        place(opened(tmp_path / "model.npz", draw(mixed)), segmenter("resnet50"))


def test_command_line_refuses_in_one_line(tmp_path, capsys):
    assert module.main([str(tmp_path / "absent.pth")]) == 2
    assert capsys.readouterr().err.startswith(f"{tmp_path}/absent.pth: there is no such file in {tmp_path}. docs/")


def test_check_looks_at_initial_weights(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(main.data_check, "check_data", lambda *_: True)

    def check_step(config, _):
        print("memory with", config.model.pixel_order)
        return True

    monkeypatch.setattr(main, "_check_step", check_step)
    config = toy.get_config("joint")
    config.init = str(tmp_path / "weights.safetensors")
    shapes = abstract_segmenter(build_networks(config, 10), config)
    arrays = {path: np.zeros(leaf.shape, np.float32) for path, leaf in module.flatten(shapes)}
    write_arrays(config.init, arrays, to_metadata({"pixel_order": "bgr"}))
    assert main.check(config)
    printed = capsys.readouterr().out
    assert "need model.pixel_order=bgr instead of rgb" in printed
    assert f"{len(arrays)} arrays loaded" in printed
    assert "memory with bgr" in printed
    path = "params/backbone/stem/kernel"
    write_arrays(config.init, arrays | {path: arrays[path][:1]}, {})
    with pytest.raises(WeightFileError, match=rf"expected shape \(3, 3, 3, 16\) for {path}, found \(1, 3, 3, 16\)"):
        main.check(config)
