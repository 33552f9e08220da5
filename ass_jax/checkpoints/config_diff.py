"""Differences between the configuration of a checkpoint and that of the run that resumes from it or scores it."""

import json
from collections.abc import Iterator
from typing import Any

from ass_jax.checkpoints.integrity import plain_json
from ass_jax.runtime.console import say
from configs.user_error import UserError

ABSENT = "absent"

# Keys, or groups of keys, that change no weight of the steps to come.
HARMLESS = (
    "steps",  # The schedule follows optimizer.decay_steps.
    "init",  # Read before the first step only.
    "init_keeps",  # What it keeps is compared itself.
    "log_every",
    "skipped_limit",
    "verify",
    "model.remat",  # The same numbers with less memory.
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
    "data.trust_raw_ids",
    "data.undecodable_limit",
    "distributed",  # The steps do not depend on the number of processes.
    "data.labelled_list",  # A path; the hash of the names that it lists is compared instead.
    "labelled.list",  # A description of the same.
)

# Keys, or groups of keys, that change the scores of a checkpoint or their names.
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

# Keys whose change makes another network, which no checkpoint of the first one fits.
_NETWORK = ("model.backbone", "model.head", "model.branches", "model.registers", "data.classes")


class ChangedError(UserError):
    """The configuration differs from that of the checkpoint."""


def expect_same_configuration(directory: str, step: int, saved: dict, current: dict, allow_changes: bool) -> None:
    """Compares the configuration of a checkpoint with that of a run that resumes from it.

    Args:
      directory: of the checkpoint, for the message.
      step: of the checkpoint.
      saved: configuration of the checkpoint, as read from JSON.
      current: configuration of the run, in the same form.
      allow_changes: prints the differences instead of raising an error.

    Raises:
      ChangedError: keys differ that are not harmless; the message lists them.
    """
    found = training_differences(saved, current)
    if not found:
        return
    text = f"The settings differ from those of checkpoint {step} in {directory}:{format_differences(found)}"
    if any(ABSENT in values for _, *values in found):
        text += (
            "\nThe checkpoint is of a version with other settings; those that only one version has are absent above."
        )
    if not allow_changes:
        others = [key for key, *_ in found if key in _NETWORK]
        hint = f"Another {' and '.join(others)} cannot resume from it."
        if not others:
            hint = "To resume with the new ones, add --config.resume_with_changes."
        raise ChangedError(f"{text}\nUse the same settings, or name another --workdir. {hint}")
    say(f"{text}\nThe run resumes with the new ones (config.resume_with_changes).")


def training_differences(saved: dict, current: dict) -> list[tuple[str, str, str]]:
    """Returns the keys that differ and change training, each with its saved and its current value as JSON text."""
    return [found for found in _differences(saved, current) if not _is_in(found[0], HARMLESS)]


def scoring_differences(saved: dict, current: dict) -> list[tuple[str, str, str]]:
    """Returns the keys that differ and change the scores, each with its saved and its current value as JSON text."""
    return [found for found in _differences(saved, current) if _is_in(found[0], SCORING)]


def network_differences(saved: dict, current: dict) -> list[tuple[str, str, str]]:
    """Returns the keys that differ and can make another network, each with its saved and its current value as JSON."""
    return [found for found in _differences(saved, current) if found[0] in (*_NETWORK, "data.custom.names")]


def format_differences(found: list[tuple[str, str, str]]) -> str:
    """Returns the differences as text, each on a new line."""
    return "".join(f"\n  {key}: checkpoint {old}, now {new}" for key, old, new in found)


def flat(configuration: dict) -> dict[str, str]:
    """Returns the values of a configuration as JSON text by dotted key; a tuple equals a list, 1.0 does not equal 1."""
    return dict(_flatten(plain_json(configuration)))


def _differences(saved: dict, current: dict) -> list[tuple[str, str, str]]:
    saved, current = flat(saved), flat(current)
    return [
        (key, saved.get(key, ABSENT), current.get(key, ABSENT))
        for key in sorted(saved.keys() | current.keys())
        if saved.get(key) != current.get(key)
    ]


def _is_in(key: str, groups: tuple[str, ...]) -> bool:
    return any(key == group or key.startswith(f"{group}.") for group in groups)


def _flatten(tree: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields dotted keys with their values as JSON text."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value)
