"""Losses of the method: masked cross-entropy, Dice and the adversarial terms, each a mean over the global batch.

Legend: B batch, H W pixels, C classes. Under `jit` on a sharded batch, each mean is over the entries of all devices, so
that the step does not depend on their number.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from ass_jax.ops import mean_over_devices, sum_over_devices

IGNORED = 255  # Label of pixels that are neither trained on nor scored.
SOURCE, TARGET = 0, 1  # Domain labels.


def segmentation_loss(logits: Array, labels: Array, weights: Array | None = None) -> Array:
    """Cross-entropy averaged over the valid pixels, `CE(up(P), y)` of ASS, section 3.

    Args:
      logits: `[B, H, W, C]` of any float type; the loss is computed in float32.
      labels: `[B, H, W]` integers, classes `0..C-1` or 255 for ignored pixels.
      weights: `[B, H, W]`, factor of each pixel's loss before the mean. None: 1.

    Returns:
      float32 scalar; 0 with a zero gradient when no pixel is valid.

    Raises:
      ValueError: the shapes do not match.
    """
    if logits.shape[:-1] != labels.shape:
        raise ValueError(f"Expected labels of shape {logits.shape[:-1]} for the logits, found {labels.shape}.")
    logits = logits.astype(jnp.float32)
    # A comparison with every class reads no entry out of range, whatever the label, and has a dense gradient.
    chosen = labels[..., None] == jnp.arange(logits.shape[-1])
    cross_entropy = jax.nn.logsumexp(logits, axis=-1) - jnp.sum(jnp.where(chosen, logits, 0.0), axis=-1)
    if weights is not None:
        cross_entropy *= weights
    return masked_mean(cross_entropy, labels != IGNORED)


def dice_loss(logits: Array, labels: Array) -> Array:
    """Soft Dice loss (V-Net, arXiv 1606.04797, with plain sums) of the whole batch, averaged over the present classes.

    `1 - 2 sum_i p_ik y_ik / sum_i (p_ik + y_ik)` for each class `k` that some label has, over the valid pixels `i` of
    all images. However few pixels a class has, it counts as much as any other.

    Args:
      logits: `[B, H, W, C]` of any float type; the loss is computed in float32.
      labels: `[B, H, W]` integers, classes `0..C-1` or 255 for ignored pixels.

    Returns:
      float32 scalar from 0 to 1; 0 with a zero gradient when no pixel is valid.
    """
    probabilities = jax.nn.softmax(logits.astype(jnp.float32))
    members = labels[..., None] == jnp.arange(logits.shape[-1])
    common = jnp.sum(jnp.where(members, probabilities, 0.0), axis=(0, 1, 2))  # [C]
    predicted = jnp.sum(jnp.where((labels != IGNORED)[..., None], probabilities, 0.0), axis=(0, 1, 2))
    true = jnp.sum(members, axis=(0, 1, 2))
    common, predicted, true = sum_over_devices((common, predicted, true))
    return masked_mean(1.0 - 2.0 * common / jnp.maximum(predicted + true, 1.0), true > 0)  # The same on all devices.


def domain_loss(logits: Array, domain: int, where: Array | None = None, kind: str = "bce") -> Array:
    """Mean loss of a discriminator's logits against one domain.

    Args:
      logits: any shape; positive means target.
      domain: the true domain, 0 source or 1 target; the opposite one to fool the discriminator.
      where: bool, of the logits' shape: the entries that count. None: all.
      kind: "bce", sigmoid binary cross-entropy `softplus(z) - domain * z`, or "least_squares",
        `(z - domain)**2` (AdaptSegNet's two options).

    Returns:
      float32 scalar; 0 with a zero gradient when no entry counts.

    Raises:
      ValueError: `kind` is unknown.
    """
    if kind not in DOMAIN_LOSSES:
        raise ValueError(f"Unknown kind of domain loss {kind!r}. Valid: {', '.join(DOMAIN_LOSSES)}.")
    return masked_mean(DOMAIN_LOSSES[kind](logits.astype(jnp.float32), domain), where)


def domain_accuracy(logits: Array, domain: int, where: Array | None = None) -> Array:
    """Share of the logits with the sign of their domain (0.5 by guessing); arguments as in `domain_loss`."""
    return masked_mean((logits > 0) == (domain == TARGET), where)


def semantic_loss(outputs: Array, domain: int, present: Array, kind: str) -> Array:
    """Mean loss over the present class vectors of the semantic discriminator's outputs against one domain.

    Args:
      outputs: `[B, C, O]`; entry `[b, k]` belongs to the vector of class `k` of image `b`.
      domain: as in `domain_loss`.
      present: bool `[B, C]`.
      kind: "binary" (`O = 1`), or "class_domain" (`O = 2C`, a softmax over the classes in the source, then the classes
        in the target).

    Returns:
      float32 scalar; 0 with a zero gradient when no class is present.

    Raises:
      ValueError: `kind` is unknown.
    """
    if kind != "class_domain":
        return domain_loss(domain_logits(outputs, kind), domain, present)
    log_probabilities = jax.nn.log_softmax(outputs.astype(jnp.float32), axis=-1)
    return masked_mean(-_own_class(log_probabilities, offset=domain * outputs.shape[-2]), present)


def domain_logits(outputs: Array, kind: str) -> Array:
    """Log-odds of target against source, given the class of each vector: `[B, C, O]` -> `[B, C]`.

    Raises:
      ValueError: `kind` is unknown.
    """
    if kind not in _DOMAIN_LOGITS:
        raise ValueError(f"Unknown kind of semantic outputs {kind!r}. Valid: {', '.join(_DOMAIN_LOGITS)}.")
    return _DOMAIN_LOGITS[kind](outputs)


def uninformed_loss(kind: str) -> float:
    """Loss of a discriminator that guesses the domain, for any kind of loss or outputs.

    For "class_domain", it assumes that the discriminator knows the classes, which it learns within few steps.
    """
    return {"least_squares": 0.25}.get(kind, math.log(2))


def masked_mean(values: Array, where: Array | None = None) -> Array:
    """Mean in float32 of the entries where `where` holds; 0 with a zero gradient where it holds nowhere."""
    values = values.astype(jnp.float32)
    if where is None:
        return mean_over_devices(jnp.mean(values))
    total, count = sum_over_devices((jnp.sum(jnp.where(where, values, 0.0)), jnp.sum(where)))
    return total / jnp.maximum(count, 1)


def _bce(logits: Array, domain: ArrayLike) -> Array:
    return jax.nn.softplus(logits) - domain * logits


def _least_squares(logits: Array, domain: ArrayLike) -> Array:
    return jnp.square(logits - domain)


DOMAIN_LOSSES = {"bce": _bce, "least_squares": _least_squares}


def _own_class(outputs: Array, offset: int = 0) -> Array:
    return jnp.diagonal(outputs, offset=offset, axis1=-2, axis2=-1)


_DOMAIN_LOGITS = {
    "binary": lambda outputs: outputs[..., 0],
    "class_domain": lambda outputs: _own_class(outputs, outputs.shape[-2]) - _own_class(outputs),
}
