"""Small states to save, and the steps found on disk."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ass_jax.method.state import TrainState

CONFIGURATION = {"steps": 6, "data": {"target_size": (64, 128), "source": "toy"}, "seed": None}


def make_state(seed: int = 0, width: int = 4, with_average: bool = True) -> TrainState:
    """Returns a small state with every part of a real one: named tuples, empty optimiser states, a scalar, bfloat16."""
    draw = np.random.default_rng(seed)
    segmenter = {
        "backbone": {"kernel": jnp.asarray(draw.normal(size=(3, width)), jnp.float32)},
        "classifier": {"bias": jnp.asarray(draw.normal(size=2), jnp.bfloat16)},
    }
    discriminator = {"kernel": jnp.asarray(draw.normal(size=5), jnp.float32)}
    params = {"segmenter": segmenter, "global_discriminator": discriminator}
    batch_stats = {"backbone": {"mean": jnp.asarray(draw.normal(size=3), jnp.float32)}}
    optimizer = optax.partition(
        {"momentum": optax.chain(optax.identity(), optax.sgd(0.1, 0.9)), "adam": optax.adam(1e-3)},
        {"segmenter": "momentum", "global_discriminator": "adam"},
    )
    optimizer_state = jax.tree.map(lambda leaf: leaf + jnp.asarray(seed + 1, leaf.dtype), optimizer.init(params))
    average = jax.tree.map(lambda leaf: leaf + 1, {"params": segmenter, "batch_stats": batch_stats})
    return TrainState(jnp.int32(seed), params, batch_stats, optimizer_state, average if with_average else None)


def assert_identical(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for left, right in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert left.dtype == right.dtype
        assert left.shape == right.shape
        assert np.asarray(left).tobytes() == np.asarray(right).tobytes()


def steps_on_disk(directory: Path) -> list[int]:
    return sorted(int(path.name) for path in directory.iterdir())
