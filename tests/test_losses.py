"""Checks the losses against values worked out by hand, plain loops and finite differences of the loops."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ass_jax.losses import (
    IGNORED,
    SOURCE,
    TARGET,
    domain_accuracy,
    domain_logits,
    domain_loss,
    masked_mean,
    segmentation_loss,
    semantic_loss,
    uninformed_loss,
)
from ass_jax.models import semantic_outputs

OUTPUT_KINDS = ("binary", "per_class", "class_domain")
LOGITS = jnp.array([[-1.0, 0.0], [2.0, 3.0]])


def softplus(z: float) -> float:
    return math.log1p(math.exp(-abs(z))) + max(z, 0)


def bce(z: float, domain: int) -> float:
    """Minus the log of the probability that a sigmoid gives to the domain."""
    return softplus(-z if domain else z)


def cross_entropy_loop(logits: np.ndarray, labels: np.ndarray) -> float:
    losses = []
    for place in np.ndindex(labels.shape):
        if labels[place] != IGNORED:
            shares = np.exp(logits[place]) / np.exp(logits[place]).sum()
            losses.append(-math.log(shares[labels[place]]))
    return float(np.mean(losses)) if losses else 0.0


def semantic_loop(outputs: np.ndarray, domain: int, present: np.ndarray, kind: str) -> float:
    losses = []
    for image, own in zip(*np.nonzero(present), strict=True):
        z = outputs[image, own]
        if kind == "class_domain":
            losses.append(math.log(np.exp(z).sum()) - z[own + domain * present.shape[1]])
        else:
            losses.append(bce(z[0 if kind == "binary" else own], domain))
    return float(np.mean(losses)) if losses else 0.0


def numerical_gradient(function: Callable[[np.ndarray], float], x: np.ndarray) -> np.ndarray:
    """Central differences in float64."""
    gradient = np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        step = np.zeros(x.shape)
        step[place] = 1e-5
        gradient[place] = (function(x + step) - function(x - step)) / 2e-5
    return gradient


def assert_value_and_gradient(function: Callable, reference: Callable, x: np.ndarray) -> None:
    """Compares a float32 function of JAX, and its gradient, with a float64 one of NumPy."""
    value, gradient = jax.jit(jax.value_and_grad(function))(jnp.asarray(x, jnp.float32))
    x = x.astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(value, reference(x), rtol=1e-5)
    np.testing.assert_allclose(gradient, numerical_gradient(reference, x), rtol=1e-4, atol=1e-6)


def test_segmentation_loss_by_hand():
    logits = jnp.log(jnp.array([[[[1.0, 3.0], [1.0, 1.0]]], [[[4.0, 1.0], [5.0, 3.0]]]]))
    labels = jnp.array([[[1, 255]], [[0, 1]]], jnp.uint8)
    # Probabilities of the true classes of the three valid pixels: 3/4, 4/5 and 3/8. One mean over both images.
    expected = -(math.log(3 / 4) + math.log(4 / 5) + math.log(3 / 8)) / 3
    assert segmentation_loss(logits, labels) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_segmentation_loss_and_gradient_equal_a_loop(dtype):
    random = np.random.default_rng(0)
    labels = random.choice([0, 1, 2, IGNORED], (2, 3, 4)).astype(dtype)
    assert_value_and_gradient(
        lambda logits: segmentation_loss(logits, jnp.asarray(labels)),
        lambda logits: cross_entropy_loop(logits, labels),
        3 * random.normal(size=(2, 3, 4, 3)),
    )


def test_segmentation_loss_survives_large_logits():
    logits = jnp.array([[[[1000.0, -1000.0], [0.0, 500.0]]]])
    assert segmentation_loss(logits, jnp.array([[[1, 1]]])) == 1000


def test_segmentation_loss_of_ignored_pixels_is_zero_with_zero_gradient():
    logits = 10 * jax.random.normal(jax.random.key(0), (2, 3, 4, 5))
    loss, gradient = jax.value_and_grad(segmentation_loss)(logits, jnp.full((2, 3, 4), 255, jnp.uint8))
    assert loss == 0
    np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))


def test_ignored_pixels_do_not_touch_the_loss():
    labels = jnp.array([[[0, 255]]], jnp.uint8)
    loss, gradient = jax.value_and_grad(segmentation_loss)(jnp.array([[[[0.0, 0.0], [30.0, -7.0]]]]), labels)
    assert loss == pytest.approx(math.log(2))
    np.testing.assert_allclose(gradient, [[[[-0.5, 0.5], [0.0, 0.0]]]], rtol=1e-6)


def test_bfloat16_logits_are_summed_in_float32():
    # A running sum in bfloat16 stops growing at a few hundred: 5000 losses of log 3 would give less than 0.1.
    logits, labels = jnp.zeros((1, 50, 100, 3), jnp.bfloat16), jnp.ones((1, 50, 100), jnp.uint8)
    loss, gradient = jax.value_and_grad(segmentation_loss)(logits, labels)
    assert loss.dtype == jnp.float32
    assert loss == pytest.approx(math.log(3), rel=1e-5)
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(gradient[0, 7, 8]) * 5000, [1 / 3, -2 / 3, 1 / 3], rtol=4e-3)
    loss = domain_loss(logits, TARGET)
    assert loss.dtype == jnp.float32
    assert loss == pytest.approx(math.log(2), rel=1e-5)
    vectors = jnp.zeros((5000, 3, 6), jnp.bfloat16)
    for kind, expected in {"binary": 2, "per_class": 2, "class_domain": 6}.items():
        loss = semantic_loss(vectors, SOURCE, jnp.ones((5000, 3), bool), kind)
        assert loss.dtype == jnp.float32
        assert loss == pytest.approx(math.log(expected), rel=1e-5)


def test_segmentation_loss_names_the_shapes():
    with pytest.raises(ValueError, match=r"shape \(2, 3, 4\) for the logits, found \(2, 4, 3\)"):
        segmentation_loss(jnp.zeros((2, 3, 4, 5)), jnp.zeros((2, 4, 3), jnp.uint8))


def test_domain_loss_by_hand():
    expected = (softplus(-1) + softplus(0) + softplus(2) + softplus(3)) / 4
    assert domain_loss(LOGITS, SOURCE) == pytest.approx(expected, rel=1e-6)
    expected = (softplus(1) + softplus(0) + softplus(-2) + softplus(-3)) / 4
    assert domain_loss(LOGITS, TARGET) == pytest.approx(expected, rel=1e-6)
    assert domain_loss(LOGITS, SOURCE, kind="least_squares") == (1 + 0 + 4 + 9) / 4
    assert domain_loss(LOGITS, TARGET, kind="least_squares") == (4 + 1 + 1 + 4) / 4
    where = jnp.array([[True, False], [False, True]])
    assert domain_loss(LOGITS, TARGET, where, "least_squares") == (4 + 4) / 2


@pytest.mark.parametrize("domain", [SOURCE, TARGET])
@pytest.mark.parametrize("kind", ["bce", "least_squares"])
def test_domain_loss_and_gradient_equal_a_loop(kind, domain):
    random = np.random.default_rng(1)
    where = random.random((2, 3, 2, 1)) < 0.6
    loss = {"bce": bce, "least_squares": lambda z, domain: (z - domain) ** 2}[kind]
    for mask, chosen in ((None, np.ones(where.shape, bool)), (where, where)):
        assert_value_and_gradient(
            lambda logits, mask=mask: domain_loss(logits, domain, mask, kind),
            lambda logits, chosen=chosen: np.mean([loss(z, domain) for z in logits[chosen]]),
            2 * random.normal(size=where.shape),
        )


def test_domain_loss_survives_large_logits():
    loss, gradient = jax.value_and_grad(domain_loss)(jnp.array([-1000.0, 1000.0]), TARGET)
    assert loss == 500
    np.testing.assert_array_equal(gradient, [-0.5, 0.0])


def test_domain_loss_of_nothing_is_zero_with_zero_gradient():
    for kind in ("bce", "least_squares"):
        loss, gradient = jax.value_and_grad(domain_loss)(LOGITS, TARGET, jnp.zeros((2, 2), bool), kind)
        assert loss == 0
        np.testing.assert_array_equal(gradient, np.zeros((2, 2)))


def test_domain_accuracy_by_hand():
    assert domain_accuracy(LOGITS, SOURCE) == 0.5
    assert domain_accuracy(LOGITS + 1.5, SOURCE) == 0
    assert domain_accuracy(LOGITS + 1.5, TARGET) == 1
    where = jnp.array([[True, False], [True, True]])
    assert domain_accuracy(LOGITS, TARGET, where) == pytest.approx(2 / 3)
    assert domain_accuracy(LOGITS, SOURCE, where) == pytest.approx(1 / 3)


def test_semantic_losses_by_hand():
    # Two classes: outputs[b, k] belongs to class k. The second image lacks class 0.
    present = jnp.array([[True, True], [False, True]])
    outputs = jnp.log(jnp.array([[[1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 2.0, 4.0]], [[9.0, 8.0, 7.0, 6.0], [5.0, 2, 2, 1]]]))
    # binary reads log 1, log 1, log 5: the sigmoid gives the target 1/2, 1/2, 5/6.
    assert semantic_loss(outputs[..., :1], TARGET, present, "binary") == pytest.approx(
        -(2 * math.log(1 / 2) + math.log(5 / 6)) / 3, rel=1e-6
    )
    # per_class reads logit k: log 1, log 1, log 2, so the source has 1/2, 1/2, 1/3.
    assert semantic_loss(outputs[..., :2], SOURCE, present, "per_class") == pytest.approx(
        -(2 * math.log(1 / 2) + math.log(1 / 3)) / 3, rel=1e-6
    )
    # class_domain: class k in the source is entry k, in the target entry 2 + k.
    assert semantic_loss(outputs, SOURCE, present, "class_domain") == pytest.approx(
        -(math.log(1 / 10) + math.log(1 / 8) + math.log(2 / 10)) / 3, rel=1e-6
    )
    assert semantic_loss(outputs, TARGET, present, "class_domain") == pytest.approx(
        -(math.log(3 / 10) + math.log(4 / 8) + math.log(1 / 10)) / 3, rel=1e-6
    )
    # Odds of target against source, given the class: 3 : 1, 4 : 1, 7 : 9, 1 : 2.
    np.testing.assert_allclose(
        domain_logits(outputs, "class_domain"), np.log([[3, 4], [7 / 9, 1 / 2]]), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(domain_logits(outputs[..., :1], "binary"), outputs[..., 0])
    np.testing.assert_allclose(domain_logits(outputs[..., :2], "per_class"), np.log([[1, 1], [9, 2]]), rtol=1e-6)


@pytest.mark.parametrize("domain", [SOURCE, TARGET])
@pytest.mark.parametrize("kind", OUTPUT_KINDS)
def test_semantic_loss_and_gradient_equal_a_loop(kind, domain):
    random = np.random.default_rng(2)
    present = random.random((3, 4)) < 0.6
    assert present.any()
    assert not present.all()
    assert_value_and_gradient(
        lambda outputs: semantic_loss(outputs, domain, jnp.asarray(present), kind),
        lambda outputs: semantic_loop(outputs, domain, present, kind),
        2 * random.normal(size=(3, 4, semantic_outputs(kind, 4))),
    )


@pytest.mark.parametrize("kind", OUTPUT_KINDS)
def test_absent_classes_have_no_gradient(kind):
    outputs = jax.random.normal(jax.random.key(3), (2, 3, semantic_outputs(kind, 3)))
    present = jnp.array([[True, False, True], [False, True, False]])
    gradient = jax.grad(semantic_loss)(outputs, TARGET, present, kind)
    np.testing.assert_array_equal(np.any(gradient != 0, axis=-1), present)
    loss, gradient = jax.value_and_grad(semantic_loss)(outputs, TARGET, jnp.zeros((2, 3), bool), kind)
    assert loss == 0
    np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))


def test_unknown_kinds_list_the_valid_ones():
    present = jnp.ones((2, 2), bool)
    with pytest.raises(ValueError, match="'hinge'. Valid: bce, least_squares"):
        domain_loss(LOGITS, SOURCE, kind="hinge")
    with pytest.raises(ValueError, match="'ternary'. Valid: binary, per_class, class_domain"):
        semantic_loss(jnp.zeros((2, 2, 1)), SOURCE, present, "ternary")
    with pytest.raises(ValueError, match="'ternary'. Valid: binary, per_class, class_domain"):
        domain_logits(jnp.zeros((2, 2, 1)), "ternary")


def test_uninformed_loss_is_the_loss_of_a_guess():
    """A discriminator's loss, half of each domain's, where it gives all alternatives the same chance."""

    def discriminator_loss(kind: str, guess: float) -> jax.Array:
        if kind in OUTPUT_KINDS:
            outputs, present = jnp.full((2, 5, semantic_outputs(kind, 5)), guess), jnp.ones((2, 5), bool)
            return 0.5 * sum(semantic_loss(outputs, domain, present, kind) for domain in (SOURCE, TARGET))
        logits = jnp.full((2, 3), guess)
        return 0.5 * sum(domain_loss(logits, domain, kind=kind) for domain in (SOURCE, TARGET))

    # Least squares regresses to the domain's number, so that its guess is the middle.
    for kind, guess in {"bce": 0.0, "least_squares": 0.5, **dict.fromkeys(OUTPUT_KINDS, 0.0)}.items():
        assert uninformed_loss(kind, 5) == pytest.approx(float(discriminator_loss(kind, guess)), rel=1e-6)
        assert uninformed_loss(kind, 5) <= discriminator_loss(kind, guess + 0.1) + 1e-6
        assert uninformed_loss(kind, 5) <= discriminator_loss(kind, guess - 0.1) + 1e-6


def test_masked_mean_keeps_what_is_left_out_from_gradients():
    # The masked entry is not finite; it must not reach the value or the gradient.
    values, where = jnp.array([1.0, jnp.inf, 4.0]), jnp.array([True, False, True])
    mean, gradient = jax.value_and_grad(masked_mean)(values, where)
    assert mean == 2.5
    np.testing.assert_array_equal(gradient, [0.5, 0.0, 0.5])
    assert masked_mean(jnp.array([1.0, 2.0, 6.0])) == 3
