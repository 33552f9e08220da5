"""The training state: everything that a resumed run needs."""

import flax.struct
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from ass_jax.method.semantic import reads_unlabelled
from ass_jax.models import Networks

Variables = dict[str, dict]  # {"params": ..., "batch_stats": ...} of the segmenter.


class TrainState(flax.struct.PyTreeNode):
    """Everything that a step reads and writes.

    Attributes:
      step: int32 scalar, steps done.
      params: of "segmenter" and, where their terms act, "global_discriminator" and "semantic_discriminator".
      batch_stats: running batch-norm statistics of the segmenter, of the domain that is evaluated; empty without batch
        norm.
      optimizer_state: of `ass_jax.method.optimizers.make_optimizer`.
      average: `{"params": ..., "batch_stats": ...}`, moving average of the segmenter; None when it is off.
      source_stats: running statistics of the source's own; None where they are not separate, see `separates_domains`.
    """

    step: jax.Array
    params: dict
    batch_stats: dict
    optimizer_state: optax.OptState
    average: Variables | None
    source_stats: dict | None = None

    @property
    def segmenter(self) -> Variables:
        """The segmenter's variables, ready for `apply`."""
        return {"params": self.params["segmenter"], "batch_stats": self.batch_stats}


def create_state(
    *, networks: Networks, optimizer: optax.GradientTransformation, config: ConfigDict, num_classes: int
) -> TrainState:
    """Returns the state before the first step, with random weights. Pure: it can be jitted, or traced for shapes.

    Each network draws from its own key, so that a run without a discriminator starts from the same segmenter.

    Args:
      networks: the networks to initialise.
      optimizer: see `make_optimizer`.
      config: the whole configuration; `seed` gives the weights.
      num_classes: `C`.
    """
    keys = jax.random.split(jax.random.key(config.seed), 3)
    variables = _segmenter_variables(networks, config, keys[0])
    params = {"segmenter": variables["params"]}
    if networks.global_discriminator is not None:
        probabilities = jnp.zeros((1, *config.data.target_size, num_classes))
        params["global_discriminator"] = networks.global_discriminator.init(keys[1], probabilities)["params"]
    if networks.semantic_discriminator is not None:
        images = jnp.zeros((1, *config.data.target_size, 3))
        features, logits = jax.eval_shape(lambda: networks.segmenter.apply(variables, images, train=False))
        read = {"features": features, "logits": logits}[config.loss.semantic_input]
        vectors = jnp.zeros((1, read.shape[-1]))
        params["semantic_discriminator"] = networks.semantic_discriminator.init(keys[2], vectors)["params"]
    # A copy: the step donates the buffers of both, which must not be the same.
    average = jax.tree.map(jnp.copy, variables) if config.teacher.decay else None
    statistics = variables["batch_stats"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=statistics,
        optimizer_state=optimizer.init(params),
        average=average,
        source_stats=jax.tree.map(jnp.copy, statistics) if separates_domains(config) else None,
    )


def separates_domains(config: ConfigDict) -> bool:
    """Returns whether source and target images move running statistics of their own (AdaBN, arXiv 1603.04779).

    Otherwise all images move the same ones, as in the reference implementation, or all are of one domain.
    """
    batch = config.data.batch
    terms = (config.loss.global_weight, config.teacher.mixed_weight, reads_unlabelled(config))
    passes_target = batch.labelled or (batch.unlabelled and (any(terms) or config.model.adapt_statistics))
    by_domain = config.model.running_statistics == "by_domain" and config.model.batch_norm == "batch"
    return bool(by_domain and batch.source and passes_target)


def abstract_segmenter(networks: Networks, config: ConfigDict) -> Variables:
    """Returns shapes and types of the segmenter's variables."""
    return jax.eval_shape(lambda: _segmenter_variables(networks, config, jax.random.key(0)))


def _segmenter_variables(networks: Networks, config: ConfigDict, key: jax.Array) -> Variables:
    images = jnp.zeros((1, *config.data.target_size, 3))
    variables = networks.segmenter.init(key, images, train=False)
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
