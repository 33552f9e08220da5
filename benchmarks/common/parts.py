"""Runs benchmarks one after the other, each in a process of its own, and keeps their results."""

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
_TAIL = 15  # Lines of the log that are shown of a part that failed.


@dataclasses.dataclass(frozen=True)
class Part:
    """One benchmark.

    Attributes:
      name: of its result, `NAME.json` and `NAME.log`; may name a folder.
      program: file in `benchmarks/`.
      arguments: of the command line.
      seconds: that it is expected to take, to tell the time left.
    """

    name: str
    program: str
    arguments: tuple[str, ...]
    seconds: float

    @property
    def command(self) -> str:
        """The command line, as results note it."""
        return command.described(self.program, self.arguments)

    def result(self, folder: Path) -> dict | None:
        """Returns the kept result of this very command line; None if there is none."""
        try:
            found = json.loads((folder / f"{self.name}.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return found if found.get("command") == self.command else None

    def run(self, folder: Path) -> str:
        """Runs the benchmark and returns an empty text or what went wrong."""
        file, log = folder / f"{self.name}.json", folder / f"{self.name}.log"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        line = [sys.executable, str(ROOT / "benchmarks" / self.program), *self.arguments, f"--json={file.resolve()}"]
        with log.open("wb") as output:
            code = _run(line, output)
        if code or self.result(folder) is None:
            tail = log.read_text(errors="replace").splitlines()[-_TAIL:]
            return "\n".join([f"exit code {code}; the end of {log}:", *(f"  | {text}" for text in tail)])
        return ""


def _run(line: Sequence[str], output: IO[bytes]) -> int:
    """Runs a program to its end and returns its exit code; an interruption ends it, and whatever it has started."""
    with subprocess.Popen(line, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT) as process:
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            raise


def run_all(parts: Sequence[Part], folder: Path, fresh: bool = False) -> dict[str, dict]:
    """Runs what has no result yet, tells of each part, and returns the results by name; those that failed are absent.

    Args:
      parts: in their order.
      folder: of results and logs.
      fresh: runs everything, whatever results there are.
    """
    left = [part for part in parts if fresh or part.result(folder) is None]
    print(f"{len(parts)} benchmarks, {len(parts) - len(left)} done before. Results and logs: {folder}/", flush=True)
    expected, begun, done = sum(part.seconds for part in left), time.monotonic(), 0.0
    for number, part in enumerate(left, 1):
        # What the parts took so far, against what they were expected to take, corrects the rest.
        pace = (time.monotonic() - begun) / done if done else 1.0
        print(
            f"{number:3}/{len(left)}  {part.name} (about {format_seconds(pace * (expected - done))} left)", flush=True
        )
        if problem := part.run(folder):
            print(f"FAILED: {part.command}\n{problem}", file=sys.stderr, flush=True)
        done += part.seconds
    return {part.name: found for part in parts if (found := part.result(folder)) is not None}
