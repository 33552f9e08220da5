"""A line now and then on how far a long pass over batches is, and how long it will still take."""

import operator
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import jax

from ass_jax.monitor import format_seconds

Item = TypeVar("Item")


def shown(
    batches: Iterable[Item], *, every: float = 10.0, clock: Callable[[], float] = time.monotonic
) -> Iterator[Item]:
    """Yields the batches and prints how many are done, on process 0.

    Args:
      batches: the time left is told where `operator.length_hint` knows their number.
      every: seconds between two lines.
      clock: gives the time in seconds.
    """
    total = operator.length_hint(batches)
    begun = last = clock()
    for number, batch in enumerate(batches, start=1):
        yield batch
        now = clock()
        if number == 1:
            begun = now  # What comes before is mostly compilation.
        elif now - last >= every and jax.process_index() == 0:
            last = now
            left = (total - number) * (now - begun) / (number - 1)
            known = f"/{total}  {format_seconds(left)} left" if total else ""
            print(f"evaluation batch {number}{known}", flush=True)
