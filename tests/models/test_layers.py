import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ass_jax.models.layers import Conv, conv_bn
from ass_jax.ops import reference


def test_conv_adds_its_bias_and_computes_in_its_type(random_variables):
    x = np.random.default_rng(0).normal(size=(2, 5, 7, 3)).astype(np.float32)
    module = Conv(4, 3, stride=2, use_bias=True, dtype=jnp.bfloat16)
    params = random_variables(module, x)["params"]
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype.name), params) == {
        "kernel": ((3, 3, 3, 4), "float32"),
        "bias": ((4,), "float32"),
    }
    y = jax.jit(module.apply)({"params": params}, x)
    assert y.dtype == jnp.bfloat16
    expected = reference.conv2d(x, params["kernel"], stride=2) + params["bias"]
    np.testing.assert_allclose(np.asarray(y, np.float32), expected, atol=0.05)


class Layer(nn.Module):
    """A network of one layer; 1x1 convolutions to four times as many features are normalised from moments."""

    features: int = 3
    train: bool = True
    relu: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        return conv_bn(x, self.features, relu=self.relu, train=self.train, dtype=self.dtype, name="layer")


class Plain(nn.Module):
    """The same layer, built from Flax's layers."""

    features: int
    relu: bool

    @nn.compact
    def __call__(self, x):
        y = nn.Conv(self.features, (1, 1), use_bias=False, name="layer")(x)
        y = nn.BatchNorm(use_running_average=False, epsilon=1e-5, name="layer_norm")(y)
        return nn.relu(y) if self.relu else y


@pytest.fixture(params=[3, 12])
def features(request):
    return request.param


@pytest.fixture
def x():
    return np.random.default_rng(1).normal(3.0, 2.0, (2, 3, 5, 3)).astype(np.float32)


@pytest.fixture
def variables(random_variables, features, x):
    return random_variables(Layer(features), x)


def apply(module, variables, x):
    return module.apply(variables, x, mutable=["batch_stats"])


def by_hand(variables, x):
    """Returns the convolution's result in float64, and scale and bias."""
    params = variables["params"]
    y = x.astype(np.float64) @ params["layer"]["kernel"][0, 0]
    return y, params["layer_norm"]["scale"], params["layer_norm"]["bias"]


def test_batch_statistics_by_hand(features, variables, x):
    found, updated = apply(Layer(features), variables, x)
    y, scale, bias = by_hand(variables, x)
    values = y.reshape(-1, features)
    expected = (y - values.mean(0)) / np.sqrt(values.var(0) + 1e-5) * scale + bias
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    old, new = variables["batch_stats"]["layer_norm"], updated["batch_stats"]["layer_norm"]
    np.testing.assert_allclose(new["mean"], 0.9 * old["mean"] + 0.1 * values.mean(0), rtol=1e-5, atol=1e-6)
    # Unbiased: 30 values a channel, 29 degrees of freedom.
    np.testing.assert_allclose(new["var"], 0.9 * old["var"] + 0.1 * values.var(0, ddof=1), rtol=1e-5)


@pytest.mark.parametrize("relu", [False, True])
def test_running_statistics_are_used_and_stay(features, variables, x, relu):
    found, updated = apply(Layer(features, train=False, relu=relu), variables, x)
    y, scale, bias = by_hand(variables, x)
    running = variables["batch_stats"]["layer_norm"]
    expected = (y - running["mean"]) / np.sqrt(running["var"] + 1e-5) * scale + bias
    np.testing.assert_allclose(found, np.maximum(expected, 0) if relu else expected, rtol=1e-5, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, updated["batch_stats"], variables["batch_stats"])


@pytest.mark.parametrize("relu", [False, True])
def test_values_and_gradients_equal_those_of_flax(features, variables, x, relu):
    def loss(module, params, x):
        return jnp.sum(jnp.sin(apply(module, variables | {"params": params}, x)[0]))

    gradients = [
        jax.jit(jax.value_and_grad(loss, argnums=(1, 2)), static_argnums=0)(module, variables["params"], x)
        for module in (Layer(features, relu=relu), Plain(features, relu))
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-4), *gradients)


def test_constant_channel_stays_finite(features, variables):
    x = np.full((1, 1, 7, 3), 1000.1, np.float32)  # With seven cells, rounding makes a variance negative.
    _, updated = found = apply(Layer(features), variables, x)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    assert updated["batch_stats"]["layer_norm"]["var"].min() >= 0


def test_bfloat16_loses_no_more_than_its_rounding(features, variables, x):
    precise, statistics = apply(Layer(features), variables, x)
    rounded = jnp.array(x, jnp.bfloat16)
    found, updated = apply(Layer(features, dtype=jnp.bfloat16), variables, rounded)
    assert found.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(updated)} == {jnp.dtype("float32")}
    assert np.sqrt(np.mean(np.square(found.astype(np.float32) - precise))) < 0.01
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=0.02), updated, statistics)


def test_a_new_layer_has_neutral_statistics(x):
    variables = Layer().init(jax.random.key(0), x)
    assert jax.tree.map(np.unique, variables["params"]["layer_norm"]) == {"scale": [1], "bias": [0]}
    assert jax.tree.map(np.unique, variables["batch_stats"]["layer_norm"]) == {"mean": [0], "var": [1]}
