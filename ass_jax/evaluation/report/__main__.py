"""Writes a report: python -m ass_jax.evaluation.report RUN [RUN|LADDER ...] [--output=FILE].

One run: its report, by default as report.html in its working directory. Several runs side by side, or a ladder (a
folder with ladder.json, or that file): by default report.html in the current directory.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from ass_jax.evaluation.report.ladder import find_ladder, read_ladder
from ass_jax.evaluation.report.page import page
from ass_jax.evaluation.report.run import read_run
from ass_jax.runtime.console import print_error, print_user_error, say
from ass_jax.runtime.workdir import REPORT, replace_text, writing
from configs.user_error import UserError

_OUTPUT = "--output="


def write_report(paths: Sequence[Path], output: Path | None = None) -> Path:
    """Writes the report of runs and ladders; returns its path.

    Args:
      paths: working directories of runs, folders of ladders or their files.
      output: of the report; None: `report.html` in the folder of the only run, or in the current one.

    Raises:
      UserError: a path is neither a run nor a ladder, or the report cannot be written.
    """
    ladders = {path: file for path in paths if (file := find_ladder(path))}
    runs = [path for path in paths if path not in ladders]
    if output is None:
        output = (runs[0] if len(runs) == 1 and not ladders else Path()) / REPORT
    text = page([read_run(path) for path in runs], [read_ladder(file) for file in ladders.values()])
    with writing(output):
        replace_text(output, text)
    return output


def main(arguments: Sequence[str]) -> int:
    """Writes the report that the arguments of the command line name; returns the exit code."""
    paths = [Path(argument).expanduser() for argument in arguments if not argument.startswith("-")]
    outputs = [
        Path(argument.removeprefix(_OUTPUT)).expanduser() for argument in arguments if argument.startswith(_OUTPUT)
    ]
    if not paths or len(paths) + len(outputs) < len(arguments) or len(outputs) > 1:
        print_error(*(__doc__ or "").splitlines())
        return UserError.exit_code
    try:
        say(f"Report: {write_report(paths, outputs[0] if outputs else None)}")
    except UserError as error:
        return print_user_error(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
