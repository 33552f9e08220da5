"""PyTorch's step of the benchmarks computes the same losses as ours."""

import functools
from pathlib import Path

import jax
import numpy as np
import pytest

from ass_jax.method.optimizers import make_optimizer
from ass_jax.method.state import abstract_segmenter
from ass_jax.method.train_step import train_step
from ass_jax.models import build_networks
from ass_jax.weights.names import adaptsegnet_name
from ass_jax.weights.pretrained import flatten, to_foreign
from benchmarks.parity import inputs

torch = pytest.importorskip("torch")

# They import PyTorch.
from benchmarks.parity import make_golden  # noqa: E402
from benchmarks.pytorch import networks as torch_networks  # noqa: E402
from benchmarks.pytorch import training as torch_training  # noqa: E402

SIZES = {"source": (32, 40), "labelled": (32, 32), "unlabelled": (32, 32)}
STEPS = 2
GOLDEN = Path(__file__).parents[2] / "golden"
torch.set_num_threads(1)  # The maps are small, and other tests run at the same time.
HASTY = {"xla_backend_optimization_level": 0}


def peer(config, setting="plain"):
    """Returns PyTorch's training with the weights of `inputs`."""
    training = torch_training.Training(
        config, inputs.NUM_CLASSES, torch_training.Setting.parse(setting), torch.device("cpu")
    )
    arrays = inputs.segmenter_arrays(build_networks(config, inputs.NUM_CLASSES), config)
    weights = {"segmenter": {name: torch.from_numpy(array) for name, array in arrays.items()}}
    for name, values in (weights | make_golden.discriminators(config)).items():
        missing, unexpected = training.networks[name].load_state_dict(values, strict=False)
        assert not unexpected
        assert all(key.endswith("num_batches_tracked") for key in missing)
    return training


@pytest.mark.parametrize("unlabelled", [False, True])
def test_losses_equal_ours(unlabelled):
    config = inputs.training_config("ass")
    config.loss.update(semantic_outputs="class_domain", semantic_unlabelled=unlabelled)
    networks, optimizer = build_networks(config, inputs.NUM_CLASSES), make_optimizer(config)
    state = inputs.initial_state(config)
    step = jax.jit(functools.partial(train_step, networks=networks, config=config, optimizer=optimizer))
    batches = [inputs.training_batch(number, tuple(SIZES), SIZES) for number in range(STEPS)]
    step = step.lower(state, batches[0]).compile(compiler_options=HASTY)
    training = peer(config, "channels_last")
    for batch in batches:
        state, metrics = step(state, batch)
        found = training.step(training.place(batch))
        for name, loss in found.items():
            np.testing.assert_allclose(float(loss), float(metrics[name]), rtol=2e-4, err_msg=name)
        assert set(found) == {name for name in metrics if name.startswith("loss/")}


def test_bfloat16_is_close_to_float32():
    config = inputs.training_config("ass")
    batch = inputs.training_batch(0, tuple(SIZES), SIZES)
    found = {}
    for dtype in ("float32", "bfloat16"):
        config.model.dtype = dtype
        training = peer(config)
        found[dtype] = training.step(training.place(batch))
    for name, loss in found["float32"].items():
        np.testing.assert_allclose(float(found["bfloat16"][name]), float(loss), rtol=0.05, err_msg=name)


@pytest.mark.parametrize("variant", ["joint", "adaptsegnet", "semantic"])
def test_only_active_losses_are_reported(variant):
    config = inputs.training_config(variant)
    streams = ("source", "labelled") + ("unlabelled",) * (variant == "adaptsegnet")
    training = torch_training.Training(
        config, inputs.NUM_CLASSES, torch_training.Setting.parse("plain"), torch.device("cpu")
    )
    found = training.step(training.place(inputs.training_batch(0, streams, SIZES)))
    names = {"segmentation_source", "segmentation_labelled"}
    acting = {"joint": set(), "adaptsegnet": {"global"}, "semantic": {"semantic"}}[variant]
    assert set(found) == {f"loss/{name}" for name in names | acting | {f"{name}_discriminator" for name in acting}}


@pytest.mark.parametrize("stride_in", ["1x1", "3x3"])
def test_weights_of_resnet101_have_our_names_and_shapes(stride_in):
    config = inputs.forward_config()
    config.model.stride_in = stride_in
    variables = abstract_segmenter(build_networks(config, inputs.NUM_CLASSES), config)
    expected = {
        adaptsegnet_name(path, config.model.backbone): to_foreign(path, np.empty(leaf.shape, np.bool_)).shape
        for path, leaf in flatten(variables)
    }
    with torch.device("meta"):
        found = torch_training.make_networks(config, inputs.NUM_CLASSES)["segmenter"].state_dict()
    shapes = {name: tuple(value.shape) for name, value in found.items() if "num_batches" not in name}
    assert shapes == expected


@pytest.mark.parametrize("output_stride", [8, 16])
def test_efficientnet_equals_its_package(output_stride):
    segmenter = torch_networks.EfficientNetSegmenter(3, 1, output_stride).eval()
    arrays = inputs.efficientnet_arrays()
    segmenter.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()}, strict=False)
    config = inputs.efficientnet_config(output_stride)
    with np.load(GOLDEN / "efficientnet.npz") as expected:
        for name, size in inputs.SIZES.items():
            with torch.no_grad():
                features, _ = segmenter(make_golden._images(inputs.images(name, 2, size), config))
            cells = tuple(torch_networks.feature_cells(length, "efficientnet_lite0", output_stride) for length in size)
            assert features.shape[2:] == cells
            found = features.permute(0, 2, 3, 1)[..., :: inputs.FEATURE_STEP // 4].numpy()
            assert inputs.relative_difference(found, expected[f"random_{name}_{output_stride}_eval_features"]) < 1e-5


@pytest.mark.parametrize("pixels", [32, 33, 63, 64, 97, 720])
def test_feature_cells(pixels):
    segmenter = torch_networks.Segmenter("resnet_tiny", 3, 1, "1x1").to("meta")
    features, _ = segmenter(torch.empty((1, 3, pixels, 40), device="meta"))
    assert features.shape[2:] == (torch_networks.feature_cells(pixels), torch_networks.feature_cells(40))


def test_unknown_setting_is_an_error():
    with pytest.raises(ValueError, match="Valid: plain"):
        torch_training.Setting.parse("fast")


def test_unknown_configuration_is_an_error():
    config = inputs.training_config("ass")
    config.teacher.decay = 0.99
    with pytest.raises(ValueError, match=r"teacher\.decay"):
        torch_training.Training(config, 3, torch_training.Setting.parse("plain"), torch.device("cpu"))
