"""Processes that run steps on demand, so that two frameworks are measured in turns on one machine.

A process prints one line of facts when it is ready. For each line `go N` on its standard input it runs N steps and
prints the seconds and the processor seconds that they took. It ends at the end of its input.
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

_MARK = "turns: "  # Begins each line of the protocol: libraries print too.
_TAIL = 15  # Lines of the log that are printed when a process fails.


class PlayerError(Exception):
    """A process ended unexpectedly; the message holds the end of its log."""


def serve(run: Run, facts: Mapping) -> None:
    """Prints the facts, then runs steps on demand until the input ends."""
    _answer(facts)
    for line in sys.stdin:
        _, _, count = line.partition("go ")
        begun = time.process_time()
        seconds = run(int(count))
        _answer({"seconds": seconds, "processor": time.process_time() - begun})


class Player:
    """A process that calls `serve`.

    Attributes:
      facts: printed by the process when it was ready.
      cores: busy on average during the last turn. On a CPU, fewer than there are means that other programs compute.
    """

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]):
        """Starts the process without waiting for it."""
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log, self.facts, self.cores = log, {}, 0.0
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, env=environment, text=True
            )

    def ready(self, patience: float) -> "Player":
        """Waits until the process is ready, at most `patience` seconds, and returns this player.

        Raises:
          PlayerError: it ended before it was ready, or the patience was over.
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
        """Runs a number of steps and returns the seconds.

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
        why = "killed: not ready in time, or out of memory" if code == -signal.SIGKILL else f"exit code {code}"
        return PlayerError("\n".join([why, *tail]))


def _answer(facts: Mapping) -> None:
    print(f"{_MARK}{json.dumps(facts)}", flush=True)
