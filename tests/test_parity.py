"""Our numbers against PyTorch's, which `benchmarks/parity/make_golden.py` wrote to `tests/golden/`."""

import functools
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ass_jax.method.class_means import class_means
from ass_jax.method.losses import domain_loss, segmentation_loss
from ass_jax.method.optimizers import make_optimizer
from ass_jax.method.state import abstract_segmenter
from ass_jax.method.train_step import train_step
from ass_jax.models import build_networks
from ass_jax.models.deeplab import Classifier
from ass_jax.models.preprocess import normalise
from ass_jax.ops import resize_bilinear
from ass_jax.runtime.compilation import options_of_steps
from ass_jax.weights.files import WeightFileError
from ass_jax.weights.names import adaptsegnet_name, efficientnet_name, find_source
from ass_jax.weights.pretrained import Pretrained, flatten, open_weights, place
from benchmarks.parity import inputs
from benchmarks.parity.inputs import relative_difference

GOLDEN = Path(__file__).parent / "golden"


def golden(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


@pytest.fixture(autouse=True)
def forget_programs():
    yield
    jax.clear_caches()  # Tests share no program, and all programs together take a gigabyte.


@pytest.fixture(scope="module")
def resnet101():
    config = inputs.forward_config()
    networks = build_networks(config, inputs.NUM_CLASSES)
    return config, networks, inputs.placed(networks, config)


@pytest.mark.parametrize("size", inputs.SIZES)
def test_forward_of_resnet101(resnet101, size):
    config, networks, variables = resnet101
    expected = golden("forward")
    images = normalise(jnp.asarray(inputs.images(size, 2, inputs.SIZES[size])), config)

    def both(variables, images):
        apply = functools.partial(networks.segmenter.apply, variables, images)
        return apply(train=True, mutable=["batch_stats"]), apply(train=False)

    (trained, updated), evaluated = jax.jit(both).lower(variables, images).compile()(variables, images)
    two_branches = Classifier(inputs.NUM_CLASSES, 2, jnp.float32)
    for mode, (features, logits) in {"train": trained, "eval": evaluated}.items():
        two = two_branches.apply({"params": variables["params"]["classifier"]}, features)
        for name, found in {
            "features": features[..., :: inputs.FEATURE_STEP],
            "logits4": logits,
            "logits2": two,
        }.items():
            assert relative_difference(found, expected[f"{size}_{mode}_{name}"]) < 1e-4, (mode, name)
    statistics = {adaptsegnet_name(path, "resnet101"): leaf for path, leaf in flatten(updated)}
    compared = [name for name in expected if name.startswith(f"{size}_train") and "running" in name]
    assert len(compared) == 4
    for name in compared:
        assert relative_difference(statistics[name.removeprefix(f"{size}_train_")], expected[name]) < 1e-4


def lite_weights(kind):
    if kind == "random":
        arrays = inputs.efficientnet_arrays()
        return Pretrained("golden", find_source(arrays), arrays, {}, {})
    pytest.importorskip("torch", minversion="2.10")
    try:
        return open_weights("efficientnet_lite0")
    except WeightFileError as error:
        if "not installed" in str(error):
            pytest.skip(str(error))
        raise


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("kind", ["random", "package"])
def test_forward_of_efficientnet(kind, stride):
    expected, config = golden("efficientnet"), inputs.efficientnet_config(stride)
    networks = build_networks(config, inputs.NUM_CLASSES)
    variables, placement = place(lite_weights(kind), abstract_segmenter(networks, config))
    assert all(path.startswith("params/classifier/") for path in placement.random)
    variables = {name: leaves["backbone"] for name, leaves in variables.items()}
    for size, mode in itertools.product(inputs.SIZES, ["train", "eval"] if kind == "random" else ["eval"]):
        images = normalise(jnp.asarray(inputs.images(size, 2, inputs.SIZES[size])), config)
        backbone = networks.segmenter.backbone
        apply = functools.partial(backbone.apply, train=mode == "train", mutable=["batch_stats"])
        features, updated = jax.jit(apply)(variables, images)
        key = f"{kind}_{size}_{stride}_{mode}"
        found = features[..., :: inputs.FEATURE_STEP // 4]
        assert relative_difference(found, expected[f"{key}_features"]) < 1e-4, key
        updated = flatten({"batch_stats": {"backbone": updated["batch_stats"]}})
        statistics = {efficientnet_name(path): leaf for path, leaf in updated}
        compared = [name for name in expected if name.startswith(f"{key}__")]
        assert len(compared) == (2 if mode == "train" else 0)
        for name in compared:
            assert relative_difference(statistics[name.removeprefix(f"{key}_")], expected[name]) < 1e-4, name


def test_path_to_the_global_discriminator():
    expected = golden("parts")
    config = inputs.training_config("ass")
    networks, state = build_networks(config, inputs.NUM_CLASSES), inputs.initial_state(config)
    scores = resize_bilinear(jnp.asarray(expected["logits"]), (65, 97))
    probabilities = jax.nn.softmax(scores)
    params = state.params["global_discriminator"]
    judged = networks.global_discriminator.apply({"params": params}, probabilities)
    assert relative_difference(scores[:, ::4, ::4], expected["scores"]) < 1e-5
    assert relative_difference(probabilities[:, ::4, ::4], expected["probabilities"]) < 1e-5
    assert relative_difference(judged, expected["judged"]) < 1e-5


def test_losses_and_class_means():
    expected = golden("parts")
    means, present = class_means(jnp.asarray(expected["features"]), expected["labels"], inputs.NUM_CLASSES)
    np.testing.assert_array_equal(present, expected["present"])
    assert not present.all()
    assert relative_difference(means, expected["means"]) < 1e-6
    scores = resize_bilinear(jnp.asarray(expected["logits"]), (65, 97))
    assert relative_difference(segmentation_loss(scores, expected["labels"]), expected["segmentation_loss"]) < 1e-6
    for domain in (0, 1):
        loss = domain_loss(jnp.asarray(expected["judged"]), domain)
        assert relative_difference(loss, expected[f"domain_loss{domain}"]) < 1e-6


@pytest.mark.parametrize("variant", inputs.VARIANTS)
def test_training(variant):
    config = inputs.training_config(variant)
    networks, state = build_networks(config, inputs.NUM_CLASSES), inputs.initial_state(config)
    step = functools.partial(train_step, networks=networks, config=config, optimizer=make_optimizer(config))
    streams = [name for name in inputs.IMAGE_SIZES if config.data.batch[name]]
    history, compiled = [], None
    for number in range(inputs.STEPS):
        batch = inputs.training_batch(number, streams, inputs.IMAGE_SIZES)
        if compiled is None:
            compiled = jax.jit(step).lower(state, batch).compile()
        state, metrics = compiled(state, batch)
        history.append(metrics)
    expected = golden(f"training_{variant}")
    losses = [name for name in expected if name.startswith("loss/")]
    assert set(losses) == {name for name in history[0] if name.startswith("loss/")}
    for name in losses:
        found = np.array([metrics[name] for metrics in history])
        np.testing.assert_allclose(found, expected[name], rtol=1e-4, err_msg=name)
    for name, values in inputs.final_samples(state, config).items():
        assert relative_difference(values, expected[name]) < 1e-3, name


@pytest.fixture(scope="module")
def whole_networks():
    config = inputs.gradient_config("resnet_tiny")
    return config, inputs.initial_state(config), golden("gradients")


# Alternates between XLA's default options and those of training, which fuse differently.
@pytest.mark.parametrize("place", range(len(inputs.GRADIENT_SIZES)))
def test_gradients_of_whole_networks(whole_networks, place):
    config, state, expected = whole_networks
    options = options_of_steps() if place % 2 else None
    gradient = jax.jit(functools.partial(inputs.gradients, config), compiler_options=options)
    batch = inputs.gradient_batch(inputs.GRADIENT_SIZES[place], int(expected["draws"][place]))
    found = inputs.named_gradients(gradient(state.params, state.batch_stats, *batch), config)
    assert set(found) == {name for name in expected if name != "draws" and not name.endswith("/largest")}
    for name, values in found.items():
        distance = np.abs(inputs.sample(values, inputs.GRADIENT_SAMPLES) - expected[name][place]).max()
        assert distance < 1e-4 * expected[f"{name}/largest"][place], name
