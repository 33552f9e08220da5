"""Looks into the files of a split, in parallel, and adds up what they hold."""

import collections
import contextlib
import dataclasses
import functools
import sys
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from data.preparation import workers
from data.raw import image_files
from data.raw.faults import BadFile, Fault
from data.raw.label_rules import LabelRules
from data.raw.pair_reader import read_pair
from data.raw.pairs import Pair

# With so few pairs, starting processes takes longer than the work.
_FEW = 24


class Seen(NamedTuple):
    """What one pair holds.

    Attributes:
      pair: the files.
      fault: why it cannot be used; None if it can, and only then all below is known.
      size: height and width.
      image_kind: format, kind and bits of the image.
      label_kind: the same of the label; empty if there is none.
      counts: raw id -> pixels; empty if there is no label.
    """

    pair: Pair
    fault: Fault | None
    size: tuple[int, int] = (0, 0)
    image_kind: str = ""
    label_kind: str = ""
    counts: dict[int, int] = {}  # noqa: RUF012 (never changed)


@dataclasses.dataclass
class Survey:
    """What the pairs of a split hold.

    Attributes:
      looked_at: pairs that were read.
      faults: of pairs that cannot be used.
      bad: their names.
      sizes: (height, width) -> images.
      size_examples: (height, width) -> the first image of it.
      size_of: name of a usable pair -> (height, width).
      image_kinds: format, kind and bits -> images.
      label_kinds: the same -> labels.
      pixels: raw id -> pixels in all labels.
      images: raw id -> labels that hold it.
      id_examples: raw id -> the first label that holds it.
      labels: usable pairs that have a label.
      without_class: labels without a pixel of the classes of the run.
    """

    looked_at: int = 0
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

    def add(self, seen: Seen, wanted_ids: frozenset[int]) -> None:
        """Adds a pair; `wanted_ids` are the raw ids of the classes of the run."""
        self.looked_at += 1
        if seen.fault:
            self.faults.append(seen.fault)
            self.bad.add(seen.pair.name)
            return
        self.sizes[seen.size] += 1
        self.size_examples.setdefault(seen.size, seen.pair)
        self.size_of[seen.pair.name] = seen.size
        self.image_kinds[seen.image_kind] += 1
        if not seen.label_kind:
            return
        self.labels += 1
        self.label_kinds[seen.label_kind] += 1
        self.pixels.update(seen.counts)
        self.images.update(seen.counts.keys())
        for raw_id in seen.counts:
            self.id_examples.setdefault(raw_id, seen.pair)
        if not wanted_ids & seen.counts.keys():
            self.without_class.append(seen.pair)


def look(pair: Pair, rules: LabelRules) -> Seen:
    """Reads a pair as its preparation would."""
    try:
        read = read_pair(pair, rules)
        image_kind = image_files.describe(pair.image)
        label_kind = image_files.describe(pair.label) if pair.label else ""
    except BadFile as error:
        return Seen(pair, error.fault)
    ids = np.flatnonzero(read.counts)
    counts = dict(zip(ids.tolist(), read.counts[ids].tolist(), strict=True))
    return Seen(pair, None, read.image.shape[:2], image_kind, label_kind, counts)


def survey(
    pairs: Sequence[Pair],
    rules: LabelRules,
    wanted_ids: frozenset[int],
    title: str,
    processes: int | None = None,
) -> Survey:
    """Looks into pairs and shows its progress, with the time left, on the error stream.

    Args:
      pairs: to look into.
      rules: of their labels.
      wanted_ids: raw ids of the classes of the run.
      title: of the progress.
      processes: that read; None: one for each usable core.

    Raises:
      ValueError: a process died, for example because the memory was full.
    """
    result = Survey()
    processes = 1 if len(pairs) <= _FEW else processes or workers.usable_cores()
    seen = workers.in_order(functools.partial(look, rules=rules), pairs, processes)
    progress = tqdm(total=len(pairs), desc=title, unit=" pairs", file=sys.stderr, leave=False)
    try:
        with contextlib.closing(seen), progress:
            for each in seen:
                result.add(each, wanted_ids)
                progress.update()
    except BrokenProcessPool as error:
        text = f"Looking into {title} stopped: {error} Free memory and give the same command again."
        raise ValueError(text) from error
    return result


def evenly_spread(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """Returns `count` of the pairs, from the first one on, or all if there are no more."""
    count = min(count, len(pairs))
    return [pairs[place * len(pairs) // count] for place in range(count)]
