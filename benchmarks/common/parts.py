"""Runs benchmarks one after the other, each in its own process, and stores their results."""

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from ass_jax.runtime.console import format_seconds
from benchmarks.common import command

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path("runs/bench")
_TAIL = 15  # Lines of the log that are printed when a part fails.


@dataclasses.dataclass(frozen=True)
class Part:
    """One benchmark.

    Attributes:
      name: of its files, `NAME.json` and `NAME.log`; may contain a folder.
      module: name within the package `benchmarks`, such as "speed.step".
      arguments: of the command line.
      seconds: expected time, from which the time left is estimated.
    """

    name: str
    module: str
    arguments: tuple[str, ...]
    seconds: float

    @property
    def command(self) -> str:
        """The command line as it stands in the result."""
        return command.described(f"benchmarks.{self.module}", self.arguments)

    def result(self, folder: Path) -> dict | None:
        """Returns the stored result of exactly this command line; None if there is none."""
        try:
            found = json.loads((folder / f"{self.name}.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return found if found.get("command") == self.command else None

    def run(self, folder: Path) -> str:
        """Runs the benchmark; returns an empty text, or what went wrong."""
        file, log = folder / f"{self.name}.json", folder / f"{self.name}.log"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        line = [sys.executable, "-m", f"benchmarks.{self.module}", *self.arguments, f"--json={file.resolve()}"]
        with log.open("wb") as output:
            code = _run(line, output)
        if code or self.result(folder) is None:
            tail = log.read_text(errors="replace").splitlines()[-_TAIL:]
            return "\n".join([f"exit code {code}; the end of {log}:", *(f"  | {text}" for text in tail)])
        return ""


def _run(line: Sequence[str], output: IO[bytes]) -> int:
    """Runs a program to its end and returns its exit code; ends it when this process is interrupted."""
    with subprocess.Popen(line, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT) as process:
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            raise


def run_all(parts: Sequence[Part], folder: Path, fresh: bool = False) -> dict[str, dict]:
    """Runs the parts that have no result yet and returns the results by name, without those that failed.

    Args:
      parts: in the order in which they run.
      folder: of results and logs.
      fresh: run everything, even if there are results.
    """
    left = [part for part in parts if fresh or part.result(folder) is None]
    print(
        f"{len(parts)} benchmarks, {len(parts) - len(left)} finished earlier. Results and logs: {folder}/", flush=True
    )
    expected, begun, done = sum(part.seconds for part in left), time.monotonic(), 0.0
    for number, part in enumerate(left, 1):
        # The time taken so far, relative to what was expected, corrects the estimate of the rest.
        pace = (time.monotonic() - begun) / done if done else 1.0
        print(
            f"{number:3}/{len(left)}  {part.name} (about {format_seconds(pace * (expected - done))} left)", flush=True
        )
        if problem := part.run(folder):
            print(f"FAILED: {part.command}\n{problem}", file=sys.stderr, flush=True)
        done += part.seconds
    return {part.name: found for part in parts if (found := part.result(folder)) is not None}
