"""Says in what a configuration differs from that of a checkpoint which a run would go on from, or score."""

import json
from collections.abc import Iterator
from typing import Any

from ass_jax.checkpoints.leaves import plain_json

_ABSENT = "absent"

# Keys, or groups of keys, that change no weight of the steps to come, or not in a way that depends on the past.
HARMLESS = (
    "steps",  # The schedule follows optimizer.decay_steps.
    "init",  # Read before the first step only.
    "log_every",
    "skipped_limit",
    "verify",
    "model.remat",  # Computes the same, some of it twice.
    "resume_with_changes",
    "checkpoint",
    "evaluation",
    "data.directory",
    "data.source_root",
    "data.target_root",
    "data.readers",
    "data.prefetch",
    "data.decoded_memory",
    "data.rejected_limit",
    "data.undecodable_limit",
    "distributed",  # The steps do not depend on who computes them.
    "data.labelled_list",  # A path; which images it names is told by their hash.
    "labelled.list",  # The same in words.
)

# Keys, or groups of keys, on which the scores of a checkpoint depend, or what they are called.
SCORING = (
    "variant",
    "data.target",
    "data.target_size",
    "data.classes",
    "data.custom",
    "data.toy",
    "data.full_size",
    "model",
    "evaluation.scales",
    "evaluation.flip",
    "evaluation.window",
    "evaluation.stride",
)


class ChangedError(ValueError):
    """The settings are not those of the checkpoint."""


def check(directory: str, step: int, there: dict, here: dict, allowed: bool) -> None:
    """Compares the configuration of a checkpoint with that of a run which would go on from it.

    Args:
      directory: of the checkpoint, for the message.
      step: of the checkpoint.
      there: configuration of the checkpoint, as JSON gave it back.
      here: that of the run, of the same form.
      allowed: prints the differences instead of refusing.

    Raises:
      ChangedError: keys differ that are not harmless; the message lists them.
    """
    found = differences(there, here)
    if not found:
        return
    text = f"The settings are not those of checkpoint {step} in {directory}:{in_lines(found)}"
    if not allowed:
        raise ChangedError(
            f"{text}\nGive the same settings again, or name another --workdir; to go on with these, "
            "--config.resume_with_changes. Evaluation takes any."
        )
    print(f"{text}\nGoes on with them, as config.resume_with_changes says.", flush=True)


def differences(there: dict, here: dict) -> list[tuple[str, str, str]]:
    """Returns the keys that differ and are not harmless to training, with both values as JSON text."""
    return [found for found in _differences(there, here) if not _is_among(found[0], HARMLESS)]


def scoring_differences(there: dict, here: dict) -> list[tuple[str, str, str]]:
    """Does the same for the keys that matter to the scores."""
    return [found for found in _differences(there, here) if _is_among(found[0], SCORING)]


def in_lines(found: list[tuple[str, str, str]]) -> str:
    """Returns differences as text, each on a line of its own below what comes before."""
    return "".join(f"\n  {key}: {old} there, {new} here" for key, old, new in found)


def _differences(there: dict, here: dict) -> list[tuple[str, str, str]]:
    there, here = dict(_flat(plain_json(there))), dict(_flat(plain_json(here)))
    return [
        (key, there.get(key, _ABSENT), here.get(key, _ABSENT))
        for key in sorted(there.keys() | here.keys())
        if there.get(key) != here.get(key)
    ]


def _is_among(key: str, keys: tuple[str, ...]) -> bool:
    return any(key == one or key.startswith(f"{one}.") for one in keys)


def _flat(tree: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields dotted keys and their values as JSON text: a tuple is a list there, and 1.0 another number than 1."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value)
