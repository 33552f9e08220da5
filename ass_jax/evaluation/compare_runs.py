"""Prints the scores of finished runs side by side: python -m ass_jax.evaluation.compare_runs RUN [RUN ...]."""

import sys
from collections.abc import Sequence
from pathlib import Path

from ass_jax.evaluation.metrics import format_table
from ass_jax.runtime.console import print_error, print_user_error, say
from ass_jax.runtime.workdir import PREDICTION_PICTURE, SCORES, read_json
from configs.user_error import UserError


def compare_runs(workdirs: Sequence[Path]) -> str:
    """Returns the table of IoU, a column a run, and the paths of the runs' pictures.

    The heading of a column is the variant of the run, or its folder if two runs have the same variant.

    Args:
      workdirs: working directories of finished runs.

    Raises:
      UserError: a run has no file of scores, or the file is damaged.
    """
    reports = []
    for workdir in workdirs:
        if not (workdir / SCORES).is_file():
            raise UserError(f"{workdir} has no {SCORES}: its run did not end, or it is not a working directory.")
        reports.append(read_json(workdir / SCORES, {"variant": str, "class_iou": dict, "mean_iou": dict}))
    headings = [report["variant"] for report in reports]
    if len(set(headings)) < len(headings):
        headings = [str(workdir) for workdir in workdirs]
    lines = [format_table(dict(zip(headings, reports, strict=True)))]
    pictures = [workdir / PREDICTION_PICTURE for workdir in workdirs]
    lines += [f"Picture: {picture}" for picture in pictures if picture.is_file()]
    return "\n".join(lines)


if __name__ == "__main__":
    if len(sys.argv) == 1 or sys.argv[1].startswith("-"):
        print_error(__doc__)
        sys.exit(UserError.exit_code)
    try:
        say(compare_runs([Path(argument) for argument in sys.argv[1:]]))
    except UserError as error:
        sys.exit(print_user_error(error))
