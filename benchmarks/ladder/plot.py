"""The plot of the ladder: a row for each variant, a dot for each seed, a bar at the mean."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.ladder.report import describe_parts, parts_of

# By target labels and teacher; distinguishable without colour vision and in grey.
_COLOURS = {"none": "#7f7f7f", "few": "#0072b2", "teacher": "#56b4e9", "all": "#d55e00"}
_DESCRIPTIONS = {
    "none": "no target labels",
    "few": "some target labels",
    "teacher": "some, and a teacher",
    "all": "all target labels",
}


def save_plot(summary: dict, file: Path) -> None:
    """Draws the mIoU of every variant.

    Args:
      summary: see `benchmarks.ladder.statistics.summarise`.
      file: PNG to write.
    """
    names = list(summary["variants"])
    figure = Figure(figsize=(9, 0.55 * len(names) + 1.5), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.08)
    axes = figure.add_subplot()
    for height, name in enumerate(names):
        _draw_row(axes, height, name, summary)
    axes.set_yticks([])
    axes.set_ylim(len(names) - 0.4, -0.6)  # The first variant on top.
    axes.margins(x=0.1)
    axes.grid(axis="x", color="#e0e0e0", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_xlabel("mIoU in % on the target's validation images")
    data = summary["config"]["data"]
    what = "generated streets" if data["source"] == data["target"] == "toy" else f"{data['source']} → {data['target']}"
    axes.set_title(f"Ladder of variants, {what}, {summary['config']['steps']:,} steps", loc="left", fontsize=11)
    _add_legend(figure, names, summary)
    figure.savefig(file, dpi=150)


def _draw_row(axes: Axes, height: float, name: str, summary: dict) -> None:
    row, seeds = summary["variants"][name], summary["seeds"]
    colour = _COLOURS[_kind(name)]
    _label(axes, height, name, describe_parts(name, row["labelled_count"]))
    if not row["by_seed"]:
        return
    scores = [100 * score for score in row["by_seed"].values()]
    # A little lower for each seed, so that equal scores stay visible.
    heights = [height + 0.3 * ((seeds.index(seed) + 0.5) / len(seeds) - 0.5) for seed in row["by_seed"]]
    mean = sum(scores) / len(scores)
    axes.plot([mean, mean], [height - 0.28, height + 0.28], color=colour, linewidth=2.5, solid_capstyle="butt")
    axes.scatter(scores, heights, s=34, color=colour, alpha=0.6, linewidths=0, zorder=3)
    place = {"xytext": (10, 0), "textcoords": "offset points", "va": "center"}
    axes.annotate(f"{mean:.1f}", (max(scores), height), fontweight="bold", color=colour, **place)


def _kind(variant: str) -> str:
    parts = parts_of(variant)
    return "teacher" if parts.teacher else parts.target_labels


def _label(axes: Axes, height: float, name: str, description: str) -> None:
    """Writes a variant's name and its parts to the left of the axes."""
    place = {"transform": axes.get_yaxis_transform(), "ha": "right"}
    axes.text(-0.02, height - 0.02, name, va="bottom", fontweight="bold", **place)
    axes.text(-0.02, height + 0.06, description, va="top", fontsize=7.5, color="#606060", **place)


def _add_legend(figure: Figure, names: list[str], summary: dict) -> None:
    kinds = dict.fromkeys(map(_kind, names))
    style = {"linestyle": "", "marker": "o", "markersize": 6}
    handles = [Line2D([], [], color=_COLOURS[kind], label=_DESCRIPTIONS[kind], **style) for kind in kinds]
    count = len(summary["seeds"])
    seed = f"one of {count} seeds" if count > 1 else "the only seed"
    handles.append(Line2D([], [], color="black", alpha=0.6, label=seed, **style))
    bar = {"linestyle": "", "marker": "|", "markersize": 11, "markeredgewidth": 2.5}
    handles.append(Line2D([], [], color="black", label="mean", **bar))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 3), frameon=False, fontsize=9)
