"""Checks schedules and updates against PyTorch's formulas of SGD, Adam and AdamW, worked out in NumPy."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from ass_jax.method.optimizers import make_optimizer, make_schedules, segmenter_groups
from ass_jax.method.state import abstract_segmenter
from ass_jax.models import build_networks
from configs.base import default_config

GROUPS = {
    "backbone": {
        "stem": {"kernel": "backbone"},
        "stem_norm": {"scale": "frozen", "bias": "frozen"},
        "stage1_block1": {"expand_norm": {"scale": "frozen", "bias": "frozen"}, "expand": {"kernel": "backbone"}},
    },
    "classifier": {"dilation6": {"kernel": "classifier", "bias": "classifier"}},
}
# All numbers differ, so that mixing up any two of them shows.
SETTINGS = {
    "learning_rate": 0.1,
    "classifier_factor": 10.0,
    "momentum": 0.7,
    "weight_decay": 0.05,
    "decay_steps": 8,
    "decay_power": 0.9,
}


def make_config(**optimizer) -> ConfigDict:
    config = default_config()
    config.optimizer.update(SETTINGS | optimizer)
    config.discriminator.update(global_learning_rate=0.03, semantic_learning_rate=0.07, betas=(0.8, 0.95))
    return config


def random_params(seed: int) -> dict:
    """Returns arrays for the segmenter of `GROUPS` and both discriminators."""
    random = np.random.default_rng(seed)

    def draw(path: tuple, _: str) -> np.ndarray:
        return random.normal(size=(2, 3) if path[-1].key == "kernel" else (3,)).astype(np.float32)

    discriminator = {"hidden": {"kernel": "", "bias": ""}}
    names = {"segmenter": GROUPS, "global_discriminator": discriminator, "semantic_discriminator": discriminator}
    return jax.tree_util.tree_map_with_path(draw, names)


def updates_of(config: ConfigDict, params: dict, gradients: list[dict]) -> list[dict]:
    """Returns the parameters after each step."""
    optimizer = make_optimizer(config)

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def step(params: dict, state: tuple, gradients: dict) -> tuple[dict, tuple]:
        updates, state = optimizer.update(gradients, state, params)
        return jax.tree.map(lambda leaf, update: leaf + update, params, updates), state

    state, found = jax.jit(optimizer.init)(params), []
    for gradient in gradients:
        params, state = step(params, state, gradient)
        found.append(params)
    return found


def sgd(params: np.ndarray, gradients: list[np.ndarray], rate: float, decay: float) -> list[np.ndarray]:
    """Follows PyTorch: adds the decay to the gradient, the sum to the momentum, and scales by the rate."""
    momentum, found = 0.0, []
    for step, gradient in enumerate(gradients):
        momentum = 0.7 * momentum + gradient + decay * params
        params = params - rate * (1 - step / 8) ** 0.9 * momentum
        found.append(params)
    return found


def adam(params: np.ndarray, gradients: list[np.ndarray], rate: float, decay: float = 0.0) -> list[np.ndarray]:
    """Follows PyTorch's AdamW; without decay, that is Adam."""
    mean, square, found = 0.0, 0.0, []
    for step, gradient in enumerate(gradients):
        mean = 0.8 * mean + 0.2 * gradient
        square = 0.95 * square + 0.05 * gradient**2
        corrected = mean / (1 - 0.8 ** (step + 1)), square / (1 - 0.95 ** (step + 1))
        change = corrected[0] / (np.sqrt(corrected[1]) + 1e-8) + decay * params
        params = params - rate * (1 - step / 8) ** 0.9 * change
        found.append(params)
    return found


def test_schedules_by_hand():
    schedules = make_schedules(make_config(decay_power=0.5))
    rates = {"backbone": 0.1, "classifier": 1.0, "global_discriminator": 0.03, "semantic_discriminator": 0.07}
    assert schedules.keys() == rates.keys()
    for group, rate in rates.items():
        assert schedules[group](0) == pytest.approx(rate)
        assert schedules[group](6) == pytest.approx(rate / 2)  # A quarter is left.
        assert schedules[group](8) == schedules[group](9) == 0


def test_paper_schedule():
    """2.5e-4 (1 - step / 250000) ** 0.9, ten times as much for the classifier."""
    schedules = make_schedules(default_config())
    assert schedules["backbone"](0) == pytest.approx(2.5e-4)
    assert schedules["backbone"](150_000) == pytest.approx(2.5e-4 * 0.4**0.9)
    assert schedules["classifier"](150_000) == pytest.approx(2.5e-3 * 0.4**0.9)
    assert schedules["global_discriminator"](150_000) == pytest.approx(1e-4 * 0.4**0.9)


def test_warm_up_by_hand():
    schedules = make_schedules(make_config(decay_power=1.0, warmup_steps=4))
    for step, share in enumerate((1 / 4, 2 / 4, 3 / 4, 1, 1, 1)):
        assert schedules["backbone"](step) == pytest.approx(0.1 * share * (1 - step / 8))
        assert schedules["global_discriminator"](step) == pytest.approx(0.03 * share * (1 - step / 8))


def test_groups():
    model = make_config().model
    assert segmenter_groups(GROUPS, model) == GROUPS
    model.train_norm_affine = True
    trained = segmenter_groups(GROUPS, model)
    assert set(jax.tree.leaves(trained["backbone"])) == {"backbone"}
    assert set(jax.tree.leaves(trained["classifier"])) == {"classifier"}


@pytest.mark.parametrize(
    ("backbone", "layers"),
    [
        ("resnet_tiny", {"stem": 1, "stage1_block1": 1, "stage2_block1": 2, "stage4_block1": 4}),
        ("efficientnet_lite0", {"stem": 1, "stage2_block2": 2, "stage7_block1": 7}),
        ("vgg16", {"block1_conv2": 1, "block5_conv3": 5, "head_conv2": 9}),
    ],
)
def test_frozen_blocks(backbone, layers):
    """A number of blocks freezes these and what lies before them; -1 all of the backbone, and nothing else."""
    config = make_config()
    config.model.update(backbone=backbone, train_norm_affine=True)
    params = abstract_segmenter(build_networks(config, 3), config)["params"]
    assert layers.keys() <= params["backbone"].keys()
    for frozen in (0, 1, 2, 4, 5, -1):
        config.model.frozen_blocks = frozen
        groups = segmenter_groups(params, config.model)
        for layer, number in layers.items():
            expected = "frozen" if number <= frozen or frozen == -1 else "backbone"
            assert set(jax.tree.leaves(groups["backbone"][layer])) == {expected}, (layer, frozen)
        assert set(jax.tree.leaves(groups["classifier"])) == {"classifier"}


@pytest.mark.parametrize("decay_biases", [True, False])
@pytest.mark.parametrize("train_norm_affine", [True, False])
@pytest.mark.parametrize(("kind", "descend"), [("sgd", sgd), ("adamw", adam)])
def test_three_steps_by_hand(kind, descend, train_norm_affine, decay_biases):
    config = make_config(kind=kind, betas=(0.8, 0.95), decay_biases=decay_biases)
    config.model.train_norm_affine = train_norm_affine
    params, gradients = random_params(0), [random_params(seed) for seed in (1, 2, 3)]

    def expected(path: tuple, leaf: np.ndarray, *gradients: np.ndarray) -> list[np.ndarray]:
        names = [entry.key for entry in path]
        if names[0] != "segmenter":
            return adam(leaf, gradients, {"global_discriminator": 0.03, "semantic_discriminator": 0.07}[names[0]])
        if "norm" in names[-2] and not train_norm_affine:
            return [leaf] * 3
        decayed = decay_biases or names[-1] == "kernel"
        return descend(leaf, gradients, {"backbone": 0.1, "classifier": 1.0}[names[1]], 0.05 if decayed else 0.0)

    steps = jax.tree_util.tree_map_with_path(expected, params, *gradients)
    found = jax.tree.map(lambda *leaves: list(leaves), *updates_of(config, params, gradients))
    assert jax.tree.structure(found) == jax.tree.structure(steps)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), found, steps)


def test_without_gradient_only_decay_moves_and_frozen_parameters_stay():
    params = random_params(0)
    (found,) = updates_of(make_config(), params, [jax.tree.map(np.zeros_like, params)])
    for path, after in jax.tree_util.tree_leaves_with_path(found):
        before = functools.reduce(lambda tree, entry: tree[entry.key], path, params)
        names = [entry.key for entry in path]
        factor = 1.0
        if names[0] == "segmenter" and "norm" not in names[-2]:
            factor = 1 - {"backbone": 0.1, "classifier": 1.0}[names[1]] * 0.05
        np.testing.assert_allclose(after, factor * before, rtol=1e-6)
        if factor == 1.0:
            np.testing.assert_array_equal(after, before)


def test_clip_scales_the_segmenter_alone():
    params = {
        "segmenter": {"backbone": {"conv": {"kernel": np.zeros((1, 2), np.float32)}}, "classifier": {"kernel": 0.0}},
        "semantic_discriminator": {"kernel": np.zeros(2, np.float32)},
    }
    gradients = jax.tree.map(np.zeros_like, params)
    gradients["segmenter"]["backbone"]["conv"]["kernel"] = np.array([[3, 0]], np.float32)
    gradients["segmenter"]["classifier"]["kernel"] = np.float32(4)
    gradients["semantic_discriminator"]["kernel"] = np.array([100, -100], np.float32)

    # The norm over all groups is 5: a largest norm of 2 scales by 2/5, one of 5 or more changes nothing.
    discriminators = []
    for clip_norm, factor in ((2.0, 0.4), (6.0, 1.0), (0.0, 1.0)):
        found, later = updates_of(make_config(clip_norm=clip_norm), params, [gradients] * 2)
        backbone, classifier = found["segmenter"]["backbone"]["conv"]["kernel"], found["segmenter"]["classifier"]
        np.testing.assert_allclose(backbone, [[-0.1 * 3 * factor, 0]], rtol=1e-6)
        np.testing.assert_allclose(classifier["kernel"], -1.0 * 4 * factor, rtol=1e-6)
        # Adam's first step is the rate, whatever the gradient's size.
        np.testing.assert_allclose(found["semantic_discriminator"]["kernel"], [-0.07, 0.07], rtol=1e-5)
        discriminators.append(later["semantic_discriminator"]["kernel"])
    np.testing.assert_array_equal(discriminators[0], discriminators[2])


def test_discriminators_need_not_exist():
    params, gradients = random_params(0), random_params(1)
    (both,) = updates_of(make_config(clip_norm=1.0), params, [gradients])
    (alone,) = updates_of(
        make_config(clip_norm=1.0), {"segmenter": params["segmenter"]}, [{"segmenter": gradients["segmenter"]}]
    )
    assert alone.keys() == {"segmenter"}
    jax.tree.map(np.testing.assert_array_equal, alone["segmenter"], both["segmenter"])


def test_donated_buffers_are_not_copied():
    params = {"segmenter": {"backbone": {"conv": {"kernel": np.zeros((64, 48), np.float32)}}}}
    optimizer = make_optimizer(make_config())

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: dict, state: tuple, gradients: dict, finite: jax.Array) -> tuple[dict, tuple]:
        updates, state = optimizer.update(gradients, state, params, finite=finite)
        return jax.tree.map(lambda leaf, update: jnp.where(finite, leaf + update, leaf), params, updates), state

    text = step.lower(params, optimizer.init(params), params, np.bool_(True)).compile().as_text()
    assert re.search(r"= f32\[64,48\]\S* fusion\(", text)
    assert not re.search(r"= f32\[64,48\]\S* copy\(", text)
