"""The pure training step. No jit, no input or output.

Legend: B batch, H W pixels, h w feature cells, D feature channels, C classes.
"""

import functools

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.lax import stop_gradient
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ass_jax.method.losses import (
    IGNORED,
    SOURCE,
    TARGET,
    dice_loss,
    domain_accuracy,
    domain_loss,
    segmentation_loss,
)
from ass_jax.method.optimizers import make_schedules, segmenter_groups
from ass_jax.method.semantic import reads_unlabelled, semantic_terms
from ass_jax.method.state import TrainState, Variables
from ass_jax.method.teacher import follow, mixed_examples, pseudo_labels
from ass_jax.models import Networks
from ass_jax.models.preprocess import normalise
from ass_jax.models.vit import STREAM as STOCHASTIC_DEPTH
from ass_jax.ops import as_own, each_device, of_first_device, resize_bilinear, sum_by_stream, sum_over_devices

Metrics = dict[str, Array]

# In the order in which they pass and update the running statistics; `jit` sorts the keys of the batch. The step
# itself makes the mixed images.
PASSES = ("source", "mixed", "labelled", "unlabelled")

_LEAST_NUMBER = 1_000  # Of a stream's key: `add_mixed` splits the same key, and lower numbers would give equal ones.


def train_step(
    state: TrainState,
    batch: dict[str, dict[str, Array]],
    *,
    networks: Networks,
    config: ConfigDict,
    optimizer: optax.GradientTransformation,
    mesh: Mesh | None = None,
) -> tuple[TrainState, Metrics]:
    """One step of the min-max game: each image passes the segmenter once, and its backward pass trains all networks.

    The players' gradients are told apart by stopping them, so that the whole game is one scalar,
    `L(segmenter; stopped discriminators) + L_D(discriminators; stopped maps)`.

    Where `teacher.mixed_weight` is not 0 (ASS+), the segmenter's average first labels the unlabelled images, and images
    mixed from them and labelled ones pass beside the others; the unlabelled ones themselves pass only where the
    global adversary reads their maps.

    Args:
      state: see `TrainState`.
      batch: streams "source" and "labelled" with `image` uint8 `[B, H, W, 3]` and `label` `[B, H, W]`,
        "unlabelled" with `image`; each with its own sizes, and only those that a term needs.
      networks: the discriminators are None where their weight is 0.
      config: the whole configuration; static.
      optimizer: of `make_optimizer(config)`.
      mesh: of `ass_jax.runtime.sharding.make_mesh`, among whose devices the batch is divided: they add up their
        gradients once, in float32. None: XLA decides when.

    Returns:
      The next state and float32 scalars: losses, accuracies, gradient norms, learning rates, and `skipped`: 1 where
      the loss or a gradient is not finite. Then all but the number of the step stays as it was.
    """
    taught = {}
    if config.teacher.mixed_weight:
        batch, taught = add_mixed(state, batch, networks, config, mesh)
        if networks.global_discriminator is None and not reads_unlabelled(config):
            del batch["unlabelled"]  # No term reads its maps.

    def objective(params: dict, statistics: dict, step: Array, streams: dict) -> tuple[Array, tuple[dict, Metrics]]:
        params = _freeze(params, config)
        maps, statistics = _forward(params["segmenter"], statistics, streams, step, networks, config)
        total, metrics = _segmentation_terms(maps, streams, config)
        ramp = _ramp(step, config.loss.warmup_steps)
        if networks.global_discriminator is not None:
            fool, learn, found = _global_terms(params["global_discriminator"], maps, networks, config)
            total += ramp * config.loss.global_weight * fool + learn
            metrics |= found
        if networks.semantic_discriminator is not None:
            fool, learn, found = semantic_terms(params["semantic_discriminator"], maps, streams, networks, config)
            total += ramp * config.loss.semantic_weight * fool + learn
            metrics |= found
        return total, (statistics, metrics)

    def all_terms(shared: tuple[dict, dict, Array], streams: dict) -> tuple[dict, dict]:
        params, statistics, step = shared
        params = as_own(params)

        def terms(statistics: dict, streams: dict) -> tuple[dict, dict]:
            value_and_gradients = jax.value_and_grad(objective, has_aux=True)
            (total, (statistics, metrics)), gradients = value_and_gradients(params, statistics, step, streams)
            return statistics, {"total": total, "metrics": metrics, "gradients": gradients}

        # No term joins two streams.
        streams = {name: streams[name] for name in PASSES if name in streams}
        statistics, sums = sum_by_stream(terms, statistics, streams)
        gradients = sum_over_devices(sums.pop("gradients"))
        statistics, sums = of_first_device((statistics, sums))
        return statistics, sums | {"gradients": gradients}

    shared = (state.params, {"target": state.batch_stats, "source": state.source_stats}, state.step)
    statistics, sums = each_device(all_terms, mesh)(shared, batch)
    batch_stats, source_stats = statistics["target"], statistics["source"]
    total, metrics, gradients = sums["total"], sums["metrics"] | taught, sums["gradients"]
    norms = {f"gradient_norm/{network}": optax.tree.norm(gradient) for network, gradient in gradients.items()}
    finite = jnp.isfinite(jnp.stack([total, *norms.values()])).all()
    metrics |= norms | {"skipped": 1.0 - finite}
    updates, optimizer_state = optimizer.update(gradients, state.optimizer_state, state.params, finite=finite)
    params = optax.apply_updates(state.params, updates)
    for group, schedule in make_schedules(config).items():
        if group in ("backbone", "classifier") or group in params:
            metrics[f"learning_rate/{group}"] = schedule(state.step)
    average = state.average
    if average is not None:
        segmenter = {"params": params["segmenter"], "batch_stats": batch_stats}
        average = follow(average, segmenter, state.step, config.teacher.decay)
    updated = (params, batch_stats, source_stats, average)
    unchanged = (state.params, state.batch_stats, state.source_stats, state.average)
    params, batch_stats, source_stats, average = jax.tree.map(functools.partial(jnp.where, finite), updated, unchanged)
    return TrainState(state.step + 1, params, batch_stats, optimizer_state, average, source_stats), metrics


def add_mixed(
    state: TrainState, batch: dict, networks: Networks, config: ConfigDict, mesh: Mesh | None = None
) -> tuple[dict, Metrics]:
    """Adds the mixed stream, and the teacher's confident labels to the unlabelled one.

    Args:
      state: before the step.
      batch: as for `train_step`.
      networks: the segmenter is used.
      config: the whole configuration; static.
      mesh: as for `train_step`.

    Returns:
      The streams, with "mixed" of `ass_jax.method.teacher.mixed_examples`, and `pseudo_label` `[B, H, W]`, 255 where
      not confident, beside the unlabelled images, with `teacher_logits` `[B, h, w, C]` where the semantic term reads
      them; and `teacher/confident`: the share of confident pixels.
    """

    def teach(average: Variables, images: Array) -> tuple[Array, tuple[Array, Array]]:
        _, logits = networks.segmenter.apply(average, normalise(images, config), train=False)
        height, width = images.shape[1:3]
        return logits, pseudo_labels(logits, (height, width), config.teacher.threshold)

    images = batch["unlabelled"]["image"]
    logits, (labels, confident) = each_device(teach, mesh, images=True)(state.average, images)
    key = jax.random.fold_in(jax.random.key(config.seed), state.step)
    mixed = mixed_examples(key, batch, labels, confident, config=config, num_classes=networks.segmenter.num_classes)
    unlabelled = {"image": images, "pseudo_label": jnp.where(confident, labels, IGNORED)}
    if reads_unlabelled(config):
        unlabelled["teacher_logits"] = logits
    streams = batch | {"mixed": mixed, "unlabelled": unlabelled}
    return streams, {"teacher/confident": jnp.mean(confident, dtype=jnp.float32)}


def _freeze(params: dict, config: ConfigDict) -> dict:
    """Stops the gradients of the segmenter's frozen group, which is then neither computed, clipped nor logged."""
    groups = segmenter_groups(params["segmenter"], config.model)
    segmenter = jax.tree.map(
        lambda leaf, group: stop_gradient(leaf) if group == "frozen" else leaf, params["segmenter"], groups
    )
    return params | {"segmenter": segmenter}


def _forward(
    params: dict, statistics: dict, batch: dict, step: Array, networks: Networks, config: ConfigDict
) -> tuple[dict, dict]:
    """Passes every stream once through the segmenter, each with its own batch statistics.

    `statistics` holds running statistics of the "target" and, None where they are not separate, of the "source". Mixed
    images, parts of which may be of the source, move neither where they are separate.

    Returns:
      By stream: `features` `[B, h, w, D]`, `logits` `[B, h, w, C]`, `scores` (logits at image size)
      `[B, H, W, C]`; and the running statistics after all streams, in the order of `PASSES`.
    """
    separate = statistics["source"] is not None
    maps = {}
    for stream in PASSES:
        if stream not in batch:
            continue
        domain = "source" if separate and stream == "source" else "target"
        images = normalise(batch[stream]["image"], config)
        (features, logits), updated = networks.segmenter.apply(
            {"params": params, "batch_stats": statistics[domain]},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs=_random_streams(stream, step, config),
        )
        if not (separate and stream == "mixed"):
            statistics = statistics | {domain: updated.get("batch_stats", statistics[domain])}
        scores = resize_bilinear(logits, images.shape[1:3])
        maps[stream] = {"features": features, "logits": logits, "scores": scores}
    return maps, statistics


def _random_streams(stream: str, step: Array, config: ConfigDict) -> dict[str, Array]:
    """Returns the keys from which the segmenter draws in training: other ones for each stream and step."""
    if not config.model.stochastic_depth:
        return {}
    key = jax.random.fold_in(jax.random.key(config.seed), step)
    number = _LEAST_NUMBER + PASSES.index(stream)
    return {STOCHASTIC_DEPTH: jax.random.fold_in(key, number)}


def _segmentation_terms(maps: dict, batch: dict, config: ConfigDict) -> tuple[Array, Metrics]:
    losses = {
        f"loss/segmentation_{stream}": segmentation_loss(
            maps[stream]["scores"], examples["label"], examples.get("weight")
        )
        for stream, examples in batch.items()
        if "label" in examples
    }
    weights = {"loss/segmentation_mixed": config.teacher.mixed_weight}
    if config.loss.dice_weight:
        for stream in ("source", "labelled"):  # Labels of mixed images are guesses.
            if stream in maps:
                losses[f"loss/dice_{stream}"] = dice_loss(maps[stream]["scores"], batch[stream]["label"])
                weights[f"loss/dice_{stream}"] = config.loss.dice_weight
    return sum((weights.get(name, 1.0) * loss for name, loss in losses.items()), jnp.zeros(())), losses


def _global_terms(params: dict, maps: dict, networks: Networks, config: ConfigDict) -> tuple[Array, Array, Metrics]:
    """The output-space adversary (AdaptSegNet): its terms for the segmenter and for itself, and what to log.

    All are sums over the streams at hand.
    """
    kind = config.loss.global_kind
    threshold = 0.5 if kind == "least_squares" else 0.0

    def judge(discriminator: dict, probabilities: Array) -> Array:
        return networks.global_discriminator.apply({"params": discriminator}, probabilities)  # type: ignore[union-attr]

    fool = learn = accuracy = jnp.zeros(())
    for stream, domain in (("source", SOURCE), ("unlabelled", TARGET)):
        if stream not in maps:
            continue
        probabilities = jax.nn.softmax(maps[stream]["scores"])
        logits = judge(params, stop_gradient(probabilities))
        learn += 0.5 * domain_loss(logits, domain, kind=kind)
        accuracy += 0.5 * domain_accuracy(logits - threshold, domain)
        if domain == TARGET:
            fool += domain_loss(judge(stop_gradient(params), probabilities), SOURCE, kind=kind)
    return fool, learn, _adversary_metrics("global", fool, learn, accuracy)


def _adversary_metrics(name: str, fool: Array, learn: Array, accuracy: Array) -> Metrics:
    return {
        f"loss/{name}": fool,
        f"loss/{name}_discriminator": learn,
        f"accuracy/{name}_discriminator": accuracy,
    }


def _ramp(step: Array, warmup_steps: int) -> Array | float:
    """Share of the adversarial weights in force: rises linearly from 0 to 1 over the warm-up."""
    return jnp.minimum(1.0, step / warmup_steps) if warmup_steps else 1.0
