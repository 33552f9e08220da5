"""What is printed for the person who watches a run: messages, durations, progress."""

import operator
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import jax

Item = TypeVar("Item")


def say(text: str) -> None:
    """Prints for the person who watches the run: once, however many processes it has."""
    if jax.process_index() == 0:
        print(text, flush=True)


def format_seconds(seconds: float) -> str:
    """Formats a duration as `1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


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
