"""Shows the scores of finished runs side by side: python -m ass_jax.evaluation.compare_runs RUN [RUN ...]."""

import sys
from collections.abc import Sequence
from pathlib import Path

from ass_jax.evaluation.metrics import format_table
from ass_jax.runtime.workdir import SCORES, STRIP, read_json


def compare(workdirs: Sequence[Path]) -> str:
    """Returns the table of IoU, a column a run, and the paths of the runs' pictures.

    A column is headed by the variant of the run, or by the folder where several have the same variant.

    Args:
      workdirs: folders of runs that have left their scores.

    Raises:
      FileNotFoundError: a run has no scores.
      ValueError: its file of scores was cut short, or is another one.
    """
    reports = []
    for workdir in workdirs:
        if not (workdir / SCORES).is_file():
            raise FileNotFoundError(f"{workdir} has no {SCORES}: its run did not end, or is another folder.")
        reports.append(read_json(workdir / SCORES, {"variant": str, "class_iou": dict, "mean_iou": dict}))
    headings = [report["variant"] for report in reports]
    if len(set(headings)) < len(headings):
        headings = [str(workdir) for workdir in workdirs]
    lines = [format_table(dict(zip(headings, reports, strict=True)))]
    pictures = [workdir / STRIP for workdir in workdirs]
    lines += [f"Picture: {picture}" for picture in pictures if picture.is_file()]
    return "\n".join(lines)


if __name__ == "__main__":
    if len(sys.argv) == 1 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    try:
        print(compare([Path(argument) for argument in sys.argv[1:]]))
    except (FileNotFoundError, ValueError) as error:
        sys.exit(str(error))
