"""Stops a run between two steps when a signal asks it to."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import TypeVar

from configs.user_error import UserError

Item = TypeVar("Item")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StoppedError(UserError):
    """A signal has stopped the run after a step whose state is saved.

    Attributes:
      exit_code: what a shell reports for a process that the signal has ended.
    """

    def __init__(self, step: int, number: int | None):
        """Names the last step and the signal; None stands for what JAX reports as preemption."""
        number = number or signal.SIGTERM
        name = signal.Signals(number).name
        super().__init__(f"Stopped by {name} after step {step}, which is saved. The same command goes on from there.")
        self.exit_code = 128 + number


class CutShortError(Exception):
    """A signal came during a pass over images."""


class StopRequest:
    """Whether a signal has asked the run to stop.

    Attributes:
      signal: its number; None before it comes.
    """

    def __init__(self):
        """Begins without a signal."""
        self.signal: int | None = None

    def cut_short(self, make: Callable[[], Iterable[Item]]) -> Callable[[], Iterator[Item]]:
        """Returns `make` with iterators that raise CutShortError as soon as a signal has come."""

        def items() -> Iterator[Item]:
            for item in make():
                if self.signal is not None:
                    raise CutShortError
                yield item

        return items


@contextlib.contextmanager
def catch_signals(install: bool = True) -> Iterator[StopRequest]:
    """Catches SIGTERM and SIGINT inside a `with` block; a second signal ends the process at once.

    Args:
      install: False leaves the signals alone. So does a call outside the main thread, where Python allows no handlers.

    Yields:
      The request, in which the first signal is noted. The previous handlers are back after the block.
    """
    request = StopRequest()

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        if request.signal is not None:
            os._exit(128 + number)
        request.signal = number
        text = f"\n{signal.Signals(number).name}: finishing the step and saving. Once more to leave at once.\n"
        os.write(2, text.encode())  # Safe in a signal handler, unlike `print`.

    if not install or threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
