"""Goes on where a record does not decode: finds it, names it, and starts again at that step without it."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from absl import logging

from data.reading.split_reader import UNDECODABLE, Split

Batch = dict[str, Any]


class UndecodableError(ValueError):
    """Too many records do not decode, or one that nothing may replace."""


class Stream(NamedTuple):
    """What is read of a stream.

    Attributes:
      split: of the records.
      keys: features that are decoded.
      indices: of the records that a step reads.
    """

    split: Split
    keys: tuple[str, ...]
    indices: Callable[[int], Sequence[int]]


def training_steps(
    make: Callable[[int], Iterator[Batch]],
    streams: Mapping[str, Stream],
    start: int,
    limit: int,
) -> Iterator[Batch]:
    """Yields the batches of the steps `start`, `start` + 1, ...

    Args:
      make: gives the batches from a step on, without the records that the splits know not to decode.
      streams: what a batch is made of.
      start: the first step.
      limit: on the number of records that do not decode.

    Raises:
      UndecodableError: more do not.
    """
    step, batches = start, make(start)
    while True:
        try:
            batch = next(batches)
        except UNDECODABLE:
            if not _note_undecodable(streams.values(), step, limit):
                raise  # Something else is wrong.
            batches = make(step)
            continue
        yield batch
        step += 1


def check_records(split: Split, indices: Sequence[int], keys: tuple[str, ...]) -> None:
    """Raises UndecodableError, with their names, if records do not decode: a score leaves no image out."""
    faults = {split.name_of(index): fault for index in indices if (fault := split.fault(index, keys))}
    if faults:
        names = "".join(f"\n  {split.title} {name}: {fault}" for name, fault in faults.items())
        raise UndecodableError(
            f"Images to be scored do not decode:{names}\nRemove the prepared data set to have it made again, and look "
            "after the disk."
        )


def _note_undecodable(streams: Collection[Stream], step: int, limit: int) -> bool:
    """Tells the splits which records of a step do not decode; returns whether there is one."""
    noted = False
    for split, keys, indices in streams:
        known = split.undecodable[keys]
        for index in indices(step):
            if index in known or not (reason := split.fault(index, keys)):
                continue
            noted = True
            known[index] = f"{split.title} {split.name_of(index)}"
            faults = sorted({text for stream in streams for text in stream.split.undecodable[stream.keys].values()})
            logging.warning(
                "%s does not decode (%s); the next image takes its place. So far: %d, at most %d.",
                known[index],
                reason,
                len(faults),
                limit,
            )
            if len(faults) > limit:
                raise UndecodableError(
                    f"More than {limit} images do not decode (config.data.undecodable_limit): {', '.join(faults)}. "
                    "Look after the disk, and remove the prepared data set to have it made again."
                )
    return noted
