"""The choice of the labelled target images of a run, and of those among them that are held out.

The labelled images are those that `data.labelled_list` names; without a list, the first `data.labelled_count` of the
ranking in `data/sampling/ranking.py`; with -1, all images that have a label. The last `data.held_out` of them by rank
form a further evaluation set and are not trained on with their labels. So a larger set of held-out images contains a
smaller one, and the remaining ones follow the same rule.

The unlabelled stream is the whole target training split without labels, labelled and held-out images included. This is
our choice; the paper does not say.
"""

import difflib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from configs.user_error import UserError
from data.datasets.registry import SPECS
from data.datasets.spec import DatasetSpec
from data.sampling import ranking

_NAMED = 3  # Names in a message.


class Choice(NamedTuple):
    """The labelled target images of a run.

    Attributes:
      description: in words, such as "cityscapes seed 0, 100 images".
      sha256: hash of the sorted names, joined by newlines, in UTF-8.
      names: of all of them, held-out ones included, sorted.
      training: indices of the images that are trained on, ascending, int64.
      held_out: indices of the others, ascending, int64.
    """

    description: str
    sha256: str
    names: tuple[str, ...]
    training: np.ndarray
    held_out: np.ndarray

    def summary(self) -> dict[str, str | int]:
        """Returns the facts that reports and checkpoints hold, in types of JSON."""
        numbers = {"images": len(self.names), "held_out": len(self.held_out)}
        return {"list": self.description, "sha256": self.sha256} | numbers


def check_list(data_config: ConfigDict) -> None:
    """Checks a user's list of labelled images before any dataset is opened; does nothing without a list.

    Args:
      data_config: `config.data`.

    Raises:
      UserError: the list cannot be read or used, or has too few names for `data.held_out`.
    """
    if data_config.labelled_list:
        _check_held_out(data_config.held_out, len(_read_list(data_config.labelled_list)))


def choose(data_config: ConfigDict, names: Sequence[str], has_label: np.ndarray) -> Choice:
    """Chooses the labelled images.

    Args:
      data_config: `config.data`.
      names: name of every target training image, N in all.
      has_label: whether each of them has a label, bool [N].

    Returns:
      The choice; its indices are those into `names`.

    Raises:
      UserError: there are fewer images than `data.labelled_count`, a chosen one is missing or has no label, or two
        images have the same name.
    """
    places = {name: index for index, name in enumerate(names)}
    if len(places) < len(names):
        repeated = next(name for index, name in enumerate(names) if places[name] != index)
        raise UserError(f"Names of target training images must differ, but {repeated!r} occurs twice.")
    chosen, description = labelled_names(
        data_config, [name for name, holds in zip(names, has_label, strict=True) if holds]
    )
    _check_there(chosen, places, has_label, data_config)
    spec, held_out = SPECS[data_config.target], data_config.held_out
    counted = ranking.count_of(chosen, spec)
    _check_held_out(held_out, counted)
    ranked = ranking.rank_names(chosen, data_config.labelled_seed, spec.sequence_of)
    indices = np.array([places[name] for name in ranked], np.int64)
    trained = len(ranking.first_of(ranked, counted - held_out, spec))
    names = tuple(sorted(chosen))
    return Choice(
        description + (f", {held_out} of them held out" if held_out else ""),
        hashlib.sha256("\n".join(names).encode()).hexdigest(),
        names,
        np.sort(indices[:trained]),
        np.sort(indices[trained:]),
    )


def labelled_names(data_config: ConfigDict, available: list[str]) -> tuple[list[str], str]:
    """Returns the names of the labelled images and their description, whether the images are there or not.

    Args:
      data_config: `config.data`.
      available: names of the images that have a label.

    Raises:
      UserError: there are fewer images than `data.labelled_count`, or the list cannot be read.
    """
    count, seed, target = data_config.labelled_count, data_config.labelled_seed, data_config.target
    spec = SPECS[target]
    if data_config.labelled_list:
        chosen = _read_list(data_config.labelled_list)
        description = f"{data_config.labelled_list}, {_images(len(chosen), spec)}"
        return _names_of_list(chosen, available, spec), description
    if count == -1:
        counted = ranking.count_of(available, spec)
        ranking.check_count(count, counted)
        return available, f"{target}, all {_images(counted, spec)}"
    official = ranking.official_names(spec)
    pool = available if official is None else official
    ranking.check_count(count, ranking.count_of(pool, spec))
    ranked = ranking.rank_names(pool, seed, spec.sequence_of)
    return ranking.first_of(ranked, count, spec), f"{target} seed {seed}, {_images(count, spec)}"


def _names_of_list(listed: list[str], available: list[str], spec: DatasetSpec) -> list[str]:
    """Returns the names of the images that a list means: itself, or all of the listed sequences where these count."""
    if not spec.counts_sequences or spec.sequence_of is None:
        return listed
    of_sequences = [name for name in available if spec.sequence_of(name) in set(listed)]
    return of_sequences + sorted(set(listed) - set(map(spec.sequence_of, of_sequences)))


def _check_there(chosen: list[str], places: dict[str, int], has_label: np.ndarray, data_config: ConfigDict) -> None:
    """Raises UserError unless every chosen image is there and has a label."""
    source = f"data.labelled_list {data_config.labelled_list}" if data_config.labelled_list else "the labelled list"
    missing = [name for name in sorted(chosen) if name not in places]
    if missing:
        named = [name + _similar(name, places) for name in missing[:_NAMED]]
        raise UserError(
            f"{len(missing)} of the {_images(len(chosen))} of {source} are not among the {_images(len(places))} of "
            f"the target training split ({data_config.target}): {_enumerate(named, len(missing))}. Expected names as "
            f"{next(iter(places), 'none')!r}. Complete the dataset and prepare it again, or name your own images with "
            "data.labelled_list."
        )
    bare = [name for name in sorted(chosen) if not has_label[places[name]]]
    if bare:
        raise UserError(
            f"{len(bare)} of the {_images(len(chosen))} of {source} have no label: "
            f"{_enumerate(bare[:_NAMED], len(bare))}. Add their label files and prepare the dataset again, or choose "
            "other images."
        )


def _read_list(path: str) -> list[str]:
    """Returns the names of a user's list; raises UserError if it is missing, empty, or names an image twice."""
    if Path(path).is_fifo():  # It would be waited for without end.
        raise UserError(f"data.labelled_list: expected a text file, found that {path!r} is a named pipe.")
    try:
        names = ranking.read_names(Path(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"data.labelled_list: expected a text file with one image name a line, found that {path!r} cannot be read "
            f"({error})."
        ) from error
    if not names:
        raise UserError(f"data.labelled_list: expected one image name a line, but {path} names no image.")
    repeated = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if repeated:
        raise UserError(
            f"data.labelled_list: {path} names images more than once: {_enumerate(repeated[:_NAMED], len(repeated))}. "
            "Remove the repetitions."
        )
    return names


def _check_held_out(held_out: int, count: int) -> None:
    """Raises UserError unless so many of `count` images can be held out."""
    if held_out and held_out >= count:
        expected = f"0 to {count - 1}, fewer than the {_images(count)} with labels"
        raise UserError(f"data.held_out is {held_out}; expected {expected}.")


def _similar(name: str, places: dict[str, int]) -> str:
    close = difflib.get_close_matches(name, places, 1)
    return f" (did you mean {close[0]}?)" if close else ""


def _enumerate(named: list[str], count: int) -> str:
    return ", ".join(named) + (f" and {count - len(named)} more" if count > len(named) else "")


def _images(count: int, spec: DatasetSpec | None = None) -> str:
    kind = "volume" if spec and spec.counts_sequences else "image"
    return f"{count} {kind}{'' if count == 1 else 's'}"
