"""Small training runs in child processes, which a benchmark stops, kills and inspects."""

import dataclasses
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ass_jax.checkpoints.integrity import read_checksums
from ass_jax.checkpoints.manager import Checkpoints
from ass_jax.runtime.workdir import CHECKPOINTS, METRICS

CONFIG = "configs/toy.py:ass,smoke"
INTERVAL = 10  # Steps between checkpoints.
_PATIENCE = 300  # Seconds to wait for anything a child does.


@dataclasses.dataclass(frozen=True)
class Place:
    """The folder in which children run.

    Attributes:
      folder: holds working directories, data and compiled programs.
    """

    folder: Path

    def start(self, name: str, *others: str, devices: int = 1) -> "Child":
        """Starts a run on so many devices in the directory `name`; `others` are further arguments of `main.py`."""
        settings = {
            "steps": 60,
            "log_every": 1,
            "checkpoint.every": INTERVAL,
            "evaluation.every": 30,
            "data.directory": self.folder / "data",
        }
        arguments = [f"--config.{key}={value}" for key, value in settings.items()]
        arguments = [f"--config={CONFIG}", *arguments, f"--workdir={self.folder / name}", *others]
        return Child(arguments, self.folder, devices=devices)

    def checkpoints(self, name: str) -> Path:
        """Returns the folder of a run's checkpoints."""
        return self.folder / name / CHECKPOINTS

    def state(self, name: str) -> tuple[int, str]:
        """Returns the last sound step, after reading it, and a hash of the checksums of its state."""
        with Checkpoints(self.checkpoints(name), read_only=True) as checkpoints:
            step = checkpoints.latest_intact_step()
        sums = read_checksums(self.checkpoints(name), step)
        return step, hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()

    def scores(self, name: str) -> dict:
        """Returns the final scores of a run."""
        report = json.loads((self.folder / name / "eval.json").read_text())
        return {key: report[key] for key in ("step", "mean_iou", "class_iou")}

    def logged_step(self, name: str) -> int:
        """Returns the last step in the log."""
        steps = []
        for line in (self.folder / name / METRICS).read_text().splitlines():
            try:
                steps.append(json.loads(line)["step"])
            except json.JSONDecodeError:  # The last line, cut short by a kill.
                continue
        return max(steps, default=0)


class Child:
    """A run in a child process, whose output is collected."""

    def __init__(
        self, arguments: list[str], folder: Path, program: tuple[str, ...] = ("main.py",), *, devices: int = 1
    ):
        """Starts the run; `program` is what Python runs, `folder` holds the compiled programs."""
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(devices),
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        self.begun = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, *program, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self.id = self._process.pid
        self._lines, self._changed = [], threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def text(self) -> str:
        """The output so far."""
        return "".join(self._lines)

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def resumed_at(self) -> int:
        """Returns the step from which it resumed; 0 if it started from scratch."""
        found = re.search(r"Goes on from step (\d+)", self.text)
        return int(found[1]) if found else 0

    def wait_for_step(self, number: int = 0) -> bool:
        """Waits until it reports a step above `number`; returns False if it ends first."""
        return self._wait(lambda text: any(int(step) > number for step in re.findall(r"(?m)^step (\d+)/", text)))

    def wait_for(self, words: str) -> bool:
        """Waits until it prints `words`; returns False if it ends first."""
        return self._wait(lambda text: words in text)

    def send(self, number: int) -> None:
        """Sends it a signal if it is still running."""
        if self.is_running:
            os.kill(self.id, number)

    def kill(self) -> None:
        """Ends it as a power cut would."""
        self.send(signal.SIGKILL)
        self.wait()

    def wait(self, patience: float = _PATIENCE) -> int:
        """Waits for its end, at most `patience` seconds, and returns its exit code."""
        try:
            code = self._process.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
            raise RuntimeError(f"A run did not end within {patience:.0f} s:\n{self.text[-2000:]}") from None
        with self._changed:
            self._changed.wait_for(lambda: self._lines and self._lines[-1] == "", timeout=10)
        return code

    def _wait(self, holds: Callable[[str], bool]) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: holds(self.text) or (self._lines and self._lines[-1] == ""), _PATIENCE)
            return holds(self.text)

    def _read(self) -> None:
        for line in self._process.stdout:
            self._add(line)
        self._add("")  # The end.

    def _add(self, line: str) -> None:
        with self._changed:
            self._lines.append(line)
            self._changed.notify_all()
