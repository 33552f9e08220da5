"""Exports of a run: PyTorch's names and back, our own file, and a program that runs without this code."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from ass_jax.inference.predictor import Predictor, ProgramPredictor
from ass_jax.method.state import abstract_segmenter
from ass_jax.models import build_networks, deeplab
from ass_jax.weights import export
from ass_jax.weights.export import state_dict, weight_settings, write
from ass_jax.weights.files import WeightFileError
from ass_jax.weights.pretrained import flatten, open_weights, place
from ass_jax.weights.trained_model import Trained, open_description
from configs import base

SIZE = (32, 64)
NAMES = ("road", "sky", "car")
PALETTE = np.array([[128, 64, 128], [70, 130, 180], [0, 0, 142]], np.uint8)


def trained(**settings):
    """Returns a small segmenter with random weights and statistics."""
    config = base.get_config()
    config.data.target_size = SIZE
    config.model.update({"backbone": "resnet_tiny", "pixel_deviation": (64.0,) * 3, **settings})
    generator = np.random.default_rng(0)

    def draw(path, leaf):
        if "kernel" in jax.tree_util.keystr(path):
            values = generator.standard_normal(leaf.shape) * (2 / np.prod(leaf.shape[:-1])) ** 0.5
        else:
            values = generator.uniform(0.5, 1.5, leaf.shape)
        return values.astype(np.float32)

    shapes = abstract_segmenter(build_networks(config, 3), config)
    return Trained(config, NAMES, PALETTE, jax.tree_util.tree_map_with_path(draw, shapes))


def images(count, size=SIZE):
    coarse = np.random.default_rng(1).integers(0, 256, (count, -(-size[0] // 8), -(-size[1] // 8), 3), np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)[:, : size[0], : size[1]]


@pytest.fixture(scope="module")
def model():
    return trained()


@pytest.fixture(scope="module")
def program_file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("program") / "model.jaxexport"
    write(model, path)
    return path


def back(arrays, model, folder):
    """Imports a state dict into the model's variables."""
    np.savez(folder / "weights.npz", **arrays)
    variables, placement = place(open_weights(folder / "weights.npz"), model.variables)
    assert placement.random == ()
    return variables


@pytest.mark.parametrize("backbone", ["resnet_tiny", "resnet50"])
def test_state_dict_comes_back_bit_for_bit(tmp_path, monkeypatch, backbone):
    monkeypatch.setitem(
        deeplab.BACKBONES,
        "resnet50",
        lambda model: deeplab._resnet(model, stage_sizes=(3, 4, 6, 3), width=2, stem_width=4),
    )
    model = trained(backbone=backbone)
    arrays = state_dict(model)
    variables = back(arrays, model, tmp_path)
    assert jax.tree.structure(variables) == jax.tree.structure(model.variables)
    for (path, found), (_, expected) in zip(flatten(variables), flatten(model.variables), strict=True):
        assert found.tobytes() == expected.tobytes(), path
    again = state_dict(Trained(model.config, NAMES, PALETTE, variables))
    assert again.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (again[name].dtype, again[name].tobytes()) == (array.dtype, array.tobytes()), name


def test_branches_that_the_model_lacks_are_zero():
    arrays = state_dict(trained(branches=2))
    for branch in range(4):
        for leaf, shape in (("weight", (3, 128, 3, 3)), ("bias", (3,))):
            array = arrays[f"layer5.conv2d_list.{branch}.{leaf}"]
            assert array.shape == shape
            assert array.any() == (branch < 2)
    assert "classifier.conv2d_list.3.weight" in state_dict(trained_vgg())


def trained_vgg():
    config = base.get_config()
    config.data.target_size = SIZE
    config.model.update(backbone="vgg16", branches=2)
    shapes = abstract_segmenter(build_networks(config, 3), config)
    # Views of one number: the network's 30 million weights take no memory here.
    leaves = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(1), leaf.shape), shapes["params"]["classifier"])
    return Trained(config, NAMES, PALETTE, {"params": {"classifier": leaves}, "batch_stats": {}})


def torch_deeplab(torch, classes):
    """Returns AdaptSegNet's model with one classifier, a ResNet of narrow basic blocks, as a module of PyTorch."""
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self, channels, width, stride, dilation):
            super().__init__()
            self.conv1 = nn.Conv2d(channels, width, 3, stride, dilation, dilation, bias=False)
            self.bn1 = nn.BatchNorm2d(width)
            self.conv2 = nn.Conv2d(width, width, 3, 1, dilation, dilation, bias=False)
            self.bn2 = nn.BatchNorm2d(width)
            self.downsample = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

        def forward(self, x):
            y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            return torch.relu(y + self.downsample(x))

    class Pyramid(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.conv2d_list = nn.ModuleList(
                nn.Conv2d(channels, classes, 3, padding=dilation, dilation=dilation) for dilation in (6, 12, 18, 24)
            )

        def forward(self, x):
            return sum(branch(x) for branch in self.conv2d_list)

    class DeepLab(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 16, 3, 2, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(16)
            self.maxpool = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
            self.layer1 = nn.Sequential(Block(16, 16, 1, 1))
            self.layer2 = nn.Sequential(Block(16, 32, 2, 1))
            self.layer3 = nn.Sequential(Block(32, 64, 1, 2))
            self.layer4 = nn.Sequential(Block(64, 128, 1, 4))
            self.layer5 = Pyramid(128)

        def forward(self, x):
            x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
            return self.layer5(self.layer4(self.layer3(self.layer2(self.layer1(x)))))

    return DeepLab()


@pytest.mark.parametrize("branches", [2, 4])
def test_pytorch_loads_the_export_and_computes_the_same(tmp_path, branches):
    torch = pytest.importorskip("torch", minversion="2.10")
    model = trained(branches=branches)
    write(model, tmp_path / "model.pth")
    network = torch_deeplab(torch, 3)
    network.load_state_dict(torch.load(tmp_path / "model.pth", weights_only=True), strict=True)
    pixels = images(2)
    normal = (pixels[..., ::-1] - np.float32(model.config.model.pixel_mean)) / np.float32(64)
    with torch.no_grad():
        expected = network.eval()(torch.from_numpy(normal.transpose(0, 3, 1, 2).copy())).permute(0, 2, 3, 1).numpy()
    _, found = model.networks.segmenter.apply(model.variables, normal, train=False)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_pytorch_state_comes_back_bit_for_bit(tmp_path):
    """A network of PyTorch, imported, exported and loaded by PyTorch again, statistics and all."""
    torch = pytest.importorskip("torch", minversion="2.10")
    network = torch_deeplab(torch, 3)
    network(torch.randn(2, 3, *SIZE))  # Moves the running statistics.
    torch.save(network.state_dict(), tmp_path / "theirs.pth")
    model = trained()
    variables, placement = place(open_weights(tmp_path / "theirs.pth"), model.variables)
    assert placement.random == ()
    write(Trained(model.config, NAMES, PALETTE, variables), tmp_path / "ours.pth")
    found = torch.load(tmp_path / "ours.pth", weights_only=True)
    expected = network.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(found[name], tensor), name


def test_own_file_describes_itself(tmp_path, model):
    write(model, tmp_path / "folder" / "model.safetensors")
    pretrained = open_weights(tmp_path / "folder" / "model.safetensors")
    assert pretrained.settings == weight_settings(model)
    found = open_description(pretrained)
    assert found.names == NAMES
    np.testing.assert_array_equal(found.palette, PALETTE)
    assert json.loads(found.config.to_json()) == json.loads(model.config.to_json())
    jax.tree.map(np.testing.assert_array_equal, found.variables, model.variables)
    image = images(1)[0]
    np.testing.assert_array_equal(Predictor(found)(image), Predictor(model)(image))


def test_standalone_program_labels_as_the_predictor_does(tmp_path, model, program_file):
    """Runs the program in a fresh process outside this code, with JAX, NumPy and Pillow alone."""
    shown = images(2)
    for number, image in enumerate(shown):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    script = """
import sys
import jax, jax.export, numpy as np
from PIL import Image
with open(sys.argv[1], "rb") as file:
    program = jax.export.deserialize(bytearray(file.read()))
assert {"cpu", "cuda", "tpu"} <= set(program.platforms), program.platforms
images = np.stack([np.asarray(Image.open(f"{number}.png").convert("RGB")) for number in range(2)])
labels, confidence = program.call(images)
assert labels.dtype == np.uint8 and confidence.dtype == np.float32
other, _ = program.call(images[:1, :20, :50])
assert other.shape == (1, 20, 50)
np.savez("found.npz", labels=labels, confidence=confidence)
print([name for name in sys.modules if name.split(".")[0] in ("ass_jax", "configs", "flax", "ml_collections")])
"""
    result = subprocess.run(
        [sys.executable, "-I", "-c", script, program_file], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"
    found = np.load(tmp_path / "found.npz")
    for image, labels, confidence in zip(shown, found["labels"], found["confidence"], strict=True):
        expected_labels, expected_confidence = Predictor(model).with_confidence(image)
        np.testing.assert_array_equal(labels, expected_labels)
        np.testing.assert_allclose(confidence, expected_confidence, atol=1e-5)
        assert len(np.unique(labels)) > 1


@pytest.mark.parametrize(("height", "width"), [(1, 1), (32, 64), (77, 33), (8, 300)])
def test_program_takes_any_size(model, program_file, height, width):
    image = images(1, (height, width))[0]
    table = type("Table", (), {"names": NAMES, "palette": PALETTE})
    labels, confidence = ProgramPredictor(program_file, table).with_confidence(image)
    assert labels.shape == confidence.shape == (height, width)
    expected = Predictor(model)(image)
    # The two resize the image with different libraries, which round differently by up to a grey level.
    assert (labels == expected).mean() > 0.97


def test_unknown_endings(tmp_path, model):
    with pytest.raises(WeightFileError, match=r"unknown ending\. Valid: \.safetensors, \.pth, \.jaxexport\."):
        write(model, tmp_path / "model.onnx")


@pytest.mark.parametrize("ending", [".safetensors", ".jaxexport"])
def test_outputs_that_cannot_be_written_are_errors(tmp_path, model, ending):
    (tmp_path / "file").touch()
    (tmp_path / f"folder{ending}").mkdir()
    with pytest.raises(WeightFileError, match=r"file/model.*: .*/file cannot be made \(.+\)\."):
        write(model, tmp_path / "file" / f"model{ending}")
    with pytest.raises(WeightFileError, match="expected a file to write, found a folder"):
        write(model, tmp_path / f"folder{ending}")


def test_without_pytorch(tmp_path, model, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(WeightFileError, match=r"writing PyTorch files needs PyTorch: `pip install torch`"):
        write(model, tmp_path / "model.pth")
    assert list(tmp_path.iterdir()) == []


def test_command_line(tmp_path, model, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(export, "open_run", lambda *arguments: asked.append(arguments) or model)
    output = tmp_path / "model.safetensors"
    assert export.main(["runs/toy", f"--output={output}", "--step=7", "--average"]) == 0
    assert asked == [("runs/toy", 7, True)]
    assert f"Written: {output}, " in capsys.readouterr().out
    assert export.main(["runs/toy", f"--output={tmp_path}/model.onnx"]) == 2
    monkeypatch.undo()
    assert export.main([str(tmp_path / "absent"), f"--output={output}"]) == 2
    assert "absent has no config.json: it is not the working directory of a training run" in capsys.readouterr().err


def test_home_folder_of_the_output_is_completed(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    written = []
    monkeypatch.setattr(export, "open_run", lambda workdir, step, average: written.append(workdir))
    monkeypatch.setattr(export, "write", lambda trained, output, names: Path(output).write_bytes(b"weights"))
    assert export.main(["~/run", "--output=~/model.safetensors"]) == 0
    assert written == [f"{tmp_path}/run"]
    assert (tmp_path / "model.safetensors").read_bytes() == b"weights"
