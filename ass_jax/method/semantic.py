"""The semantic-level term (ASS, section 3.2): an adversary on class means brings the domains together class by class.

Legend: B batch, H W pixels, h w feature cells, D channels of the map that is read, C classes.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient
from ml_collections import ConfigDict

from ass_jax.method.class_means import class_means, soft_class_means
from ass_jax.method.losses import SOURCE, TARGET, domain_accuracy, domain_logits, semantic_loss
from ass_jax.models import Networks

_DOMAINS = {"source": SOURCE, "labelled": TARGET, "unlabelled": TARGET}


def semantic_terms(
    params: dict, maps: dict, batch: dict, networks: Networks, config: ConfigDict
) -> tuple[Array, Array, dict[str, Array]]:
    """Returns the adversary's terms for the segmenter and for itself, and what to log.

    All are sums over the streams at hand: no term joins two streams.

    Args:
      params: of the semantic discriminator.
      maps: by stream, `features` `[B, h, w, D]` and `logits` `[B, h, w, C]`.
      batch: by stream, `label` `[B, H, W]`; beside unlabelled images `teacher_logits` `[B, h, w, C]` where a teacher
        acts.
      networks: its semantic discriminator judges.
      config: the whole configuration; static.

    Returns:
      Float32 scalars: the term for the segmenter, that for the discriminator, and losses and accuracy by name.
    """
    kind = config.loss.semantic_outputs

    def judge(discriminator: dict, vectors: Array) -> Array:
        return networks.semantic_discriminator.apply({"params": discriminator}, vectors)  # type: ignore[union-attr]

    fool = learn = accuracy = jnp.zeros(())
    for stream, domain, share in _acting(maps, config):
        vectors, present = _vectors(stream, maps[stream], batch[stream], config)
        outputs = judge(params, stop_gradient(vectors))
        learn += 0.5 * share * semantic_loss(outputs, domain, present, kind)
        accuracy += 0.5 * share * domain_accuracy(domain_logits(outputs, kind), domain, present)
        if domain == TARGET:
            fool += share * semantic_loss(judge(stop_gradient(params), vectors), SOURCE, present, kind)
    metrics = {
        "loss/semantic": fool,
        "loss/semantic_discriminator": learn,
        "accuracy/semantic_discriminator": accuracy,
    }
    return fool, learn, metrics


def reads_unlabelled(config: ConfigDict) -> bool:
    """Returns whether unlabelled images take part in the semantic-level term."""
    return bool(config.loss.semantic_weight and config.loss.semantic_unlabelled)


def _acting(maps: dict, config: ConfigDict) -> Iterator[tuple[str, int, float]]:
    """Yields the streams at hand that take part, their domain and their share of it."""
    both = reads_unlabelled(config)
    for stream, domain in _DOMAINS.items():
        if stream in maps and (stream != "unlabelled" or both):
            yield stream, domain, 0.5 if domain == TARGET and both else 1.0


def _vectors(stream: str, maps: dict, examples: dict, config: ConfigDict) -> tuple[Array, Array]:
    """Returns the mean vectors of the classes of each image, `[B, C, D]`, and which of them count, `[B, C]`."""
    cells = maps[config.loss.semantic_input]
    if stream != "unlabelled":
        return class_means(cells, examples["label"], maps["logits"].shape[-1])
    logits = stop_gradient(examples.get("teacher_logits", maps["logits"]))
    return soft_class_means(cells, jax.nn.softmax(logits.astype(jnp.float32)))
