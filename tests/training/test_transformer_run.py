"""A Vision Transformer from a weight file of Hugging Face's layout to label maps, and its steps on several devices."""

import functools
import itertools

import jax
import numpy as np
import pytest
import safetensors.numpy
from jax.experimental.compilation_cache import compilation_cache

from ass_jax.inference.predictor import Predictor, open_predictor
from ass_jax.method.optimizers import make_optimizer, segmenter_groups
from ass_jax.method.state import abstract_segmenter, create_state
from ass_jax.method.train_step import train_step
from ass_jax.models import build_networks, deeplab
from ass_jax.runtime import compilation
from ass_jax.runtime.sharding import global_batch, make_mesh, replicated
from ass_jax.weights.export import huggingface_dict, write
from ass_jax.weights.trained_model import Trained, open_run
from tests.helpers import quick_compilation
from tests.helpers.small_runs import CLASSES, configuration, example, run
from tests.helpers.small_steps import largest_error

QUICK = compilation.options_of_one_use()


@pytest.fixture(autouse=True)
def small_transformer(monkeypatch):
    tiny = functools.partial(deeplab._vit, width=8, depth=2, heads=2, grid=3)
    monkeypatch.setitem(deeplab.BACKBONES, "vit_tiny", tiny)
    for option, value in quick_compilation.OPTIONS.items():
        monkeypatch.setitem(compilation._STEP_OPTIONS_ON_CPU, option, value)


@pytest.fixture
def shared_programs(tmp_path):
    """Lets the runs of a test share compiled programs."""
    settings = {"compilation_cache_dir": str(tmp_path / "programs"), "persistent_cache_min_compile_time_secs": 0.0}
    before = {name: jax.config.values[f"jax_{name}"] for name in settings}
    for name, value in settings.items():
        jax.config.update(f"jax_{name}", value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(f"jax_{name}", value)
    compilation_cache.reset_cache()


def transformer(words="teacher", **settings):
    changes = {
        "verify": "never",
        "model.backbone": "vit_tiny",
        "model.head": "multilevel",
        "model.registers": 4,
        "model.stochastic_depth": 0.3,
        "optimizer.kind": "adamw",
        "optimizer.learning_rate": 1e-3,
        "optimizer.warmup_steps": 2,
        "optimizer.decay_biases": False,
    }
    return configuration(words, **(changes | settings))


def random_segmenter(config):
    generator = np.random.default_rng(0)
    shapes = abstract_segmenter(build_networks(config, 3), config)
    variables = jax.tree.map(lambda leaf: generator.normal(0.5, 0.1, leaf.shape).astype(np.float32), shapes)
    return Trained(config, CLASSES.names, CLASSES.palette, variables)


def training_batches(start, read):
    for step in range(start, 100):
        generator = np.random.default_rng(step)
        read.append(step)
        labelled = {stream: example(generator, 2) for stream in ("source", "labelled")}
        yield labelled | {"unlabelled": {"image": example(generator, 2)["image"]}}


def stopping(read):
    """Stops a run after its third step, of which a checkpoint after every second one saves two."""
    yield from itertools.islice(training_batches(0, read), 3)
    raise StopAsyncIteration


def test_from_a_weight_file_to_label_maps(tmp_path, shared_programs):
    config, weights, read = transformer(), tmp_path / "model.safetensors", []
    arrays = huggingface_dict(random_segmenter(config))
    safetensors.numpy.save_file(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()}, weights, metadata={"format": "pt"}
    )
    config.update_from_flattened_dict(
        {"init": str(weights), "steps": 4, "checkpoint.every": 2, "model.registers": 0, "evaluation.every": 0}
    )  # The file brings the number of registers.

    # A run that is stopped after two steps and resumed equals a straight one, random branches and all.
    train = functools.partial(run, training=lambda start: training_batches(start, read))
    straight, _, _ = train(config.copy_and_resolve_references(), tmp_path / "straight")
    with pytest.raises(StopAsyncIteration):
        run(config.copy_and_resolve_references(), tmp_path / "resumed", training=lambda start: stopping(read))
    resumed, _, _ = train(config, tmp_path / "resumed")
    assert read == [*range(4), *range(3), *range(2, 4)]
    assert resumed["class_iou"] == straight["class_iou"]
    trained = open_run(tmp_path / "resumed")
    assert trained.config.model.registers == 4
    jax.tree.map(np.testing.assert_array_equal, trained.variables, open_run(tmp_path / "straight").variables)

    # Training began from the file: the backbone is near it, at a rate of 0.001.
    backbone = trained.variables["params"]["backbone"]
    kernel = arrays["encoder.layer.0.mlp.fc1.weight"].T
    assert 0 < np.abs(backbone["block1"]["mlp_hidden"]["kernel"] - kernel).max() < 0.01

    # Label maps of any size, from the run and its export.
    image = example(np.random.default_rng(5), 1)["image"][0]
    assert Predictor(trained)(image[:20, :50]).shape == (20, 50)
    write(trained, tmp_path / "export.safetensors")
    exported = open_predictor(tmp_path / "export.safetensors", config, CLASSES)
    labels, confidence = Predictor(trained).with_confidence(image)
    for found, expected in zip(exported.with_confidence(image), (labels, confidence), strict=True):
        np.testing.assert_array_equal(found, expected)
    write(trained, tmp_path / "export.jaxexport")
    found, its_confidence = open_predictor(tmp_path / "export.jaxexport", config, CLASSES).with_confidence(image)
    np.testing.assert_allclose(its_confidence, confidence, atol=1e-5)
    np.testing.assert_array_equal(found, labels)


def states(config, devices, **changes):
    """Returns the state before two steps and after them."""
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict(changes)
    networks, optimizer = build_networks(config, 3), make_optimizer(config)
    mesh = make_mesh([4], jax.devices()[:devices])
    create = functools.partial(create_state, networks=networks, optimizer=optimizer, config=config, num_classes=3)
    first = jax.jit(create, compiler_options=QUICK, out_shardings=replicated(mesh))()
    step = jax.jit(
        functools.partial(train_step, networks=networks, config=config, optimizer=optimizer, mesh=mesh),
        compiler_options=QUICK,
        out_shardings=replicated(mesh),
    )
    state = first
    for seed in range(2):
        generator = np.random.default_rng(seed)
        batch = {stream: example(generator, 4) for stream in ("source", "labelled")}
        state, metrics = step(state, global_batch(batch, mesh))
        assert not metrics["skipped"]
    return jax.device_get(first), jax.device_get(state)


def largest_change(found, expected):
    return max(
        np.abs(one - other).max() for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    )


def test_steps_on_four_devices_with_remat_and_in_bfloat16():
    """AdamW divides by the gradient's size, so that rounding moves single weights; SGD shows the gradients."""
    sgd = {"optimizer.kind": "sgd", "optimizer.learning_rate": 0.1, "optimizer.warmup_steps": 0}
    config = transformer("joint", **sgd)
    first, expected = states(config, 1)
    first, expected = first.params["segmenter"], expected.params["segmenter"]
    assert largest_change(expected, first) > 1e-2
    assert largest_error(states(config, 4)[1].params["segmenter"], expected) < 1e-5
    remat = states(config, 1, **{"model.remat": True})[1].params["segmenter"]
    assert largest_error(remat, expected) < 1e-5
    half = states(config, 1, **{"model.dtype": "bfloat16"})[1].params["segmenter"]
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {np.dtype(np.float32)}
    assert largest_change(half, expected) < 0.1 * largest_change(expected, first)
    # Random branches differ by step and seed.
    assert largest_change(states(config, 1, seed=1)[1].params["segmenter"], expected) > 1e-2


def test_biases_of_keys_stay():
    """Attention does not depend on them, and Adam would move them by the rounding of their gradients."""
    first, last = (state.params["segmenter"]["backbone"]["block1"] for state in states(transformer("joint"), 1))
    np.testing.assert_array_equal(last["key"]["bias"], first["key"]["bias"])
    assert largest_change(last["query"]["bias"], first["query"]["bias"]) > 1e-4


@pytest.mark.parametrize(("frozen", "trained"), [(1, ("block2", "output")), (-1, ())])
def test_frozen_blocks_keep_their_weights(frozen, trained):
    config = transformer("joint", **{"model.frozen_blocks": frozen})
    first, last = (state.params["segmenter"] for state in states(config, 1))
    groups = segmenter_groups(first, config.model)
    for layer, params in first["backbone"].items():
        unchanged = largest_change(params, last["backbone"][layer]) == 0
        assert unchanged == (layer not in trained), layer
        assert ({"frozen"} == set(jax.tree.leaves(groups["backbone"][layer]))) == unchanged
    assert largest_change(first["classifier"], last["classifier"]) > 1e-4
