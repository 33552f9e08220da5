"""The cost of checkpoints: a run of the toy configuration with its own interval between saves, timed from inside.

    python -m benchmarks.faults.saves NOTES --config=configs/toy.py ...

runs `main.py` with timers around saves and steps and writes the measurements to the file NOTES.
"""

import functools
import json
import runpy
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from ass_jax.checkpoints import integrity
from ass_jax.checkpoints.manager import Checkpoints
from ass_jax.training.monitor import Monitor
from benchmarks.faults.children import Child
from benchmarks.faults.runs import Result, Setting
from configs import toy

_LARGEST_SHARE = 0.03  # Of the training time.
_PATIENCE = 3600  # Seconds for the whole run.


class Watch:
    """Times the steps of a run and the checkpoint calls in its training thread; evaluations count as neither.

    Attributes:
      steps: seconds of every step but the first, and whether a save was in progress when it began.
      calls: seconds that the training thread spent in calls to checkpoints.
      checksums: the part of these seconds that computes checksums.
      saves: number of saves.
    """

    def __init__(self):
        """Starts with nothing measured."""
        self.steps: list[tuple[float, bool]] = []
        self.calls, self.checksums, self.saves = 0.0, 0.0, 0
        self._begun: float | None = None  # Start of the current step; None before the first one.
        self._saving: Checkpoints | None = None
        self._inside = False

    def install(self) -> None:
        """Wraps what the training loop calls."""
        for name in ("save", "raise_failed_save", "wait", "close"):
            setattr(Checkpoints, name, self._timed(getattr(Checkpoints, name)))
        integrity.checksums = self._timed_checksums(integrity.checksums)
        Monitor.add = self._after_step(Monitor.add)

    def notes(self) -> dict:
        """Returns all measurements, JSON-able."""
        return {name: getattr(self, name) for name in ("steps", "calls", "checksums", "saves")}

    def _timed(self, call: Callable) -> Callable:
        @functools.wraps(call)
        def timed(checkpoints: Checkpoints, *arguments: Any) -> Any:
            if self._begun is None or self._inside:  # Calls may be nested.
                return call(checkpoints, *arguments)
            begun, self._inside = time.monotonic(), True
            try:
                return call(checkpoints, *arguments)
            finally:
                now, self._inside = time.monotonic(), False
                self.calls += now - begun
                if call.__name__ == "save":
                    # An evaluation in this pass of the loop, before the save, is no part of the next step.
                    self._begun, self._saving, self.saves = now, checkpoints, self.saves + 1

        return timed

    def _timed_checksums(self, call: Callable) -> Callable:
        def timed(**items: Any) -> Any:
            begun = time.monotonic()
            try:
                return call(**items)
            finally:
                self.checksums += time.monotonic() - begun

        return timed

    def _after_step(self, call: Callable) -> Callable:
        def add(monitor: Monitor, metrics: Any) -> None:
            # Without waiting, the loop runs ahead of the devices and single steps cannot be timed.
            jax.block_until_ready(metrics)
            now = time.monotonic()
            if self._begun is not None:
                self.steps.append((now - self._begun, self._saving is not None))
            self._begun = now
            if self._saving and not self._saving._manager.is_saving_in_progress():
                self._saving = None
            call(monitor, metrics)

        return add


def cost_of_saves(setting: Setting) -> Result:
    """Trains for `setting.count` intervals of two saves each; compares steps during a save with the others."""
    folder, every = setting.place.folder, toy.get_config().checkpoint.every
    workdir, notes = folder / "saves", folder / "saves.json"
    shutil.rmtree(workdir, ignore_errors=True)
    notes.unlink(missing_ok=True)
    settings = {"steps": setting.count * every, "data.directory": folder / "data"}
    arguments = [f"--config.{key}={value}" for key, value in settings.items()]
    arguments = ["--config=configs/toy.py", f"--workdir={workdir}", *arguments]
    child = Child(arguments, folder, program=("-m", "benchmarks.faults.saves", str(notes)))
    if child.wait(_PATIENCE) or not notes.exists():
        return f"the run failed: {child.text[-300:]}", False
    return verdict(json.loads(notes.read_text()))


def verdict(found: dict) -> Result:
    """Returns the share of the training time that checkpoints take, from `Watch.notes`."""
    median = statistics.median(seconds for seconds, _ in found["steps"])
    during = [seconds for seconds, saving in found["steps"] if saving]
    slower = sum(during) - median * len(during)
    share = (found["calls"] + max(0.0, slower)) / (median * len(found["steps"]))
    steps = f"{len(found['steps']) + 1} steps of {1000 * median:.0f} ms"
    calls = f"{found['calls']:.2f} s in the training thread, {found['checksums']:.2f} s of them checksums"
    text = (
        f"{steps}, {found['saves']} saves: {100 * share:.2f} % of the training time; {calls}; "
        f"{len(during)} steps during a save took {slower:+.2f} s longer"
    )
    return text, share < _LARGEST_SHARE


def main() -> None:
    """Runs `main.py` with the remaining arguments and timers."""
    notes, watch = Path(sys.argv.pop(1)), Watch()
    watch.install()
    try:
        runpy.run_path("main.py", run_name="__main__")
    finally:
        notes.write_text(json.dumps(watch.notes()))


if __name__ == "__main__":
    main()
