"""Copes with records that do not decode: finds and names them, and repeats the step without them."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from absl import logging

from configs.user_error import UserError
from data.reading.split_reader import UNDECODABLE, Split

Batch = dict[str, Any]


class UndecodableError(UserError):
    """Too many records do not decode, or one does not that no other may replace."""


class Stream(NamedTuple):
    """The records that a stream reads.

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
      make: returns the batches from a step on, without the records that are known not to decode.
      streams: the streams of a batch.
      start: the first step.
      limit: largest number of records that may not decode.

    Raises:
      UndecodableError: more records do not decode.
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
    """Raises UndecodableError, with their names, if records do not decode: scores leave no image out."""
    faults = {split.name_of(index): fault for index in indices if (fault := split.fault(index, keys))}
    if faults:
        names = "".join(f"\n  {split.title} {name}: {fault}" for name, fault in faults.items())
        raise UndecodableError(
            f"Images to be scored do not decode:{names}\nCheck the disk, and remove the prepared dataset to have it "
            "made again."
        )


def _note_undecodable(streams: Collection[Stream], step: int, limit: int) -> bool:
    """Notes in the splits which records of a step do not decode; returns whether there is one."""
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
                    "Check the disk, and remove the prepared dataset to have it made again."
                )
    return noted
