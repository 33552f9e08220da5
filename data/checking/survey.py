"""Reads the files of a split in parallel and adds up their content."""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import sys
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from configs.user_error import UserError
from data.classes import Colour
from data.preparation import workers
from data.raw import image_files, nifti, train_ids
from data.raw.faults import BadFileError, Fault
from data.raw.label_rules import LabelRules
from data.raw.pairs import Pair, read_images

# For so few pairs, starting processes takes longer than the work.
_FEW = 24
_FEW_VOLUMES = 4
COLOURS_KEPT = 32  # Of a label: smoothed or compressed ones hold thousands that stand for no class.


class PairSummary(NamedTuple):
    """The content of one pair, in numbers.

    Attributes:
      pair: the files.
      fault: why it cannot be used; None if it can be, and only then is all below known.
      size: height and width.
      image_kind: format, kind and bits of the image.
      label_kind: the same of the label; empty if there is none.
      counts: raw id -> pixels; empty if there is no label.
      rows: raw id -> sum of the rows of its pixels, of `sums_of_rows` of `data.raw.train_ids`; empty
        where train ids are not looked for.
      unknown_colours: the most frequent colours that stand for no class -> pixels, where labels hold colours.
      digest: hash of the image's pixels, by which the same image is found in another file; of a volume with a tumour,
        that of its label, by which the same patient is found in another sequence.
    """

    pair: Pair
    fault: Fault | None
    size: tuple[int, int] = (0, 0)
    image_kind: str = ""
    label_kind: str = ""
    counts: dict[int, int] = {}  # noqa: RUF012 (never changed)
    rows: dict[int, float] = {}  # noqa: RUF012 (the same)
    unknown_colours: dict[Colour, int] = {}  # noqa: RUF012 (the same)
    digest: bytes = b""


@dataclasses.dataclass
class Survey:
    """The content of the pairs of a split, in numbers.

    Attributes:
      read: number of pairs that were read.
      faults: of pairs that cannot be used.
      bad: their names.
      sizes: (height, width) -> images.
      size_examples: (height, width) -> the first image of that size.
      size_of: name of a usable pair -> (height, width).
      image_kinds: format, kind and bits -> images.
      label_kinds: the same -> labels.
      pixels: raw id -> pixels in all labels.
      images: raw id -> number of labels that hold it.
      id_examples: raw id -> the first label that holds it.
      labels: number of usable pairs that have a label.
      without_class: labels without a pixel of the classes of the run.
      only_zero: labels whose only raw id of a class is 0: empty, where labels are binary masks.
      digests: name of a usable pair -> hash of the image's pixels.
      rows: raw id -> sum of the rows of its pixels, as in `PairSummary`.
      unknown_colours: colour that stands for no class -> pixels; at most `COLOURS_KEPT` of each label.
      labels_with_colours: the same colours -> number of labels that hold it.
    """

    read: int = 0
    faults: list[Fault] = dataclasses.field(default_factory=list)
    bad: set[str] = dataclasses.field(default_factory=set)
    sizes: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    size_examples: dict[tuple[int, int], Pair] = dataclasses.field(default_factory=dict)
    size_of: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    image_kinds: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    label_kinds: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    pixels: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    images: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    id_examples: dict[int, Pair] = dataclasses.field(default_factory=dict)
    labels: int = 0
    without_class: list[Pair] = dataclasses.field(default_factory=list)
    only_zero: list[Pair] = dataclasses.field(default_factory=list)
    digests: dict[str, bytes] = dataclasses.field(default_factory=dict)
    rows: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    unknown_colours: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    labels_with_colours: collections.Counter = dataclasses.field(default_factory=collections.Counter)

    def add(self, summary: PairSummary, class_ids: frozenset[int]) -> None:
        """Adds a pair; `class_ids` are the raw ids of the classes of the run."""
        self.read += 1
        if summary.fault:
            self.faults.append(summary.fault)
            self.bad.add(summary.pair.name)
            return
        self.sizes[summary.size] += 1
        self.size_examples.setdefault(summary.size, summary.pair)
        self.size_of[summary.pair.name] = summary.size
        self.digests[summary.pair.name] = summary.digest
        self.image_kinds[summary.image_kind] += 1
        if not summary.label_kind:
            return
        self.labels += 1
        self.label_kinds[summary.label_kind] += 1
        self.pixels.update(summary.counts)
        self.rows.update(summary.rows)
        self.images.update(summary.counts.keys())
        self.unknown_colours.update(summary.unknown_colours)
        self.labels_with_colours.update(summary.unknown_colours.keys())
        for raw_id in summary.counts:
            self.id_examples.setdefault(raw_id, summary.pair)
        if not class_ids & summary.counts.keys():
            self.without_class.append(summary.pair)
        if class_ids & summary.counts.keys() == {0}:
            self.only_zero.append(summary.pair)


def summarise_pair(pair: Pair, rules: LabelRules) -> PairSummary:
    """Reads a pair as its preparation would."""
    try:
        contents = list(read_images(pair, rules).contents.values())
        describe = nifti.describe if rules.is_volume else image_files.describe
        image_kind = describe(pair.image)
        label_kind = describe(pair.label) if pair.label else ""
        unknown = _unknown_colours(pair.label, rules, contents[0].counts) if pair.label else {}
    except BadFileError as error:
        return PairSummary(pair, error.fault)
    pixels = np.sum([content.counts for content in contents], axis=0)
    ids = np.flatnonzero(pixels)
    counts = dict(zip(ids.tolist(), pixels[ids].tolist(), strict=True))
    lesions = [content.label for content in contents if content.label.any()] if rules.is_volume else []
    digest = hashlib.blake2b(digest_size=16)
    for shown in lesions or [content.image for content in contents]:
        digest.update(shown.tobytes())
    return PairSummary(
        pair,
        None,
        contents[0].image.shape[:2],
        image_kind,
        label_kind,
        counts,
        train_ids.sums_of_rows(contents[0].label) if pair.label and train_ids.can_be_judged(rules) else {},
        unknown,
        digest.digest(),
    )


def _unknown_colours(label: Path, rules: LabelRules, counts: np.ndarray) -> dict[Colour, int]:
    if not rules.colours or not counts[rules.unlabelled_id]:
        return {}
    found = image_files.unknown_colours(label, rules.colours)
    return dict(collections.Counter(found).most_common(COLOURS_KEPT))


def survey_pairs(
    pairs: Sequence[Pair],
    rules: LabelRules,
    class_ids: frozenset[int],
    title: str,
    processes: int | None = None,
) -> Survey:
    """Reads pairs and shows the progress, with the time left, on the error stream.

    Args:
      pairs: to read.
      rules: of their labels.
      class_ids: raw ids of the classes of the run.
      title: of the progress.
      processes: number of processes that read; None: one for each usable core.

    Raises:
      UserError: a process died, for example because the memory was full.
    """
    result = Survey()
    few = _FEW_VOLUMES if rules.is_volume else _FEW
    processes = 1 if len(pairs) <= few else processes or workers.usable_cores()
    summaries = workers.map_in_order(functools.partial(summarise_pair, rules=rules), pairs, processes)
    progress = tqdm(total=len(pairs), desc=title, unit=" pairs", file=sys.stderr, leave=False)
    try:
        with contextlib.closing(summaries), progress:
            for summary in summaries:
                result.add(summary, class_ids)
                progress.update()
    except BrokenProcessPool as error:
        text = f"Reading {title} stopped: {error} Free memory and run the same command again."
        raise UserError(text) from error
    return result


def spread_evenly(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """Returns `count` evenly spread pairs, the first one among them, or all if there are no more."""
    count = min(count, len(pairs))
    return [pairs[place * len(pairs) // count] for place in range(count)]
