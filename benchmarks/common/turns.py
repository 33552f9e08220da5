"""Processes that do steps when they are told to, so that two frameworks measure in turns on one machine.

A process prints one line of facts when it is ready. To each line `go N` on its standard input it does N steps and
prints the seconds that they took, and those of the processor; at the end of its input it ends.
"""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.common.timing import Run

_MARK = "turns: "  # Before each line of ours: libraries print too.
_TAIL = 15  # Lines of the log that are shown of a process that failed.


class PlayerError(Exception):
    """A process has ended by itself; the message holds the end of its log."""


def serve(run: Run, facts: Mapping) -> None:
    """Tells the facts, then runs steps on demand until the input ends."""
    _answer(facts)
    for line in sys.stdin:
        _, _, count = line.partition("go ")
        begun = time.process_time()
        seconds = run(int(count))
        _answer({"seconds": seconds, "processor": time.process_time() - begun})


class Player:
    """A process that `serve`s.

    Attributes:
      facts: what it told when it was ready.
      cores: that the last turn kept busy on average: on a CPU, few of those there are where other programs compute.
    """

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]):
        """Starts the process and does not wait for it."""
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log, self.facts, self.cores = log, {}, 0.0
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, env=environment, text=True
            )

    def ready(self, patience: float) -> "Player":
        """Waits until the process is ready, at most `patience` seconds, and returns this player.

        Raises:
          PlayerError: it ended before, or was ended.
        """
        timer = threading.Timer(patience, self._process.kill)
        timer.start()
        try:
            self.facts = self._hear()
        except BaseException:
            self.close()
            raise
        finally:
            timer.cancel()
        return self

    def go(self, steps: int) -> float:
        """Does so many steps and returns the seconds.

        Raises:
          PlayerError: the process has ended.
        """
        try:
            self._process.stdin.write(f"go {steps}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        found = self._hear()
        self.cores = found["processor"] / found["seconds"]
        return found["seconds"]

    def close(self) -> None:
        """Ends the process and waits for it, so that its memory is free."""
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait()

    def __enter__(self) -> "Player":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _hear(self) -> dict:
        for line in self._process.stdout:
            if line.startswith(_MARK):
                return json.loads(line.removeprefix(_MARK))
        raise self._ended()

    def _ended(self) -> PlayerError:
        code = self._process.wait()
        tail = self._log.read_text(errors="replace").splitlines()[-_TAIL:]
        why = "it took too long to be ready" if code == -signal.SIGKILL else f"exit code {code}"
        return PlayerError("\n".join([why, *tail]))


def _answer(facts: Mapping) -> None:
    print(f"{_MARK}{json.dumps(facts)}", flush=True)
