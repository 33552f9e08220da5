"""Schedules and parameter groups: SGD or AdamW for the segmenter, Adam for the discriminators."""

import functools
import math
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import lax
from ml_collections import ConfigDict

Schedule = Callable[[jax.typing.ArrayLike], jax.Array]


def make_schedules(config: ConfigDict) -> dict[str, Schedule]:
    """Returns the learning rate of every parameter group as a function of the step.

    Polynomial decay `rate * (1 - step / decay_steps) ** power` for all groups, as in AdaptSegNet; in the first
    `warmup_steps` times `(step + 1) / warmup_steps`, as in DAFormer (arXiv 2111.14887).

    Args:
      config: the whole configuration.

    Returns:
      Schedules by the names "backbone", "classifier", "global_discriminator", "semantic_discriminator".
    """
    settings = config.optimizer
    rates = {
        "backbone": settings.learning_rate,
        "classifier": settings.learning_rate * settings.classifier_factor,
        "global_discriminator": config.discriminator.global_learning_rate,
        "semantic_discriminator": config.discriminator.semantic_learning_rate,
    }

    def schedule(rate: float) -> Schedule:
        decayed = optax.polynomial_schedule(rate, 0.0, settings.decay_power, settings.decay_steps)
        if not settings.warmup_steps:
            return decayed
        return lambda step: decayed(step) * jnp.minimum(1.0, (step + 1) / settings.warmup_steps)

    return {group: schedule(rate) for group, rate in rates.items()}


def make_optimizer(config: ConfigDict) -> optax.GradientTransformationExtraArgs:
    """Returns one optimiser for `{"segmenter": ..., "global_discriminator": ..., "semantic_discriminator": ...}`.

    The segmenter: clip (optional), then `optimizer.kind`: "sgd", weight decay added to the gradient, momentum and the
    learning rate of the group, as PyTorch's SGD; or "adamw" (arXiv 1711.05101), whose decay is not part of the
    gradient. The discriminators: Adam. A discriminator that the parameters lack is left out.

    Its `update` takes `finite`, a bool scalar, by default True. If False, the state does not change, and the updates
    must not be used.

    Args:
      config: the whole configuration.
    """
    settings, schedules = config.optimizer, make_schedules(config)

    def descend(schedule: Schedule) -> optax.GradientTransformation:
        decayed = None if settings.decay_biases else _matrices
        if settings.kind == "adamw":
            return _keep(optax.adamw(schedule, *settings.betas, weight_decay=settings.weight_decay, mask=decayed))
        # PyTorch adds the decay to the gradient before the momentum; `optax.adamw` and the like do not.
        decay = optax.add_decayed_weights(settings.weight_decay, decayed)
        return optax.chain(decay, _momentum(settings.momentum), _keep(optax.scale_by_learning_rate(schedule)))

    def adapt(schedule: Schedule) -> optax.GradientTransformation:
        return _keep(optax.adam(schedule, *config.discriminator.betas))

    def groups(params: dict) -> dict:
        discriminators = {network: network for network in params}
        return discriminators | {"segmenter": segmenter_groups(params["segmenter"], config.model)}

    optimizer = optax.partition(
        {
            "backbone": descend(schedules["backbone"]),
            "classifier": descend(schedules["classifier"]),
            "frozen": optax.set_to_zero(),
            "global_discriminator": adapt(schedules["global_discriminator"]),
            "semantic_discriminator": adapt(schedules["semantic_discriminator"]),
        },
        groups,
    )
    if not settings.clip_norm:
        return optimizer
    clip = optax.clip_by_global_norm(settings.clip_norm)
    return optax.chain(optax.masked(clip, lambda params: {key: key == "segmenter" for key in params}), optimizer)


def segmenter_groups(params: dict, model: ConfigDict) -> dict:
    """Returns the group of each of the segmenter's parameters as a tree: "backbone", "classifier" or "frozen".

    Scale and offset of batch norm are frozen, unless `model.train_norm_affine`. So are the first `model.frozen_blocks`
    blocks or stages of the backbone, and what lies before them; all of it if that is -1.
    """
    frozen = math.inf if model.frozen_blocks < 0 else model.frozen_blocks

    def group(path: tuple, _: jax.Array) -> str:
        names = [entry.key for entry in path]
        is_norm = len(names) > 1 and "norm" in names[-2]
        is_early = names[0] == "backbone" and _block_number(names[1]) <= frozen
        return "frozen" if (is_norm and not model.train_norm_affine) or is_early else names[0]

    return jax.tree_util.tree_map_with_path(group, params)


def _block_number(layer: str) -> float:
    """Returns the number of the block or stage that a layer of a backbone belongs to.

    Layers before the first one belong to it, those after the last one, ViT's norm and VGG's head, to none: infinity.
    """
    if found := re.match(r"(?:block|stage)(\d+)", layer):
        return int(found[1])
    return math.inf if layer.startswith(("output", "head")) else 1


def _matrices(params: optax.Params) -> optax.Params:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def _momentum(decay: float) -> optax.GradientTransformationExtraArgs:
    """Acts as `optax.trace`, but does not change the trace where the gradients are not finite.

    The barrier makes XLA:CPU compute the update from the new trace. Without it, XLA computes both from the old trace
    and the parameters, and has to copy these first, because their buffers are donated.
    """

    def update(gradients, state, params=None, *, finite=True):
        del params
        trace = jax.tree.map(lambda new, old: jnp.where(finite, new + decay * old, old), gradients, state.trace)
        trace = lax.platform_dependent(trace, cpu=lax.optimization_barrier, default=lambda trace: trace)
        return trace, optax.TraceState(trace)

    return optax.GradientTransformationExtraArgs(optax.trace(decay).init, update)


def _keep(transformation: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Wraps a transformation so that its state does not change where the gradients are not finite."""

    def update(gradients, state, params=None, *, finite=True):
        updates, after = transformation.update(gradients, state, params)
        return updates, jax.tree.map(functools.partial(jnp.where, finite), after, state)

    return optax.GradientTransformationExtraArgs(transformation.init, update)
