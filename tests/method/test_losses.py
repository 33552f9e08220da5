"""Checks the losses against values worked out by hand, plain loops and finite differences of the loops."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ass_jax.method import losses
from ass_jax.method.losses import IGNORED, SOURCE, TARGET, uninformed_loss
from ass_jax.models import semantic_outputs

# Compiled as a whole and without optimisation: both save time.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
segmentation_loss = jit(losses.segmentation_loss)
segmentation_gradient = jit(jax.value_and_grad(losses.segmentation_loss))
dice_loss = jit(losses.dice_loss)
dice_gradient = jit(jax.value_and_grad(losses.dice_loss))
domain_loss = jit(losses.domain_loss, static_argnames=("domain", "kind"))
domain_gradient = jit(jax.value_and_grad(losses.domain_loss), static_argnames=("domain", "kind"))
domain_accuracy = jit(losses.domain_accuracy, static_argnames="domain")
domain_logits = jit(losses.domain_logits, static_argnames="kind")
semantic_loss = jit(losses.semantic_loss, static_argnames=("domain", "kind"))
semantic_gradient = jit(jax.value_and_grad(losses.semantic_loss), static_argnames=("domain", "kind"))

OUTPUT_KINDS = ("binary", "class_domain")
LOGITS = np.array([[-1, 0], [2, 3]], np.float32)


def softplus(z: float) -> float:
    return math.log1p(math.exp(-abs(z))) + max(z, 0)


def bce(z: float, domain: int) -> float:
    """Minus the log of the probability that a sigmoid gives to the domain."""
    return softplus(-z if domain else z)


def cross_entropy_loop(logits: np.ndarray, labels: np.ndarray) -> float:
    found = []
    for place in np.ndindex(labels.shape):
        if labels[place] != IGNORED:
            shares = np.exp(logits[place]) / np.exp(logits[place]).sum()
            found.append(-math.log(shares[labels[place]]))
    return float(np.mean(found))


def domain_loop(logits: np.ndarray, domain: int, where: np.ndarray, kind: str) -> float:
    return float(np.mean([bce(z, domain) if kind == "bce" else (z - domain) ** 2 for z in logits[where]]))


def semantic_loop(outputs: np.ndarray, domain: int, present: np.ndarray, kind: str) -> float:
    found = []
    for image, own in zip(*np.nonzero(present), strict=True):
        z = outputs[image, own]
        if kind == "class_domain":
            found.append(math.log(np.exp(z).sum()) - z[own + domain * present.shape[1]])
        else:
            found.append(bce(z[0], domain))
    return float(np.mean(found))


def assert_value_and_gradient(
    found: tuple[jax.Array, jax.Array], reference: Callable[[np.ndarray], float], x: np.ndarray
) -> None:
    """Compares a value and its gradient at `x` with a loop and its central differences, both in float64."""
    x, gradient = x.astype(np.float64), np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        step = np.zeros(x.shape)
        step[place] = 1e-5
        gradient[place] = (reference(x + step) - reference(x - step)) / 2e-5
    np.testing.assert_allclose(found[0], reference(x), rtol=1e-5)
    np.testing.assert_allclose(found[1], gradient, rtol=1e-4, atol=1e-6)


def normal(seed: int, scale: float, *shape: int) -> np.ndarray:
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def test_segmentation_loss_by_hand():
    logits = np.log(np.array([[[[1, 3], [1, 1]]], [[[4, 1], [5, 3]]]], np.float32))
    labels = np.array([[[1, 255]], [[0, 1]]], np.uint8)
    # Probabilities of the true classes of the three valid pixels: 3/4, 4/5 and 3/8. One mean over both images.
    expected = -(math.log(3 / 4) + math.log(4 / 5) + math.log(3 / 8)) / 3
    assert segmentation_loss(logits, labels) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_segmentation_loss_and_gradient_equal_a_loop(dtype):
    labels = np.random.default_rng(0).choice([0, 1, 2, IGNORED], (2, 3, 4))
    logits = normal(0, 3, 2, 3, 4, 3)
    found = segmentation_gradient(logits, labels.astype(dtype))
    assert_value_and_gradient(found, lambda x: cross_entropy_loop(x, labels), logits)


def test_weights_scale_losses_before_the_mean():
    """Pixels of low weight lower the loss: the mean is always over all valid pixels."""
    random = np.random.default_rng(0)
    labels, weights = random.choice([0, 1, 2, IGNORED], (2, 3, 4)), random.uniform(size=(2, 3, 4)).astype(np.float32)
    weights[0, 0] = 0
    logits = normal(0, 3, 2, 3, 4, 3)

    def weighted(x: np.ndarray) -> float:
        valid = [place for place in np.ndindex(labels.shape) if labels[place] != IGNORED]
        losses = [float(weights[place]) * cross_entropy_loop(x[place][None], labels[place][None]) for place in valid]
        return float(np.mean(losses))

    assert_value_and_gradient(segmentation_gradient(logits, labels, weights), weighted, logits)
    ones = segmentation_loss(logits, labels, np.ones_like(weights))
    assert ones == pytest.approx(float(segmentation_loss(logits, labels)), rel=1e-6)


def test_segmentation_loss_survives_large_logits():
    logits = np.array([[[[1000, -1000]]], [[[0, 500]]]], np.float32)
    loss, gradient = segmentation_gradient(logits, np.array([[[1]], [[1]]], np.uint8))
    assert loss == 1000
    np.testing.assert_array_equal(gradient, [[[[0.5, -0.5]]], [[[0, 0]]]])


def test_ignored_pixels_do_not_touch_the_loss():
    logits = np.array([[[[0, 0]]], [[[30, -7]]]], np.float32)
    loss, gradient = segmentation_gradient(logits, np.array([[[0]], [[255]]], np.uint8))
    assert loss == pytest.approx(math.log(2))
    np.testing.assert_allclose(gradient, [[[[-0.5, 0.5]]], [[[0, 0]]]], rtol=1e-6)
    loss, gradient = segmentation_gradient(logits, np.full((2, 1, 1), 255, np.uint8))
    assert loss == 0
    np.testing.assert_array_equal(gradient, np.zeros((2, 1, 1, 2)))


def test_bfloat16_logits_are_summed_in_float32():
    # A running sum in bfloat16 stops growing at a few hundred: 5000 losses of log 3 would give less than 0.1.
    # A sum that is only rounded to bfloat16 is wrong by up to 0.4 %.
    logits, labels = np.zeros((1, 50, 100, 3), jnp.bfloat16), np.ones((1, 50, 100), np.uint8)
    loss, gradient = segmentation_gradient(logits, labels)
    assert (loss.dtype, gradient.dtype) == (jnp.float32, jnp.bfloat16)
    assert loss == pytest.approx(math.log(3), rel=1e-5)
    np.testing.assert_allclose(np.float32(gradient[0, 7, 8]) * 5000, [1 / 3, -2 / 3, 1 / 3], rtol=4e-3)
    loss = domain_loss(logits, TARGET)
    assert loss.dtype == jnp.float32
    assert loss == pytest.approx(math.log(2), rel=1e-5)
    loss = semantic_loss(np.zeros((5000, 3, 6), jnp.bfloat16), SOURCE, np.ones((5000, 3), bool), "class_domain")
    assert loss.dtype == jnp.float32
    assert loss == pytest.approx(math.log(6), rel=1e-5)


def test_segmentation_loss_names_the_shapes():
    with pytest.raises(ValueError, match=r"shape \(2, 3, 4\) for the logits, found \(2, 4, 3\)"):
        segmentation_loss(np.zeros((2, 3, 4, 5), np.float32), np.zeros((2, 4, 3), np.uint8))


def dice_loop(logits: np.ndarray, labels: np.ndarray) -> float:
    shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    found = []
    for train_id in range(logits.shape[-1]):
        true = labels == train_id
        if true.any():
            predicted = shares[labels != IGNORED][:, train_id].sum()
            found.append(1 - 2 * shares[true][:, train_id].sum() / (predicted + true.sum()))
    return float(np.mean(found))


def test_dice_loss_by_hand():
    logits = np.log([[[[0.75, 0.25], [0.5, 0.5], [0.1, 0.9]]]]).astype(np.float32)
    labels = np.array([[[0, 1, IGNORED]]])
    first, second = 1 - 2 * 0.75 / (1.25 + 1), 1 - 2 * 0.5 / (0.75 + 1)
    np.testing.assert_allclose(dice_loss(logits, labels), (first + second) / 2, rtol=1e-6)
    labels = np.array([[[0, 0, IGNORED]]])  # The second class is absent.
    np.testing.assert_allclose(dice_loss(logits, labels), 1 - 2 * 1.25 / (1.25 + 2), rtol=1e-6)


def test_dice_loss_and_gradient_equal_a_loop():
    logits = normal(3, 2.0, 2, 5, 3, 4)
    labels = np.random.default_rng(4).choice([0, 1, 3, IGNORED], (2, 5, 3))
    assert_value_and_gradient(dice_gradient(logits, labels), lambda x: dice_loop(x, labels), logits)


def test_dice_loss_without_valid_pixels_is_zero():
    labels = np.full((1, 2, 3), IGNORED)
    value, gradient = dice_gradient(normal(5, 100.0, 1, 2, 3, 4), labels)
    assert value == 0
    assert not np.asarray(gradient).any()


def test_dice_loss_survives_large_logits():
    logits = np.array([[[[1e4, -1e4], [-1e4, 1e4]]]], np.float32)
    for labels, expected in (([[[0, 1]]], 0.0), ([[[1, 0]]], 1.0)):
        value, gradient = dice_gradient(logits, np.array(labels))
        np.testing.assert_allclose(value, expected, atol=1e-6)
        assert np.isfinite(gradient).all()


def test_domain_loss_by_hand():
    expected = (softplus(-1) + softplus(0) + softplus(2) + softplus(3)) / 4
    assert domain_loss(LOGITS, SOURCE) == pytest.approx(expected, rel=1e-6)
    expected = (softplus(1) + softplus(0) + softplus(-2) + softplus(-3)) / 4
    assert domain_loss(LOGITS, TARGET) == pytest.approx(expected, rel=1e-6)
    assert domain_loss(LOGITS, SOURCE, kind="least_squares") == (1 + 0 + 4 + 9) / 4
    assert domain_loss(LOGITS, TARGET, kind="least_squares") == (4 + 1 + 1 + 4) / 4
    where = np.array([[True, False], [False, True]])
    assert domain_loss(LOGITS, TARGET, where, "least_squares") == (4 + 4) / 2


@pytest.mark.parametrize("domain", [SOURCE, TARGET])
@pytest.mark.parametrize("kind", ["bce", "least_squares"])
def test_domain_loss_and_gradient_equal_a_loop(kind, domain):
    logits, where = normal(1, 2, 2, 3, 4), np.random.default_rng(1).random((2, 3, 4)) < 0.6
    found = domain_gradient(logits, domain, where, kind)
    assert_value_and_gradient(found, lambda x: domain_loop(x, domain, where, kind), logits)
    loss, gradient = domain_gradient(logits, domain, np.zeros_like(where), kind)
    assert loss == 0
    np.testing.assert_array_equal(gradient, np.zeros(logits.shape))


def test_domain_loss_survives_large_logits():
    loss, gradient = domain_gradient(np.array([-1000, 1000], np.float32), TARGET)
    assert loss == 500
    np.testing.assert_array_equal(gradient, [-0.5, 0.0])


def test_domain_accuracy_by_hand():
    everywhere, three = np.ones((2, 2), bool), np.array([[True, False], [True, True]])
    assert domain_accuracy(LOGITS, SOURCE, everywhere) == 0.5
    assert domain_accuracy(LOGITS + 1.5, SOURCE, everywhere) == 0
    assert domain_accuracy(LOGITS + 1.5, TARGET, everywhere) == 1
    assert domain_accuracy(LOGITS, TARGET, three) == pytest.approx(2 / 3)
    assert domain_accuracy(LOGITS, SOURCE, three) == pytest.approx(1 / 3)
    assert domain_accuracy(LOGITS + 1.5, TARGET) == 1


def test_semantic_losses_by_hand():
    # Two classes: outputs[b, k] belongs to class k. The second image lacks class 0.
    present = np.array([[True, True], [False, True]])
    outputs = np.log(np.array([[[1, 2, 3, 4], [1, 1, 2, 4]], [[9, 8, 7, 6], [5, 2, 2, 1]]], np.float32))
    # binary reads log 1, log 1, log 5: the sigmoid gives the target 1/2, 1/2, 5/6.
    assert semantic_loss(outputs[..., :1], TARGET, present, "binary") == pytest.approx(
        -(2 * math.log(1 / 2) + math.log(5 / 6)) / 3, rel=1e-6
    )
    # class_domain: class k in the source is entry k, in the target entry 2 + k.
    assert semantic_loss(outputs, SOURCE, present, "class_domain") == pytest.approx(
        -(math.log(1 / 10) + math.log(1 / 8) + math.log(2 / 10)) / 3, rel=1e-6
    )
    assert semantic_loss(outputs, TARGET, present, "class_domain") == pytest.approx(
        -(math.log(3 / 10) + math.log(4 / 8) + math.log(1 / 10)) / 3, rel=1e-6
    )


def test_domain_logits_by_hand():
    outputs = np.log(np.array([[[1, 2, 3, 4], [1, 1, 2, 4]], [[9, 8, 7, 6], [5, 2, 2, 1]]], np.float32))
    # Odds of target against source of the own class: entries 2 + k and k.
    odds = np.array([[3 / 1, 4 / 1], [7 / 9, 1 / 2]])
    np.testing.assert_allclose(domain_logits(outputs, "class_domain"), np.log(odds), rtol=1e-5)
    np.testing.assert_array_equal(domain_logits(outputs[..., :1], "binary"), outputs[..., 0])


@pytest.mark.parametrize("domain", [SOURCE, TARGET])
@pytest.mark.parametrize("kind", OUTPUT_KINDS)
def test_semantic_loss_and_gradient_equal_a_loop(kind, domain):
    present = np.random.default_rng(2).random((3, 4)) < 0.6
    assert present.any()
    assert not present.all()
    outputs = normal(2, 2, 3, 4, semantic_outputs(kind, 4))
    found = semantic_gradient(outputs, domain, present, kind)
    assert_value_and_gradient(found, lambda x: semantic_loop(x, domain, present, kind), outputs)
    np.testing.assert_array_equal(np.any(found[1] != 0, axis=-1), present)
    loss, gradient = semantic_gradient(outputs, domain, np.zeros_like(present), kind)
    assert loss == 0
    np.testing.assert_array_equal(gradient, np.zeros(outputs.shape))


def test_unknown_kinds_list_the_valid_ones():
    outputs, present = np.zeros((2, 2, 1), np.float32), np.ones((2, 2), bool)
    with pytest.raises(ValueError, match=r"'hinge'\. Valid: bce, least_squares\."):
        domain_loss(LOGITS, SOURCE, kind="hinge")
    with pytest.raises(ValueError, match=r"'ternary'\. Valid: binary, class_domain\."):
        semantic_loss(outputs, SOURCE, present, "ternary")
    with pytest.raises(ValueError, match=r"'ternary'\. Valid: binary, class_domain\."):
        domain_logits(outputs, "ternary")


@pytest.mark.parametrize(
    ("kind", "guess"),
    # Least squares regresses to the number of the domain, 0 or 1, so the best guess is 0.5.
    [("bce", 0), ("least_squares", 0.5), ("binary", 0)],
)
def test_uninformed_loss_is_the_loss_of_a_guess(kind, guess):
    """The mean of both domains' losses for a discriminator that gives all alternatives equal probability."""

    def loss(guess: float) -> float:
        if kind in OUTPUT_KINDS:
            outputs = np.full((2, 5, semantic_outputs(kind, 5)), guess, np.float32)
            found = [semantic_loss(outputs, domain, np.ones((2, 5), bool), kind) for domain in (SOURCE, TARGET)]
        else:
            found = [domain_loss(np.full((2, 2), guess, np.float32), domain, kind=kind) for domain in (SOURCE, TARGET)]
        return 0.5 * float(sum(found))

    assert uninformed_loss(kind) == pytest.approx(loss(guess), rel=1e-6)
    assert uninformed_loss(kind) < min(loss(guess - 0.1), loss(guess + 0.1))


def test_uninformed_loss_of_class_domain_assumes_a_known_class():
    knows_class = 50.0 * np.tile(np.eye(5, dtype=np.float32), (2, 1, 2))
    for domain in (SOURCE, TARGET):
        found = semantic_loss(knows_class, domain, np.ones((2, 5), bool), "class_domain")
        assert uninformed_loss("class_domain") == pytest.approx(float(found), rel=1e-6)


def test_entries_left_out_of_the_mean_have_no_gradient():
    # The masked entry is not finite; it must not reach the value or the gradient.
    values, where = np.array([1, np.inf, 4], np.float32), np.array([True, False, True])
    mean, gradient = jit(jax.value_and_grad(losses.masked_mean))(values, where)
    assert mean == 2.5
    np.testing.assert_array_equal(gradient, [0.5, 0.0, 0.5])
    assert jit(losses.masked_mean)(values[[0, 2]]) == 2.5
    # The mean is taken in float32; in bfloat16, 301 / 300 would round to 1.
    values = np.array([1] * 299 + [2], jnp.bfloat16)
    assert jit(losses.masked_mean)(values, np.ones(300, bool)) == pytest.approx(301 / 300, rel=1e-6)
