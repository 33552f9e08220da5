import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ass_jax.models.deeplab import BACKBONES, Classifier, build_deeplab
from ass_jax.models.vit import Vit
from configs import base

CLASSES = 5


@pytest.fixture
def model():
    model = base.default_config().model
    model.backbone = "resnet_tiny"
    return model


@pytest.fixture(scope="module")
def features():
    return np.random.default_rng(0).normal(size=(2, 13, 15, 6)).astype(np.float32)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_shares_one_interface(model, backbone):
    model.backbone = backbone
    module = build_deeplab(model, CLASSES)
    vit = isinstance(module.backbone, Vit)
    images = jax.ShapeDtypeStruct((2, *((518, 1036) if vit else (512, 1024)), 3), jnp.float32)
    variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), images)
    assert set(variables["params"]) == {"backbone", "classifier"}
    assert set(variables.get("batch_stats", {})) <= {"backbone"}
    (features, logits), updated = jax.eval_shape(
        lambda v, x: module.apply(v, x, train=True, mutable=["batch_stats"]), variables, images
    )
    assert features.shape[:3] == logits.shape[:3]
    # Stride 8; ResNets have one cell more.
    assert features.shape[1:3] in ([(37, 74)] if vit else [(64, 128), (65, 129)])
    assert logits.shape[3] == CLASSES
    assert jax.tree.structure(updated.get("batch_stats", {})) == jax.tree.structure(variables.get("batch_stats", {}))


@pytest.mark.parametrize("branches", [1, 2, 4])
def test_classifier_sums_its_branches(features, branches, random_variables):
    module = Classifier(CLASSES, branches, jnp.float32)
    params = random_variables(module, features)["params"]
    dilations = (6, 12, 18, 24)[:branches]
    assert set(params) == {f"dilation{dilation}" for dilation in dilations}
    expected = 0.0
    for dilation in dilations:
        branch = params[f"dilation{dilation}"]
        expected += branch["bias"] + lax.conv_general_dilated(
            features,
            branch["kernel"],
            (1, 1),
            [(dilation, dilation)] * 2,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
    logits = jax.jit(module.apply)({"params": params}, features)
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_classifier_starts_small():
    module = Classifier(19, 2, jnp.float32)
    params = module.init(jax.random.key(0, impl="rbg"), jnp.zeros((1, 1, 1, 256)))["params"]
    for branch in params.values():
        assert np.std(branch["kernel"]) == pytest.approx(0.01, rel=0.02)
        np.testing.assert_array_equal(branch["bias"], 0)


def test_bfloat16_gives_float32_logits_close_to_float32(model, random_variables):
    images = np.random.default_rng(1).normal(size=(1, 32, 64, 3)).astype(np.float32)
    module = build_deeplab(model, CLASSES)
    variables = random_variables(module, images, False)
    model.dtype = "bfloat16"
    half = build_deeplab(model, CLASSES)
    features, logits = jax.jit(lambda v, x: half.apply(v, x, train=False))(variables, images)
    assert (features.dtype, logits.dtype) == (jnp.bfloat16, jnp.float32)
    _, expected = jax.jit(lambda v, x: module.apply(v, x, train=False))(variables, images)
    assert np.sqrt(np.mean((logits - expected) ** 2)) < 0.02 * np.std(expected)
    initial = jax.eval_shape(lambda x: half.init(jax.random.key(1), x, train=False), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(initial)} == {jnp.dtype("float32")}
