"""The semantic-level term: it brings features of the same class together across the domains.

`loss.semantic_kind` chooses one of three. All are sums over the streams at hand, so that no term joins two streams.

Legend: B batch, H W pixels, h w feature cells, D channels of the map that is read, C classes.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient
from ml_collections import ConfigDict

from ass_jax.method.class_means import cell_labels, class_means, soft_class_means
from ass_jax.method.losses import (
    IGNORED,
    SOURCE,
    TARGET,
    cell_domain_loss,
    domain_accuracy,
    domain_logits,
    prototype_loss,
    semantic_loss,
)
from ass_jax.models import Networks

_DOMAINS = {"source": SOURCE, "labelled": TARGET, "unlabelled": TARGET}
_DECAY = 0.99  # Of the prototypes, a step.

Terms = tuple[Array, Array, dict[str, Array], dict[str, Array]]


def semantic_terms(
    params: dict | None, prototypes: dict | None, maps: dict, batch: dict, networks: Networks, config: ConfigDict
) -> Terms:
    """Returns the terms of `loss.semantic_kind`.

    Args:
      params: of the semantic discriminator; None where there is none.
      prototypes: of the source, see `TrainState`; None where no term reads them.
      maps: by stream, `features` `[B, h, w, D]` and `logits` `[B, h, w, C]`.
      batch: by stream, `label` `[B, H, W]`; beside unlabelled images `teacher_logits` `[B, h, w, C]` where a teacher
        acts.
      networks: its semantic discriminator judges.
      config: the whole configuration; static.

    Returns:
      The term for the segmenter, that for the discriminator, what to log, and what `updated_prototypes` takes.
    """
    return _TERMS[config.loss.semantic_kind](params, prototypes, maps, batch, networks, config)


def _class_mean_terms(
    params: dict, prototypes: None, maps: dict, batch: dict, networks: Networks, config: ConfigDict
) -> Terms:
    """The adversary on class means (ASS, section 3.2); with `prototypes`, moved towards those of earlier steps."""
    settings, kind = config.loss, config.loss.semantic_outputs
    confuses_both = settings.semantic_confusion == "both"

    def judge(discriminator: dict, vectors: Array) -> Array:
        return networks.semantic_discriminator.apply({"params": discriminator}, vectors)  # type: ignore[union-attr]

    fool = learn = accuracy = jnp.zeros(())
    found = {}
    for stream, domain, share in _acting(maps, config):
        vectors, present = _vectors(stream, maps[stream], batch[stream], config)
        if prototypes is not None:
            side = "target" if domain == TARGET else "source"
            found[side] = _sums(vectors, present)
            earlier = jnp.where(prototypes[side]["seen"][:, None] > 0, prototypes[side]["vectors"], vectors)
            vectors = vectors + 0.5 * stop_gradient(earlier - vectors)
        outputs = judge(params, stop_gradient(vectors))
        learn += 0.5 * share * semantic_loss(outputs, domain, present, kind)
        accuracy += 0.5 * share * domain_accuracy(domain_logits(outputs, kind), domain, present)
        if domain == TARGET or confuses_both:
            other = TARGET if domain == SOURCE else SOURCE
            wrong = semantic_loss(judge(stop_gradient(params), vectors), other, present, kind)
            fool += (0.5 if confuses_both else 1.0) * share * wrong
    return fool, learn, _adversary_metrics(fool, learn, accuracy), found


def _cell_terms(
    params: dict, prototypes: None, maps: dict, batch: dict, networks: Networks, config: ConfigDict
) -> Terms:
    """The adversary on every cell, given its class (FADA, arXiv 2007.09222)."""
    del prototypes

    def judge(discriminator: dict, cells: Array) -> Array:
        return networks.semantic_discriminator.apply({"params": discriminator}, cells)  # type: ignore[union-attr]

    fool = learn = accuracy = jnp.zeros(())
    for stream, domain, share in _acting(maps, config):
        cells = _read(maps[stream], config)
        classes = _cell_classes(stream, maps[stream], batch[stream], config)
        loss, right = cell_domain_loss(judge(params, stop_gradient(cells)), domain, classes)
        learn += 0.5 * share * loss
        accuracy += 0.5 * share * right
        if domain == TARGET:
            fool += share * cell_domain_loss(judge(stop_gradient(params), cells), SOURCE, classes)[0]
    return fool, learn, _adversary_metrics(fool, learn, accuracy), {}


def _prototype_terms(
    params: None, prototypes: dict, maps: dict, batch: dict, networks: Networks, config: ConfigDict
) -> Terms:
    """Contrast of target cells with the classes' mean vectors of the source (as SePiCo, arXiv 2204.08808)."""
    del params, networks
    fool, found = jnp.zeros(()), {}
    for stream, domain, share in _acting(maps, config):
        cells = _read(maps[stream], config)
        if domain == SOURCE:
            vectors, present = _vectors(stream, maps[stream], batch[stream], config)
            found = _sums(vectors, present)
            continue
        classes = _cell_classes(stream, maps[stream], batch[stream], config)
        confident = jnp.max(classes, axis=-1) >= config.teacher.threshold
        labels = jnp.where(confident, jnp.argmax(classes, axis=-1), IGNORED)
        fool += share * prototype_loss(cells, labels, prototypes["vectors"], prototypes["seen"])
    return fool, jnp.zeros(()), {"loss/semantic": fool}, found


def _sums(vectors: Array, present: Array) -> dict:
    weights = present.astype(jnp.float32)
    sums = jnp.einsum("bcd,bc->cd", stop_gradient(vectors), weights, precision="highest")
    return {"sums": sums, "images": jnp.sum(weights, axis=0)}


def updated_prototypes(prototypes: dict, found: dict) -> dict:
    """Moves each class's prototype towards its mean vector in the source images of a step that show it.

    Args:
      prototypes: `vectors` `[C, D]`, and `seen` `[C]`, 1 for classes that some image has shown.
      found: `sums` `[C, D]` of the vectors of `images` `[C]` images.
    """
    if "source" in prototypes:
        return {side: updated_prototypes(prototypes[side], found[side]) for side in prototypes}
    present, seen = found["images"] > 0, prototypes["seen"]
    mean = found["sums"] / jnp.maximum(found["images"], 1.0)[:, None]
    decay = (_DECAY * seen)[:, None]  # The first vector counts in full.
    moved = decay * prototypes["vectors"] + (1.0 - decay) * mean
    return {
        "vectors": jnp.where(present[:, None], moved, prototypes["vectors"]),
        "seen": jnp.maximum(seen, present.astype(jnp.float32)),
    }


def _acting(maps: dict, config: ConfigDict) -> Iterator[tuple[str, int, float]]:
    """Yields the streams at hand that take part, their domain and their share of it."""
    reads_unlabelled = config.loss.semantic_unlabelled != "none"
    for stream, domain in _DOMAINS.items():
        if stream in maps and (stream != "unlabelled" or reads_unlabelled):
            yield stream, domain, 0.5 if domain == TARGET and reads_unlabelled else 1.0


def _vectors(stream: str, maps: dict, examples: dict, config: ConfigDict) -> tuple[Array, Array]:
    """Returns the mean vectors of the classes of each image, `[B, C, D]`, and which of them count, `[B, C]`."""
    cells, classes = _read(maps, config), maps["logits"].shape[-1]
    if stream == "unlabelled":
        return soft_class_means(cells, _probabilities(maps, examples, config))
    labels = cell_labels(examples["label"], *cells.shape[1:3])
    pixels = config.loss.semantic_pixels
    if pixels != "labelled" and stream == "source":
        labels = jnp.where(jnp.argmax(maps["logits"], axis=-1) == labels, labels, IGNORED)
    vectors, present = class_means(cells, labels, classes)
    if pixels == "agreed":
        means, _ = class_means(stop_gradient(maps["logits"]), labels, classes)
        present &= jnp.argmax(means, axis=-1) == jnp.arange(classes)
    return vectors, present


def _cell_classes(stream: str, maps: dict, examples: dict, config: ConfigDict) -> Array:
    """Returns the share of each class in a cell, `[B, h, w, C]`: of its label, 0 if ignored, or as predicted."""
    if stream == "unlabelled":
        return _probabilities(maps, examples, config)
    height, width, classes = maps["logits"].shape[1:]
    labels = cell_labels(examples["label"], height, width)
    return (labels[..., None] == jnp.arange(classes)).astype(jnp.float32)


def _probabilities(maps: dict, examples: dict, config: ConfigDict) -> Array:
    logits = examples["teacher_logits"] if config.loss.semantic_unlabelled == "teacher" else maps["logits"]
    return jax.nn.softmax(stop_gradient(logits).astype(jnp.float32))


def _read(maps: dict, config: ConfigDict) -> Array:
    """Returns the map that `loss.semantic_input` names."""
    if config.loss.semantic_input == "probabilities":
        return jax.nn.softmax(maps["logits"].astype(jnp.float32))
    return maps[config.loss.semantic_input]


def _adversary_metrics(fool: Array, learn: Array, accuracy: Array) -> dict[str, Array]:
    return {
        "loss/semantic": fool,
        "loss/semantic_discriminator": learn,
        "accuracy/semantic_discriminator": accuracy,
    }


_TERMS: dict[str, Any] = {"class_means": _class_mean_terms, "cells": _cell_terms, "prototypes": _prototype_terms}
