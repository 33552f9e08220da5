"""PyTorch's Vision Transformer of the benchmarks computes what ours does, and so do its step and its optimiser."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ass_jax.method.optimizers import make_optimizer
from ass_jax.method.state import abstract_segmenter
from ass_jax.method.train_step import train_step
from ass_jax.models import build_networks
from ass_jax.models.preprocess import normalise
from ass_jax.runtime import compilation
from benchmarks.parity import inputs
from tests.helpers.dinov2_weights import foreign

torch = pytest.importorskip("torch")
pytest.importorskip("timm")

# They import PyTorch.
from benchmarks.parity import make_golden  # noqa: E402
from benchmarks.pytorch import networks as torch_networks  # noqa: E402
from benchmarks.pytorch import training as torch_training  # noqa: E402

SIZES = {"source": (33, 45), "labelled": (42, 56), "unlabelled": (37, 70)}  # Two are filled up to whole patches.
torch.set_num_threads(1)  # The maps are small, and other tests run at the same time.


def make_config():
    config = inputs.training_config("ass", "vit_tiny")
    config.model.head = "multilevel"
    config.optimizer.update(kind="adamw", clip_norm=0.0, decay_biases=False, warmup_steps=3)
    return config


def drawn(path, leaf):
    """Random parameters: no bias is zero, and the first maps are not much larger than the last ones."""
    names = [entry.key for entry in path]
    generator = inputs.draws("/".join(names))
    match names[-1]:
        case "kernel":
            return generator.standard_normal(leaf.shape, np.float32) / np.sqrt(np.prod(leaf.shape[:-1]), dtype="f4")
        case "scale" | "attention_scale" | "mlp_scale":
            return generator.uniform(0.6, 1.4, leaf.shape).astype(np.float32)
    return generator.uniform(-0.3, 0.3, leaf.shape).astype(np.float32)


def parameters(config):
    shapes = abstract_segmenter(build_networks(config, inputs.NUM_CLASSES), config)["params"]
    return jax.tree_util.tree_map_with_path(drawn, shapes)


def theirs(params):
    """Returns arrays of the segmenter's parameters, or of their gradients, under the names of the peer."""
    found = {f"backbone.{name}": array for name, array in foreign(params["backbone"], "timm").items()}
    for layer, leaves in params["classifier"].items():
        found[f"classifier.{layer}.weight"] = np.asarray(leaves["kernel"]).transpose(3, 2, 0, 1)
        found[f"classifier.{layer}.bias"] = np.asarray(leaves["bias"])
    return found


def tensors(params):
    return {name: torch.from_numpy(np.array(array)) for name, array in theirs(params).items()}


def peer(config, params):
    setting = torch_training.Setting.parse("channels_last")
    training = torch_training.Training(config, inputs.NUM_CLASSES, setting, torch.device("cpu"))
    for name, values in ({"segmenter": tensors(params)} | make_golden.discriminators(config)).items():
        training.networks[name].load_state_dict(values)
    return training


def compiled(function):
    return jax.jit(function, compiler_options=compilation.options_of_one_use())


def assert_close(found, expected, tolerance=1e-4):
    """Compares arrays by name; the gradient of the bias of the keys, which is 0, is rounding in PyTorch."""
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        pair = [found[name], array]
        if name.endswith("attn.qkv.bias"):
            pair = [np.delete(np.split(values, 3), 1, axis=0) for values in pair]
        assert inputs.relative_difference(*pair) < tolerance, name


@pytest.mark.parametrize("stream", SIZES)
def test_features_and_logits_equal_ours(stream):
    config = make_config()
    params, pixels = parameters(config), inputs.images(stream, 2, SIZES[stream])
    module = build_networks(config, inputs.NUM_CLASSES).segmenter
    ours = compiled(functools.partial(module.apply, train=True))({"params": params}, normalise(pixels, config))
    training = peer(config, params)
    with torch.no_grad():
        found = training.networks["segmenter"](training.place({stream: {"image": pixels}})[stream]["image"])
    for tensor, expected in zip(found, ours, strict=True):
        assert inputs.relative_difference(tensor.permute(0, 2, 3, 1).numpy(), expected) < 1e-4
    cells = tuple(torch_networks.feature_cells(length, "vit_tiny") for length in SIZES[stream])
    assert found[0].shape[2:] == cells


def test_losses_and_gradients_of_a_step_equal_ours():
    config = make_config()
    params = parameters(config)
    state = inputs.initial_state(config, {"params": params, "batch_stats": {}})
    # Keeps the gradients in the place of its state.
    keep = optax.GradientTransformationExtraArgs(
        lambda params: params, lambda gradients, *_, **__: (jax.tree.map(jnp.zeros_like, gradients), gradients)
    )
    networks = build_networks(config, inputs.NUM_CLASSES)
    step = compiled(functools.partial(train_step, networks=networks, config=config, optimizer=keep))
    batch = inputs.training_batch(0, tuple(SIZES), SIZES)
    after, metrics = step(state.replace(optimizer_state=state.params), batch)
    training = peer(config, params)
    for name, loss in training.step(training.place(batch)).items():
        np.testing.assert_allclose(float(loss), float(metrics[name]), rtol=1e-4, err_msg=name)
    gradients = after.optimizer_state
    found = {name: value.grad.numpy() for name, value in training.networks["segmenter"].named_parameters()}
    assert_close(found, theirs(gradients["segmenter"]))
    for name in ("global", "semantic"):
        for layer, leaves in gradients[f"{name}_discriminator"].items():
            bias = training.networks[name].get_submodule(layer).bias
            assert inputs.relative_difference(bias.grad.numpy(), leaves["bias"]) < 1e-4


def test_updates_equal_ours():
    config = make_config()
    config.optimizer.update(clip_norm=50.0, weight_decay=0.1)
    params = parameters(config)
    training, optimizer = peer(config, params), make_optimizer(config)
    ours = {"segmenter": params}
    state = optimizer.init(ours)
    update = compiled(optimizer.update)
    for size in (1.0, 0.01):  # Of the gradients: the first ones are clipped.
        gradients = jax.tree_util.tree_map_with_path(
            lambda path, leaf, size=size: size * inputs.draws(f"{path} {size}").standard_normal(leaf.shape, np.float32),
            params,
        )
        arrays = tensors(gradients)
        for name, value in training.networks["segmenter"].named_parameters():
            value.grad = torch.empty_like(value).copy_(arrays[name])  # In the memory format of the weights.
        training.update()
        updates, state = update({"segmenter": gradients}, state, ours)
        ours = jax.tree.map(np.asarray, optax.apply_updates(ours, updates))
    expected, first = theirs(ours["segmenter"]), theirs(params)
    for name, value in training.networks["segmenter"].named_parameters():
        change = value.detach().numpy() - first[name]
        np.testing.assert_allclose(change, expected[name] - first[name], rtol=1e-3, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("key", "value"), [("head", "linear"), ("registers", 4), ("frozen_blocks", 1), ("stochastic_depth", 0.1)]
)
def test_unknown_settings_are_errors(key, value):
    config = make_config()
    config.model[key] = value
    with pytest.raises(ValueError, match=rf"model\.{key}"):
        torch_training.Training(config, 3, torch_training.Setting.parse("plain"), torch.device("cpu"))
