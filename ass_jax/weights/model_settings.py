"""Settings in `config.model` that belong to weights: which pixels they expect, and how their network is built."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from ass_jax.models.deeplab import DILATIONS
from ass_jax.runtime.console import say
from ass_jax.runtime.workdir import parse_json
from ass_jax.weights.files import WeightFileError

SETTINGS = ("pixel_order", "pixel_mean", "pixel_deviation", "stride_in", "branches", "registers")
_PIXELS = ("pixel_order", "pixel_mean", "pixel_deviation")  # One of them makes no sense without the others.
_METADATA = "model"  # Key of the settings in the metadata of our own files.


def with_settings(config: ConfigDict, model_settings: Mapping[str, object]) -> ConfigDict:
    """Returns a copy of a configuration with the values in `config.model` that belong to weights replaced.

    Those that `config.init_keeps` names stay as they are; one of the three settings of pixels keeps all three.

    Args:
      config: the whole configuration.
      model_settings: what weights expect, or `model` of a checkpoint's configuration.
    """
    config = config.copy_and_resolve_references()
    fixed = kept(config)
    for key in SETTINGS:
        if key in model_settings and key not in fixed:
            config.model[key] = _tupled(model_settings[key])
    return config


def adopt(config: ConfigDict, expected: Mapping[str, object], path: str) -> ConfigDict:
    """Returns `with_settings` for the weights of a file; says which settings they change, and which are kept.

    Args:
      config: the whole configuration.
      expected: values in `config.model` that the weights expect.
      path: of the file, for messages.
    """
    fixed = kept(config)
    old = {key: _tupled(config.model[key]) for key in SETTINGS}
    differing = [key for key in SETTINGS if key in expected and expected[key] != old[key]]
    replaced = [f"model.{key}={expected[key]} instead of {old[key]}" for key in differing if key not in fixed]
    if replaced:
        say(f"The weights of {path} need {', '.join(replaced)}.")
    against = [f"model.{key}={old[key]}, not {expected[key]}" for key in differing if key in fixed]
    if against:
        say(f"Kept as set, although the weights of {path} need others: {', '.join(against)}.")
    return with_settings(config, expected)


def kept(config: ConfigDict) -> set[str]:
    """Returns the keys of `config.model` that weights must not change."""
    named = set(config.init_keeps)
    return named | set(_PIXELS) if named & set(_PIXELS) else named


def expect_valid(settings: Mapping[str, object], place: object) -> None:
    """Checks the values of `SETTINGS` in a file, which may hold anything; others may be missing.

    Args:
      settings: of `config.model`.
      place: begins the message.

    Raises:
      WeightFileError: a value cannot be used; the message names its key, the value and what is expected.
    """
    for key, (expected, allows) in _VALID.items():
        if key in settings and not allows(settings[key]):
            raise WeightFileError(f"{place}: model.{key} is {settings[key]!r}; expected {expected}.")


def to_metadata(model_settings: Mapping[str, object]) -> dict[str, str]:
    """Returns the metadata with which a file of ours tells its settings; `from_metadata` reads them."""
    return {_METADATA: json.dumps(dict(model_settings))}


def from_metadata(metadata: Mapping[str, str], place: str) -> dict[str, object]:
    """Returns the settings in the metadata of a file of ours; empty if there are none.

    Args:
      metadata: of the file.
      place: begins messages.

    Raises:
      UserError: they are damaged, or a value cannot be used.
    """
    if _METADATA not in metadata:
        return {}
    parsed = parse_json(metadata[_METADATA], place, {})
    expect_valid(parsed, place)
    return {key: _tupled(value) for key, value in parsed.items()}


def _tupled(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_numbers(value: object, low: float) -> bool:
    """Returns whether a value is a list of three finite numbers above `low`."""
    numbers = value if isinstance(value, list | tuple) else ()
    return len(numbers) == 3 and all(
        isinstance(each, int | float) and not isinstance(each, bool) and low < each < math.inf for each in numbers
    )


# Key of `SETTINGS` -> what is expected, in words, and whether a value is that.
_VALID: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "pixel_order": ("one of bgr, rgb", lambda value: value in ("bgr", "rgb")),
    "pixel_mean": ("three numbers", lambda value: _are_numbers(value, -math.inf)),
    "pixel_deviation": ("three numbers above 0", lambda value: _are_numbers(value, 0)),
    "stride_in": ("one of 1x1, 3x3", lambda value: value in ("1x1", "3x3")),
    "branches": ("one of 1, 2, 3, 4", lambda value: _is_count(value) and 1 <= value <= len(DILATIONS)),
    "registers": ("0 or more", _is_count),
}
