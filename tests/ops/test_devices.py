"""Functions that run on each device with its own images, against the same functions of the whole batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ass_jax import ops
from ass_jax.runtime.sharding import global_batch, make_mesh
from tests.helpers.small_steps import largest_error
from tests.ops.test_fast_equals_reference import CASES, draw

IMAGES = 8


def mesh_of(devices):
    return make_mesh([IMAGES], jax.devices()[:devices])


def arrays_of(channels, features, size):
    generator = np.random.default_rng(channels)

    def draw(*shape, mean=0.0):
        return generator.normal(mean, 1, shape).astype(np.float32)

    # The images differ in mean and spread: a device's own statistics are not those of all.
    x = draw(IMAGES, 5, 7, channels) * draw(IMAGES, 1, 1, 1) + draw(IMAGES, 1, 1, channels)
    layer = (
        draw(size, size, channels, features) / np.float32(size * channels**0.5),
        draw(features, mean=1),
        draw(features),
    )
    return layer, (x, draw(IMAGES, 5, 7, features))


@pytest.mark.parametrize("devices", [1, 2, 4])
@pytest.mark.parametrize(("channels", "features", "size"), [(6, 5, 3), (3, 12, 1)])  # The second from moments.
@pytest.mark.parametrize("form", ops.FORMS)
def test_batch_norm_has_the_statistics_of_all_images(form, channels, features, size, devices):
    layer, images = arrays_of(channels, features, size)

    def loss(layer, images):
        x, weights = images
        y, *statistics = ops.conv2d_batch_norm(x, *layer, relu=True)
        return ops.sum_over_devices(jnp.sum(jnp.square(y) * weights)), statistics

    def of_layer(layer, images):
        (value, statistics), gradient = jax.value_and_grad(loss, has_aux=True)(ops.as_own(layer), images)
        return value, ops.of_first_device(statistics), ops.sum_over_devices(gradient)

    def of_images(layer, images):
        return jax.grad(lambda images: loss(ops.as_own(layer), images)[0])(images)

    with ops.form(form):
        found = (
            jax.jit(ops.each_device(of_layer, mesh_of(devices)))(layer, images),
            jax.jit(ops.each_device(of_images, mesh_of(devices), images=True))(layer, images),
        )
    with ops.form("reference"):
        expected = jax.jit(of_layer)(layer, images), jax.jit(of_images)(layer, images)
    assert largest_error(found, expected) < 1e-5


@pytest.mark.parametrize("case", [case for case in CASES if case.operation != "add_relu"], ids=str)
def test_operations_trace_for_every_platform_on_each_device(case, monkeypatch):
    """All ways of an operation must agree on what differs by device, those of other platforms too."""
    if case.way:
        monkeypatch.setattr(case.way[0], "choose", lambda *_: case.way[1])
    x, *others = (jnp.asarray(array) for array in draw(case).values())

    def gradients(others, x):
        def total(x, others):
            more = [others, (6, 12, 18, 24)] if case.operation == "atrous_sum" else others
            found = getattr(ops, case.operation)(x, *more, **case.settings)
            return jnp.sum(found[0] if isinstance(found, tuple) else found)

        of_x, of_others = jax.grad(total, (0, 1))(x, others)
        return of_x + 0.0 * sum(jnp.sum(gradient) for gradient in of_others)

    def own(others, x):
        return gradients(ops.as_own(others), x)

    found = jax.eval_shape(ops.each_device(own, mesh_of(2), images=True), others, x)
    assert found.shape == x.shape


def test_helpers_by_hand():
    values = np.arange(2.0 * IMAGES, dtype=np.float32).reshape(IMAGES, 2)

    def function(factor, values):
        own = ops.own_images(jnp.arange(IMAGES))
        return {
            "count": jnp.full(len(values), ops.count_devices()),
            "sum": values + ops.sum_over_devices(jnp.sum(values) * factor),
            "mean": values + ops.mean_over_devices(jnp.mean(values)),
            "own": own,
            "first": values + ops.of_first_device(values[0]),
        }

    on_one = function(2.0, values)
    np.testing.assert_array_equal(on_one["own"], np.arange(IMAGES))
    np.testing.assert_array_equal(on_one["sum"], values + 2 * values.sum())
    found = jax.jit(ops.each_device(function, mesh_of(4), images=True))(
        2.0, global_batch({"x": values}, mesh_of(4))["x"]
    )
    for name in ("sum", "mean", "own", "first"):
        np.testing.assert_allclose(found[name], on_one[name], rtol=1e-6)
    assert found["count"].tolist() == [4] * IMAGES
    assert on_one["count"].tolist() == [1] * IMAGES


def test_on_a_single_device_a_function_stays_as_it_is():
    def function(shared, images):
        return shared, images

    assert ops.each_device(function, None) is function
    assert ops.each_device(function, mesh_of(1)) is function
