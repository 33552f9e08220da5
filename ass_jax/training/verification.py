"""Compares a training step with the same step in plain operations, because a faulty fast operation raises no error."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ass_jax import ops
from ass_jax.method.optimizers import make_optimizer
from ass_jax.method.state import TrainState, create_state
from ass_jax.method.train_step import train_step
from ass_jax.models import build_networks
from ass_jax.runtime import compilation
from ass_jax.training.memory_estimate import Sizes, compile_step
from configs.user_error import UserError

# Largest relative difference of root mean squares. Rounding alone gives about 1e-5 for a small network and 1e-3 for a
# deep one with random weights; the smallest known fault gave 4e-2.
TOLERANCE = 1e-2
# A larger difference passes if it is at most this multiple of the rounding error. For other types than float32, that is
# the distance of the plain step from one in float32; for float32, the change of the plain step when all weights change
# by rounding, which deep networks with random weights magnify.
TIMES = 3.0
_MOST_WEIGHTS = 2_000_000  # Of a segmenter that "auto" verifies: it takes seconds.
_ROUNDING = 3e-7  # Relative change of the weights.
_ATTEMPTS, _CHANGE = 5, 1e-3  # While a step differs, it is repeated with the weights changed by this share.
_MOST_NAMES = 5  # In the message.


class DifferentError(UserError):
    """The step differs from the plain step; the message says by how much, and what to do."""


def is_enabled(config: ConfigDict, state: TrainState) -> bool:
    """Returns whether `config.verify` asks for a comparison of the first step.

    Args:
      config: the whole configuration.
      state: arrays or their shapes.
    """
    if ops.current_form() == "reference" or config.verify == "never":
        return False
    weights = sum(leaf.size for leaf in jax.tree.leaves(state.params["segmenter"]))
    return config.verify == "always" or weights <= _MOST_WEIGHTS


def verify_step(step: Callable, state: TrainState, batch: dict, config: ConfigDict, num_classes: int) -> float:
    """Takes one step both ways from the same state and compares losses, gradients and running statistics.

    The gradients are compared as the optimisers store them: the momentum, and Adam's moments.

    Args:
      step: the compiled training step, `(state, batch) -> (state, metrics)`; it may donate the state's buffers.
      state: before the first step; it is not changed.
      batch: of the first step.
      config: the whole configuration.
      num_classes: C.

    Returns:
      The largest relative difference among all losses and arrays.

    Raises:
      DifferentError: the steps differ by more than rounding.
    """
    plain = _plain_step(state, batch, config, num_classes)
    # Accelerators may compute float32 with fewer bits; a CPU does not.
    coarse = jax.default_backend() != "cpu" or config.model.dtype != "float32"
    precise = None
    least: dict[str, tuple[float, float]] = {}
    for attempt in range(_ATTEMPTS):
        given = _changed(state, attempt, _CHANGE) if attempt else state
        found, expected = _outcome(*step(jax.tree.map(jnp.copy, given), batch)), _outcome(*plain(given, batch))
        differences, allowed = _differences(found, expected), dict.fromkeys(expected, TOLERANCE)
        if not all(difference <= TOLERANCE for difference in differences.values()):
            if coarse:
                precise = precise or _precise_step(state, batch, config, num_classes)
                truth = _outcome(*precise(given, batch))
                differences, rounding = _differences(found, truth), _differences(expected, truth)
            else:
                nearby = plain(_changed(given, _ATTEMPTS + attempt, _ROUNDING), batch)
                rounding = _differences(_outcome(*nearby), expected)
            allowed = {name: TOLERANCE + TIMES * rounding[name] for name in expected}
        for name, difference in differences.items():
            pair = difference, allowed[name]
            least[name] = min(least.get(name, pair), pair, key=lambda pair: pair[0] / pair[1])
        if all(difference <= allowed for difference, allowed in least.values()):
            return max(difference for difference, _ in least.values())
    raise DifferentError(_message(least, batch))


def _changed(state: TrainState, seed: int, change: float) -> TrainState:
    """Returns the state with each weight changed at random, by about a share of itself.

    Where the input of a ReLU is 0 up to rounding, its gradient is 0 or 1, and both are right. Other weights move such
    inputs away from 0; a fault remains whatever the weights are.
    """
    generator = np.random.default_rng(seed)  # On the host, without compilation.

    def changed(leaf: jax.Array) -> jax.Array:
        factors = 1 + change * generator.standard_normal(leaf.shape, np.float32)
        return jax.device_put(np.asarray(leaf) * factors.astype(leaf.dtype), leaf.sharding)

    return state.replace(params=jax.tree.map(changed, state.params))


def format_agreement(difference: float) -> str:
    """Returns the message that the steps agree."""
    return f"The first step agrees with plain operations: losses, gradients and statistics within {difference:.0e}."


def _plain_step(state: TrainState, batch: dict, config: ConfigDict, num_classes: int) -> Callable:
    networks, optimizer = build_networks(config, num_classes), make_optimizer(config)
    step = functools.partial(train_step, networks=networks, config=config, optimizer=optimizer)
    with ops.form("reference"):
        lowered = jax.jit(step, out_shardings=state.step.sharding).lower(state, batch)
    return lowered.compile(compiler_options=compilation.options_of_one_use())


def _precise_step(state: TrainState, batch: dict, config: ConfigDict, num_classes: int) -> Callable:
    config = config.copy_and_resolve_references()
    config.model.dtype = "float32"
    with jax.default_matmul_precision("highest"):
        return _plain_step(state, batch, config, num_classes)


def _outcome(state: TrainState, metrics: dict) -> dict[str, np.ndarray]:
    """Returns the results of a step by name: losses, running statistics and the state of the optimiser.

    The weights are left out: one step changes them too little for a comparison in float32.
    """
    losses = {name: value for name, value in metrics.items() if name.startswith(("loss/", "gradient_norm/"))}
    trees = {
        "": losses,
        "running": state.batch_stats,
        "running, of the source": state.source_stats,
        "of the optimiser": state.optimizer_state,
    }
    leaves, _ = jax.tree_util.tree_flatten_with_path(trees)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/").lstrip("/"): np.asarray(leaf)
        for path, leaf in leaves
        if jnp.issubdtype(leaf.dtype, jnp.floating)
    }


def _differences(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> dict[str, float]:
    return {name: _difference(found[name], expected[name]) for name in expected}


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    if not np.isfinite(expected).all():  # Such a step is skipped and reported by the monitor.
        return 0.0
    if not np.isfinite(found).all():
        return float("inf")
    size, distance = np.linalg.norm(expected), np.linalg.norm(found - expected)
    return float(distance / size) if size > 0 else float(distance)


def _message(least: dict[str, tuple[float, float]], batch: dict) -> str:
    sizes = ", ".join(f"{name} {'x'.join(map(str, examples['image'].shape))}" for name, examples in batch.items())
    beyond = {name: pair for name, pair in least.items() if not pair[0] <= pair[1]}
    worst = sorted(beyond, key=lambda name: -beyond[name][0])[:_MOST_NAMES]
    return "\n".join(
        [
            f"The first training step differs from the same step in plain operations, at images of {sizes}.",
            "A fast operation, or this version of JAX, is wrong at these sizes. Relative differences:",
            *(f"  {beyond[name][0]:.1e} (at most {beyond[name][1]:.1e} by rounding): {name}" for name in worst),
            *([f"  ... {len(beyond) - _MOST_NAMES} more"] if len(beyond) > _MOST_NAMES else []),
            f"Nothing was trained. {ops.VARIABLE}=reference in the environment trains with plain operations, slower.",
            "Other image sizes may work. Please report these lines. --config.verify=never skips the comparison.",
        ]
    )


def verify_configuration(
    config: ConfigDict, num_classes: int, sizes: Sizes, step: jax.stages.Compiled | None = None
) -> float | None:
    """Verifies a step of a configuration with random weights and images, as `verify_step` does.

    Args:
      config: the whole configuration.
      num_classes: C.
      sizes: of the streams of a step.
      step: of `compile_step` for the same; None: it is compiled here.

    Returns:
      The largest relative difference; None if `is_enabled` is False.

    Raises:
      DifferentError: the steps differ by more than rounding.
    """
    networks, optimizer = build_networks(config, num_classes), make_optimizer(config)
    shared = {"networks": networks, "config": config, "optimizer": optimizer}
    create = functools.partial(create_state, num_classes=num_classes, **shared)
    if not is_enabled(config, jax.eval_shape(create)):
        return None
    state = jax.jit(create, compiler_options=compilation.options_of_one_use())()
    batch = jax.device_put(_random_batch(sizes, num_classes))
    step = step or compile_step(config, num_classes, sizes)
    return verify_step(step, state, batch, config, num_classes)


def _random_batch(sizes: Sizes, num_classes: int) -> dict:
    """Returns images of coarse blocks with noise, and labels of coarse blocks."""
    generator, batch = np.random.default_rng(0), {}
    for stream, (count, height, width, has_label) in sizes.items():
        cells = count, -(-height // 8), -(-width // 8)

        def magnified(values: np.ndarray, height: int = height, width: int = width) -> np.ndarray:
            return values.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]

        coarse = magnified(generator.integers(0, 200, (*cells, 3)))
        batch[stream] = {"image": (coarse + generator.integers(0, 56, coarse.shape)).astype(np.uint8)}
        if has_label:
            batch[stream]["label"] = magnified(generator.integers(0, num_classes, cells)).astype(np.uint8)
    return batch
