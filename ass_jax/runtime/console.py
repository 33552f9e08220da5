"""All that is printed: messages, errors, progress.

It imports nothing heavy; `say` and `progress` import JAX when they are first called.
"""

import operator
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from configs.user_error import UserError

Item = TypeVar("Item")


def say(*lines: str) -> None:
    """Prints lines on process 0, so that a run of several processes prints them once."""
    import jax

    if jax.process_index() == 0:
        print(*lines, sep="\n", flush=True)


def print_error(*lines: str) -> None:
    """Prints lines on standard error, control characters escaped: they may hold names of files."""
    print(*map(_printable, lines), sep="\n", file=sys.stderr, flush=True)


def print_user_error(error: UserError) -> int:
    """Prints the message of an error on standard error and returns the exit code of the process."""
    print_error(*str(error).splitlines())
    return error.exit_code


def progress(
    items: Iterable[Item], unit: str, *, every: float = 10.0, clock: Callable[[], float] = time.monotonic
) -> Iterator[Item]:
    """Yields the items and prints every few seconds how many are done, how fast, and the time left.

    A line each time suits a terminal and a log file alike. The first item does not count for the speed, because most of
    its time is compilation.

    Args:
      items: their number is known where `operator.length_hint` gives it.
      unit: what an item is, in the plural.
      every: seconds between two lines.
      clock: returns the time in seconds.
    """
    total = operator.length_hint(items)
    begun = last = clock()
    for number, item in enumerate(items, start=1):
        yield item
        now = clock()
        if number == 1:
            begun = now
        elif now - last >= every:
            last = now
            speed = (number - 1) / max(now - begun, 1e-9)
            done = f"{number}/{total} {unit}" if total else f"{number} {unit}"
            left = f"  {format_seconds((total - number) / speed)} left" if total else ""
            say(f"{done}  {speed:.1f}/s{left}")


def format_some(names: Sequence[str], most: int = 5) -> str:
    """Formats the first of some names for a message, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def format_seconds(seconds: float) -> str:
    """Formats a duration as `1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _printable(line: str) -> str:
    """Escapes control characters, which could move the cursor of a terminal, colour it or end the line."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in line)
