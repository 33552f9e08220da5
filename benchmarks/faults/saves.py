"""What checkpoints cost: a run of the toy configuration at its own interval between saves, watched from within.

    python -m benchmarks.faults.faults.saves NOTES --config=configs/toy.py ...

is `main.py` under watch; it leaves its measurements in the file NOTES.
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

from ass_jax.checkpoints import leaves
from ass_jax.checkpoints.manager import Checkpoints
from ass_jax.training.monitor import Monitor
from benchmarks.faults.children import Child
from benchmarks.faults.rows import Result, Setting
from configs import toy

_MOST = 0.03  # Of the training time.
_PATIENCE = 3600  # Seconds for the whole run.


class Watch:
    """Times the steps of a run, and what its checkpoints take of the training thread.

    Attributes:
      steps: seconds of every step but the first, and whether a save was under way when it began.
      calls: seconds that the thread spent in calls to checkpoints; evaluations are in neither.
      checksums: seconds of these.
      saves: how many.
    """

    def __init__(self):
        """Nothing has been seen yet."""
        self.steps: list[tuple[float, bool]] = []
        self.calls, self.checksums, self.saves = 0.0, 0.0, 0
        self._begun: float | None = None  # When the step under way did; None before the first one.
        self._saving: Checkpoints | None = None
        self._inside = False

    def install(self) -> None:
        """Puts the watch between the training loop and what it calls."""
        for name in ("save", "check", "wait", "close"):
            setattr(Checkpoints, name, self._timed(getattr(Checkpoints, name)))
        leaves.checksums_of_items = self._timed_checksums(leaves.checksums_of_items)
        Monitor.add = self._after_step(Monitor.add)

    def notes(self) -> dict:
        """Returns all measurements, JSON-able."""
        return {name: getattr(self, name) for name in ("steps", "calls", "checksums", "saves")}

    def _timed(self, call: Callable) -> Callable:
        @functools.wraps(call)
        def timed(checkpoints: Checkpoints, *arguments: Any) -> Any:
            if self._begun is None or self._inside:  # One calls another.
                return call(checkpoints, *arguments)
            begun, self._inside = time.monotonic(), True
            try:
                return call(checkpoints, *arguments)
            finally:
                now, self._inside = time.monotonic(), False
                self.calls += now - begun
                if call.__name__ == "save":
                    # What comes before it in this turn of the loop, an evaluation maybe, is no part of the next step.
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
            jax.block_until_ready(
                metrics
            )  # Else the loop runs ahead of the devices, and no step has a time of its own.
            now = time.monotonic()
            if self._begun is not None:
                self.steps.append((now - self._begun, self._saving is not None))
            self._begun = now
            if self._saving and not self._saving._manager.is_saving_in_progress():
                self._saving = None
            call(monitor, metrics)

        return add


def cost_of_saves(setting: Setting) -> Result:
    """Trains for as many intervals, of two saves each, as asked for; compares steps beside a save with the others."""
    folder, every = setting.place.folder, toy.get_config().checkpoint.every
    workdir, notes = folder / "saves", folder / "saves.json"
    shutil.rmtree(workdir, ignore_errors=True)
    notes.unlink(missing_ok=True)
    settings = {"steps": setting.count * every, "data.directory": folder / "data"}
    arguments = [f"--config.{key}={value}" for key, value in settings.items()]
    arguments = ["--config=configs/toy.py", f"--workdir={workdir}", *arguments]
    child = Child(arguments, folder, program=("-m", "benchmarks.faults.faults.saves", str(notes)))
    if child.wait(_PATIENCE) or not notes.exists():
        return f"the run failed: {child.text[-300:]}", False
    return judged(json.loads(notes.read_text()))


def judged(found: dict) -> Result:
    """Returns the share that checkpoints take, of what `Watch.notes` tells."""
    median = statistics.median(seconds for seconds, _ in found["steps"])
    beside = [seconds for seconds, saving in found["steps"] if saving]
    slower = sum(beside) - median * len(beside)
    share = (found["calls"] + max(0.0, slower)) / (median * len(found["steps"]))
    steps = f"{len(found['steps']) + 1} steps of {1000 * median:.0f} ms"
    calls = f"{found['calls']:.2f} s in the training thread, {found['checksums']:.2f} s of them checksums"
    text = (
        f"{steps}, {found['saves']} saves: {100 * share:.2f} % of the training time; {calls}; "
        f"{len(beside)} steps beside a save took {slower:+.2f} s longer"
    )
    return text, share < _MOST


def main() -> None:
    """Runs `main.py` with the rest of the arguments, under watch."""
    notes, watch = Path(sys.argv.pop(1)), Watch()
    watch.install()
    try:
        runpy.run_path("main.py", run_name="__main__")
    finally:
        notes.write_text(json.dumps(watch.notes()))


if __name__ == "__main__":
    main()
