"""Draws what a trial gains over its baseline against the number of labelled images, one line for each test bed.

  python -m benchmarks.ladder.gains docs/results/semantic/*_judge.json --trial=ass --output=gains.png

Reads the `factors.json` that `benchmarks.ladder.factors` writes. A dot is the mean over the seeds, a bar the 95 %
interval. Counts without an interval (fewer than two seeds in common) are left out.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

# Distinguishable without colour vision and in grey.
_STYLES = (("#0072b2", "o"), ("#d55e00", "s"), ("#009e73", "^"), ("#7f7f7f", "D"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Draws the picture; returns the exit code: 1 if no file has a gain of the trial."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", help="factors.json of the test beds")
    parser.add_argument("--trial", action="append", required=True, help="of TRIALS; may be given for several")
    parser.add_argument("--output", type=Path, required=True, help="PNG to write")
    options = parser.parse_args(arguments)
    found = [json.loads(file.read_text()) for file in options.files]
    lines = {bed["bed"]: gains_of(bed, options.trial) for bed in found}
    lines = {bed: gains for bed, gains in lines.items() if gains}
    if not lines:
        print(f"No file has a gain of {' or '.join(options.trial)} with an interval.", file=sys.stderr)
        return 1
    draw(lines, options.output)
    return 0


def gains_of(found: dict, trials: Sequence[str]) -> dict[int, dict]:
    """Returns the gain by number of labelled images, of the first of the trials that a test bed has.

    Args:
      found: see `benchmarks.ladder.factors.summarise`.
      trials: names.
    """
    for name in trials:
        rows = [row for row in found["rows"] if row["trial"] == name and row["gain"]]
        if rows:
            return {row["count"]: row["gain"] for row in sorted(rows, key=lambda row: row["count"])}
    return {}


def draw(lines: dict[str, dict[int, dict]], file: Path) -> None:
    """Draws a line with bars for every test bed.

    Args:
      lines: gain by number of labelled images, by test bed.
      file: PNG to write.
    """
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(0, color="black", linewidth=0.8)
    for position, ((bed, gains), (colour, marker)) in enumerate(
        zip(lines.items(), itertools.cycle(_STYLES), strict=False)
    ):
        # A little to the side of each other, so that bars of equal counts stay apart.
        counts = [count * 1.03 ** (position - (len(lines) - 1) / 2) for count in gains]
        means = [100 * gain["mean"] for gain in gains.values()]
        below = [100 * (gain["mean"] - gain["low"]) for gain in gains.values()]
        above = [100 * (gain["high"] - gain["mean"]) for gain in gains.values()]
        seeds = sorted({gain["count"] for gain in gains.values()})
        label = f"{bed.replace('_', ' ')} ({' to '.join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))} seeds)"
        bars = {"yerr": [below, above], "color": colour, "marker": marker, "label": label}
        axes.errorbar(counts, means, capsize=3, linewidth=1.4, **bars)
    ticks = sorted({count for gains in lines.values() for count in gains})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(count) for count in ticks])
    axes.minorticks_off()
    axes.set_xlabel("labelled target images")
    axes.set_ylabel("gain in mIoU, points")
    axes.grid(axis="y", color="#e0e0e0", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(file, dpi=150)


if __name__ == "__main__":
    sys.exit(main())
