import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ass_jax.models.normalisation import BatchNorm
from ass_jax.ops import normalisation


@pytest.fixture
def variables():
    values = np.random.default_rng(0).uniform(0.5, 1.5, (4, 3)).astype(np.float32)
    return {
        "params": {"scale": values[0], "bias": values[1]},
        "batch_stats": {"mean": values[2], "var": values[3]},
    }


@pytest.fixture
def x():
    return np.random.default_rng(1).normal(3.0, 2.0, (2, 3, 5, 3)).astype(np.float32)


def test_batch_statistics_by_hand(variables, x):
    norm = BatchNorm(use_running_average=False)
    found, updated = norm.apply(variables, x, mutable=["batch_stats"])
    values = x.astype(np.float64).reshape(-1, 3)
    scale, offset = variables["params"]["scale"], variables["params"]["bias"]
    expected = (x - values.mean(0)) / np.sqrt(values.var(0) + 1e-5) * scale + offset
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    old, new = variables["batch_stats"], updated["batch_stats"]
    np.testing.assert_allclose(new["mean"], 0.9 * old["mean"] + 0.1 * values.mean(0), rtol=1e-6)
    # Unbiased: 30 values a channel, 29 degrees of freedom.
    np.testing.assert_allclose(new["var"], 0.9 * old["var"] + 0.1 * values.var(0, ddof=1), rtol=1e-5)


def test_running_statistics_are_used_and_kept(variables, x):
    found, updated = BatchNorm(use_running_average=True).apply(variables, x, mutable=["batch_stats"])
    mean, variance = variables["batch_stats"]["mean"], variables["batch_stats"]["var"]
    scale, offset = variables["params"]["scale"], variables["params"]["bias"]
    np.testing.assert_allclose(found, (x - mean) / np.sqrt(variance + 1e-5) * scale + offset, rtol=1e-5, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, updated["batch_stats"], variables["batch_stats"])


def test_values_and_gradients_are_those_of_flax(variables, x):
    def loss(norm, params, x):
        y, _ = norm.apply(variables | {"params": params}, x, mutable=["batch_stats"])
        return jnp.sum(jnp.sin(y))

    ours, theirs = BatchNorm(use_running_average=False), nn.BatchNorm(use_running_average=False, epsilon=1e-5)
    for wanted in (0, 1):
        gradients = [jax.grad(loss, argnums=1 + wanted)(norm, variables["params"], x) for norm in (ours, theirs)]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *gradients)


def test_a_channel_that_is_the_same_everywhere_stays_finite(variables):
    x = np.full((1, 1, 1, 3), 1000.1, np.float32)
    norm = BatchNorm(use_running_average=False)
    found, updated = norm.apply(variables, x, mutable=["batch_stats"])
    np.testing.assert_allclose(found, np.broadcast_to(variables["params"]["bias"], found.shape), atol=1e-3)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(updated))


def test_result_is_of_the_compute_type(variables, x):
    found = BatchNorm(use_running_average=True, dtype=jnp.bfloat16).apply(variables, x.astype(jnp.bfloat16))
    assert found.dtype == jnp.bfloat16


@pytest.mark.parametrize("running", [False, True])
def test_rectified_values_and_gradients_are_those_of_relu_after_it(variables, x, running):
    def loss(apply, params, x):
        y, _ = apply(variables | {"params": params}, x, mutable=["batch_stats"])
        return jnp.sum(jnp.sin(y))

    if running:
        x[0, 0, 0] = variables["batch_stats"]["mean"]
        variables["params"]["bias"] = np.zeros(3, np.float32)  # So that some results are exactly 0.
    plain = BatchNorm(use_running_average=running)
    ours = BatchNorm(use_running_average=running, relu=True).apply

    def theirs(*arguments, **settings):
        y, updated = plain.apply(*arguments, **settings)
        return nn.relu(y), updated

    y, _ = ours(variables, x, mutable=["batch_stats"])
    assert 0.0 < np.mean(y == 0.0) < 1.0
    found, expected = (
        jax.value_and_grad(loss, argnums=(1, 2))(apply, variables["params"], x) for apply in (ours, theirs)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)


@pytest.fixture
def matrix():
    return np.random.default_rng(2).normal(size=(2, 3)).astype(np.float32)


def applied(norm, variables, x, matrix):
    """Returns the result, and what becomes of the running statistics."""
    return norm.apply(variables, x, matrix, mutable=["batch_stats"])


def first_multiplied(norm, variables, x, matrix):
    return norm.apply(variables, x @ matrix.astype(x.dtype), mutable=["batch_stats"])


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("relu", [False, True])
def test_a_product_is_normalised_as_if_it_had_been_multiplied_before(variables, x, matrix, running, relu):
    norm = BatchNorm(use_running_average=running, relu=relu)

    def loss(way, params, x, matrix):
        y, updated = way(norm, variables | {"params": params}, x, matrix)
        return jnp.sum(jnp.sin(y)), (y, updated)

    found, expected = (
        jax.value_and_grad(loss, argnums=(1, 2, 3), has_aux=True)(way, variables["params"], x[..., :2], matrix)
        for way in (applied, first_multiplied)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-4), found, expected)


def test_a_product_of_bfloat16_keeps_its_precision(variables, x, matrix):
    norm = BatchNorm(use_running_average=False, dtype=jnp.bfloat16)
    precise, _ = first_multiplied(BatchNorm(use_running_average=False), variables, x[..., :2], matrix)
    rounded = jnp.array(x[..., :2], jnp.bfloat16)
    found, plain = (way(norm, variables, rounded, matrix)[0] for way in (applied, first_multiplied))
    assert found.dtype == jnp.bfloat16
    errors = [np.sqrt(np.mean(np.square(y.astype(np.float32) - precise))) for y in (found, plain)]
    assert errors[0] < 1.5 * errors[1] < 0.01


def test_gradients_of_a_product_of_bfloat16(variables, x, matrix):
    def gradients(dtype):
        def loss(x, matrix, params):
            norm = BatchNorm(use_running_average=False, dtype=dtype)
            return jnp.sum(jnp.sin(applied(norm, variables | {"params": params}, x, matrix)[0].astype(jnp.float32)))

        return jax.grad(loss, (0, 1, 2))(jnp.array(x[..., :2], dtype), matrix, variables["params"])

    half = jax.tree.leaves(gradients(jnp.bfloat16))
    for found, expected in zip(half, jax.tree.leaves(gradients(jnp.float32)), strict=True):
        np.testing.assert_allclose(np.asarray(found, np.float32), expected, atol=0.05 * np.abs(expected).max())


def test_a_channel_of_a_product_that_is_the_same_everywhere_stays_finite(variables, matrix):
    x = np.full((1, 1, 7, 2), 1000.1, np.float32)  # So many that rounding makes a variance negative.
    found, updated = applied(BatchNorm(use_running_average=False), variables, x, matrix)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((found, updated)))


def test_a_product_is_not_read_for_its_statistics(variables, x, matrix):
    """Nothing but the affine map takes up the product, of which there is one forward."""
    norm = BatchNorm(use_running_average=False)
    text = str(jax.make_jaxpr(lambda x: applied(norm, variables, x, matrix)[0])(x[..., :2]))
    product = re.search(r"(\w+):f32\[2,3,5,3\] = dot_general", text)[1]
    assert len(re.findall(rf"\b{product}\b", text)) == 2  # Where it is made, and where the offset is added.


def test_a_gpu_sums_values_and_squares_in_one_reduction(variables, x):
    norm = BatchNorm(use_running_average=False)
    forward = jax.jit(lambda x: norm.apply(variables, x, mutable=["batch_stats"]))
    counts = {
        platform: forward.trace(x).lower(lowering_platforms=(platform,)).as_text().count("stablehlo.reduce(")
        for platform in ("cpu", "cuda")
    }
    assert counts == {"cpu": 2, "cuda": 1}


def test_pairs_are_summed_as_each_alone(x):
    pairs = normalisation._in_pairs(x, jnp.square(x))
    for found, values in zip(pairs, (x, np.square(x)), strict=True):
        np.testing.assert_allclose(found, values.sum((0, 1, 2)), rtol=1e-5)
