"""Steps of ASS+: the mixed stream, its weight, and the teacher's labels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ass_jax.method import train_step
from ass_jax.method.losses import IGNORED
from ass_jax.models import preprocess
from ass_jax.runtime.sharding import global_batch, make_mesh, replicated
from tests.helpers.small_steps import (
    CLASSES,
    COUNTS,
    SIZES,
    assert_trees_equal,
    jit,
    largest_error,
    make_batch,
    make_config,
    make_first,
    make_networks,
    make_step,
)

VARIANTS = ("teacher", "ass_plus")
THRESHOLD = 0.9  # The first teacher is more confident than this on some pixels and less on others.


def plus_config(variant="ass_plus", **settings):
    config = make_config(variant)
    config.teacher.threshold = THRESHOLD
    config.update_from_flattened_dict(settings)
    return config


@functools.cache
def first_state(variant="ass_plus"):
    """Returns a first state whose average differs from the segmenter and is more confident than an untrained one."""
    state = make_first(plus_config(variant))
    random = np.random.default_rng(5)
    average = jax.tree.map(lambda leaf: (leaf * random.uniform(0.5, 2, leaf.shape)).astype(np.float32), state.average)
    average["params"]["classifier"] = jax.tree.map(lambda leaf: 4 * leaf, average["params"]["classifier"])
    return state.replace(average=average, step=np.int32(3))


@functools.cache
def compiled_step(variant):
    return jit(make_step(plus_config(variant)))


@functools.cache
def trained(variant):
    """Returns state and metrics after each of three steps on one device."""
    found = [(first_state(variant), None)]
    for seed in range(3):
        found.append(compiled_step(variant)(found[-1][0], make_batch(seed=seed)))
    return found[1:]


def with_teacher(state, batch, config, mesh=None):
    networks = make_networks(config)
    return train_step.add_mixed(state, batch, networks, config, mesh)


@functools.cache
def compiled_teacher(seed=0):
    """Returns what the teacher adds to a batch, compiled."""
    return jit(functools.partial(with_teacher, config=plus_config(seed=seed)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_four_devices_equal_one(variant):
    """To 1e-5 of each leaf's norm: parameters, statistics, optimisers and the average."""
    mesh = make_mesh(COUNTS.values())
    assert mesh.size == 4
    step = jit(make_step(plus_config(variant), mesh), out_shardings=replicated(mesh))
    state = jax.device_put(first_state(variant), replicated(mesh))
    for seed, (expected_state, expected_metrics) in enumerate(trained(variant)):
        state, metrics = step(state, global_batch(make_batch(seed=seed), mesh))
        assert metrics.keys() == expected_metrics.keys()
        for name, value in metrics.items():
            np.testing.assert_allclose(value, expected_metrics[name], rtol=1e-5, err_msg=name)
        assert largest_error(state, expected_state) < 1e-5
    assert largest_error(first_state(variant).average, state.average) > 1e-2


def test_four_devices_mix_the_images_of_one():
    mesh = make_mesh(COUNTS.values())
    streams, metrics = compiled_teacher()(first_state(), make_batch())
    on_four = jit(functools.partial(with_teacher, config=plus_config(), mesh=mesh), out_shardings=replicated(mesh))
    state = jax.device_put(first_state(), replicated(mesh))
    found, found_metrics = jax.device_get(on_four(state, global_batch(make_batch(), mesh)))
    assert found["mixed"]["image"].shape == (COUNTS["unlabelled"], *SIZES["unlabelled"], 3)
    np.testing.assert_allclose(found["mixed"]["image"], streams["mixed"]["image"], atol=1e-2)
    np.testing.assert_array_equal(found["mixed"]["label"], streams["mixed"]["label"])
    np.testing.assert_allclose(found["mixed"]["weight"], streams["mixed"]["weight"], rtol=1e-5)
    np.testing.assert_array_equal(found["unlabelled"]["pseudo_label"], streams["unlabelled"]["pseudo_label"])
    assert found_metrics["teacher/confident"] == pytest.approx(float(metrics["teacher/confident"]))


def test_mixed_images_depend_on_seed_and_step():
    """The same step and seed give the same mixture; another step or seed gives another one."""
    state, batch = first_state(), make_batch()
    one, again, later, other = (
        jax.device_get(compiled_teacher(seed)(state.replace(step=np.int32(step)), batch)[0]["mixed"])
        for seed, step in ((0, 3), (0, 3), (0, 4), (1, 3))
    )
    assert_trees_equal(one, again)
    for different in (later, other):
        assert (np.abs(one["image"] - different["image"]).max(axis=(1, 2, 3)) > 1).all()


def test_teacher_sees_the_unlabelled_images_as_evaluation_does():
    config, state, batch = plus_config(), first_state(), make_batch()
    streams, metrics = compiled_teacher()(state, batch)
    networks = make_networks(config)
    images = preprocess.normalise(batch["unlabelled"]["image"], config)
    _, logits = jit(functools.partial(networks.segmenter.apply, train=False))(state.average, images)
    scores = jit(functools.partial(train_step.resize_bilinear, size=SIZES["unlabelled"]))(logits)
    probabilities = np.asarray(jax.nn.softmax(scores))
    confident = probabilities.max(-1) >= THRESHOLD
    assert 0.05 < confident.mean() < 0.95
    expected = np.where(confident, probabilities.argmax(-1), IGNORED)
    assert (np.asarray(streams["unlabelled"]["pseudo_label"]) == expected).mean() > 0.999  # Up to rounding.
    assert metrics["teacher/confident"] == pytest.approx(confident.mean(), rel=1e-3)
    np.testing.assert_array_equal(streams["unlabelled"]["image"], batch["unlabelled"]["image"])
    for stream in ("source", "labelled"):
        assert_trees_equal(streams[stream], batch[stream])


def test_no_gradient_reaches_the_teacher():
    state = first_state()

    def total(average, batch):
        streams, metrics = with_teacher(state.replace(average=average), batch, plus_config())
        mixed = streams["mixed"]
        return jnp.sum(mixed["image"]) + jnp.sum(mixed["weight"] * mixed["label"]) + metrics["teacher/confident"]

    gradient = jit(jax.grad(total))(state.average, make_batch())
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(gradient))


def test_loss_weighs_the_mixed_images_and_their_pixels():
    config = plus_config(**{"teacher.mixed_weight": 0.25})
    random = np.random.default_rng(0)
    maps, batch, expected = {}, {}, {}
    for stream in ("source", "labelled", "mixed"):
        scores = random.normal(size=(2, 4, 6, CLASSES)).astype(np.float32)
        label, weight = random.integers(0, CLASSES, (2, 4, 6)), random.uniform(size=(2, 4, 6)).astype(np.float32)
        maps[stream], batch[stream] = {"scores": scores}, {"label": label}
        if stream == "mixed":
            batch[stream]["weight"] = weight
        losses = []
        for place in np.ndindex(label.shape):
            loss = np.log(np.exp(scores[place]).sum()) - scores[place][label[place]]
            losses.append(loss * (weight[place] if stream == "mixed" else 1))
        expected[f"loss/segmentation_{stream}"] = np.mean(losses)
    total, metrics = train_step._segmentation_terms(maps, batch, config)
    assert metrics == pytest.approx(expected, rel=1e-5)
    source, labelled, mixed = expected.values()
    assert total == pytest.approx(source + labelled + 0.25 * mixed, rel=1e-5)


def test_mixed_images_are_trained_on():
    """The weight of the mixed loss changes the segmenter's update, but not the loss itself."""
    state, batch = first_state("teacher"), make_batch()
    found, metrics = trained("teacher")[0]
    assert metrics["loss/segmentation_mixed"] > 0
    assert 0 < metrics["teacher/confident"] < 1
    doubled, same = jit(make_step(plus_config("teacher", **{"teacher.mixed_weight": 2.0})))(state, batch)
    assert same["loss/segmentation_mixed"] == pytest.approx(float(metrics["loss/segmentation_mixed"]), rel=1e-5)
    assert largest_error(doubled.params, found.params) > 1e-3


def test_teacher_follows_after_the_step():
    """At steps 3, 4 and 5 the decay is 3/4, 4/5 and 5/6, below its limit of 0.9."""
    before = first_state().average
    for kept, (state, _) in zip((3 / 4, 4 / 5, 5 / 6), trained("ass_plus"), strict=True):
        new = {"params": state.params["segmenter"], "batch_stats": state.batch_stats}
        expected = jax.tree.map(
            lambda old, now, kept=kept: kept * np.float64(old) + (1 - kept) * np.float64(now), before, new
        )
        assert largest_error(state.average, expected) < 1e-6
        before = state.average


def test_non_finite_step_leaves_the_teacher_unchanged():
    state = first_state("teacher")
    params = jax.tree.map(np.copy, state.params)
    params["segmenter"]["classifier"]["dilation6"]["bias"][0] = np.nan
    state = state.replace(params=params)
    found, metrics = compiled_step("teacher")(state, make_batch())
    assert metrics["skipped"] == 1
    assert np.isnan(metrics["loss/segmentation_mixed"])
    assert_trees_equal(found, state.replace(step=state.step + 1))
