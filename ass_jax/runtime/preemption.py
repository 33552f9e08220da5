"""Stops a run between two steps when the system or the user asks for it."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import TypeVar

Item = TypeVar("Item")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StoppedError(Exception):
    """A run was asked to stop, has saved its state and left the loop.

    Attributes:
      exit_code: what a shell reports of a process that such a signal ended.
    """

    def __init__(self, step: int, number: int | None):
        """Tells after which step, and on which signal; None: on what JAX counts as preemption."""
        number = number or signal.SIGTERM
        name = signal.Signals(number).name
        super().__init__(f"Stopped by {name} after step {step}, which is saved. The same command goes on from there.")
        self.exit_code = 128 + number


class CutShortError(Exception):
    """A request to stop came while a pass over images was under way."""


class Requests:
    """Whether a request to stop has come.

    Attributes:
      received: number of the signal; None before.
    """

    def __init__(self):
        """Nothing has been asked for yet."""
        self.received: int | None = None

    def cut_short(self, make: Callable[[], Iterable[Item]]) -> Callable[[], Iterator[Item]]:
        """Returns `make`, whose iterators now raise CutShortError as soon as a request has come."""

        def items() -> Iterator[Item]:
            for item in make():
                if self.received is not None:
                    raise CutShortError
                yield item

        return items


@contextlib.contextmanager
def noted(install: bool = True) -> Iterator[Requests]:
    """Notes SIGTERM and SIGINT instead of dying of them; the second one ends the process at once.

    Args:
      install: False leaves the signals alone, as does a call outside the main thread, which may not handle them.

    Yields:
      The requests; the handlers from before are back afterwards.
    """
    requests = Requests()

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        if requests.received is not None:
            os._exit(128 + number)
        requests.received = number
        text = f"\n{signal.Signals(number).name}: finishing the step and saving. Once more to leave at once.\n"
        os.write(2, text.encode())  # Safe wherever the signal came.

    if not install or threading.current_thread() is not threading.main_thread():
        yield requests
        return
    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
