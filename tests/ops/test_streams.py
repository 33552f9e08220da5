import jax
import jax.numpy as jnp
import numpy as np

from ass_jax import ops


def terms(carry, stream):
    ((name, x),) = stream.items()
    found = {"total": jnp.sum(x), "gradients": {"shared": 2 * x, name: x}}
    return carry + len(name), found


def test_sums_are_over_the_streams_that_have_an_entry():
    streams = {"source": jnp.array([1.0, 2.0]), "unlabelled": jnp.array([10.0, 20.0]), "mixed": jnp.array([3.0, 4.0])}
    carry, sums = ops.sum_by_stream(terms, jnp.zeros(()), streams)
    assert carry == len("sourceunlabelledmixed")
    assert sums["total"] == 40
    np.testing.assert_array_equal(sums["gradients"]["shared"], [28, 52])
    for name, expected in streams.items():
        np.testing.assert_array_equal(sums["gradients"][name], expected)


def test_a_stream_waits_for_the_one_before():
    text = str(jax.make_jaxpr(lambda x: ops.sum_by_stream(terms, 0, {"a": x, "b": x, "c": x}))(jnp.ones(2)))
    assert text.count("optimization_barrier") == 2
