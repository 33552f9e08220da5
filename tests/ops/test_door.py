"""The one door to the operations: which form is used, and by whom."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ass_jax import ops
from ass_jax.models.deeplab import build_deeplab
from configs import base
from configs.user_error import UserError


@pytest.fixture
def program():
    config = base.get_config("joint")
    config.model.backbone = "resnet_tiny"
    module = build_deeplab(config.model, 3)
    images = jax.ShapeDtypeStruct((2, 33, 47, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), images)

    def traced():
        def apply(variables, images):  # A new function each time, so that it is traced anew.
            return module.apply(variables, images, train=True, mutable=["batch_stats"])

        return str(jax.make_jaxpr(apply)(variables, images))

    return traced


def test_a_network_is_all_fast_or_all_plain(program, monkeypatch):
    monkeypatch.delenv(ops.VARIABLE, raising=False)
    fast = program()
    assert fast.count("custom_vjp_call") > 10
    assert "platform_index" in fast
    with ops.form("reference"):
        plain = program()
    assert "custom_vjp_call" not in plain
    assert "platform_index" not in plain
    monkeypatch.setenv(ops.VARIABLE, "reference")
    assert program() == plain
    with ops.form("fast"):
        assert program() == fast


def test_unknown_forms_list_the_valid_ones(program, monkeypatch):
    with (
        pytest.raises(UserError, match=r"Unknown form .* 'slow'\. Valid: fast, reference"),
        ops.form("slow"),
    ):
        pass
    monkeypatch.setenv(ops.VARIABLE, "plain")
    with pytest.raises(UserError, match=r"Unknown ASS_JAX_OPS 'plain'\. Valid: fast, reference"):
        program()


def test_relu_of_a_sum_has_the_value_and_gradient_of_relu_at_its_kink():
    x, gradient = np.array([-1.5, -0.0, 0.0, 1e-30, 2.0], np.float32), np.arange(1, 6, dtype=np.float32)
    expected, transpose = jax.vjp(jax.nn.relu, x)
    found, back = jax.vjp(lambda x: ops.add_relu(jnp.zeros(()), x), x)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(back(gradient)[0], transpose(gradient)[0])
