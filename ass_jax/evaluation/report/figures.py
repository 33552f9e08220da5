"""Figures of a report, drawn by Bokeh in the browser: curves, bars, dots and a heat map.

Their greys and colours are readable on white and on black, and their ground is transparent. The script of the page
gives their words the colour of its own.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from bokeh.models import (
    BasicTicker,
    ColumnDataSource,
    FixedTicker,
    HoverTool,
    NumeralTickFormatter,
    PlainText,
    Range1d,
)
from bokeh.plotting import figure

from ass_jax.evaluation.report.curves import Curve

COLOURS = ("#3b82d6", "#e07b39", "#2f9e73", "#c9528f", "#8f70d6", "#b5912f", "#2aa3b3", "#d4545b")
DASHES = ("solid", "dashed", "dotted")
INK = "ink"  # Name of the renderers that the page's script gives the colour of its words.
_GREY = "#80868f"
_FULL = 50  # Percent from which a cell of the heat map is dark.
_LEAST_SHARE = 0.5  # Percent that a cell of the heat map names.
_LINE_HEIGHT = 20  # Pixels of a bar or a row of dots.
_LONGEST_NAME = 18  # Characters on an axis; the whole name is in the table beside it.
_MARKED = 12  # Curves of at most as many points have a dot at each.


def style(number: int) -> tuple[str, str]:
    """Returns colour and dash of the curve or the bars with this number, counted from 0."""
    return COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]


def curves(lines: Mapping[str, Curve]) -> figure:
    """Draws curves by key over the steps."""
    plot = _figure(height=280, tools="box_zoom,pan,wheel_zoom,reset,save", active_drag="box_zoom")
    styles = [style(number) for number in range(len(lines))]
    xs = [curve.steps.astype(np.float64) for curve in lines.values()]
    ys = [curve.values.astype(np.float32) for curve in lines.values()]
    # One renderer for all curves: each more takes Bokeh tens of milliseconds, at each evaluation.
    columns = {"xs": xs, "ys": ys, "color": [colour for colour, _ in styles], "dash": [dash for _, dash in styles]}
    drawn = plot.multi_line(
        "xs", "ys", color="color", line_dash="dash", alpha="alpha", line_width=1.8, source=_source(lines, columns)
    )
    tooltips = [("", "@key"), ("step", "$snap_x{0,0}"), ("value", "$snap_y{0.0000}")]
    plot.add_tools(HoverTool(renderers=[drawn], tooltips=tooltips))
    marked = [number for number, steps in enumerate(xs) if len(steps) <= _MARKED]
    if marked:
        keys = [key for number, key in enumerate(lines) if number in marked for _ in xs[number]]
        columns = {"x": np.concatenate([xs[number] for number in marked])}
        columns |= {"y": np.concatenate([ys[number] for number in marked])}
        columns |= {"color": [styles[number][0] for number in marked for _ in xs[number]]}
        plot.scatter("x", "y", size=5, color="color", alpha="alpha", source=_source(keys, columns))
    plot.xaxis.ticker = BasicTicker(min_interval=1, desired_num_ticks=5)
    plot.xaxis.formatter = NumeralTickFormatter(format="0.[00]a")
    plot.yaxis.ticker = BasicTicker(desired_num_ticks=5)
    return plot


def bars(names: Sequence[str], series: Mapping[str, Sequence[float | None]]) -> figure:
    """Draws scores as bars: a group a name from top to bottom, a bar a key.

    Args:
      names: of the groups.
      series: scores by key, in percent and in the order of `names`; None where there is none.
    """
    plot = _rows(names, height=len(names) * (10 + (_LINE_HEIGHT - 8) * len(series)))
    thickness = 0.8 / max(1, len(series))
    columns = _columns(names, series)
    columns["row"] += np.repeat(thickness * (np.arange(len(series)) + 0.5) - 0.4, len(names))
    source = _source(columns.pop("keys"), columns)
    plot.hbar(y="row", right="score", height=0.88 * thickness, color="color", alpha="alpha", source=source)
    plot.x_range = Range1d(0, 102)  # So that the label of 100 fits.
    plot.add_tools(HoverTool(tooltips=[("", "@of"), ("", "@key: @score{0.0} %")]))
    return plot


def dots(names: Sequence[str], series: Mapping[str, Sequence[float | None]]) -> figure:
    """Draws scores as dots: a row a name from top to bottom, a colour a key; a bar marks the mean of a row.

    Args:
      names: of the rows.
      series: scores by key, in percent and in the order of `names`; None where there is none.
    """
    plot = _rows(names, height=len(names) * (_LINE_HEIGHT + 6))
    columns = _columns(names, series)
    known = [row[~np.isnan(row)] for row in columns["score"].reshape(len(series), len(names)).T]
    means = np.array([row.mean() if row.size else np.nan for row in known])
    rows = np.arange(len(names), dtype=np.float64)
    plot.segment(x0=means, x1=means, y0=rows - 0.32, y1=rows + 0.32, line_width=2, color=_GREY)
    source = _source(columns.pop("keys"), columns)
    drawn = plot.scatter("score", "row", size=8, color="color", alpha="alpha", source=source)
    plot.add_tools(HoverTool(renderers=[drawn], tooltips=[("", "@of"), ("", "@key: @score{0.0} %")]))
    return plot


def heat_map(matrix: np.ndarray, row_names: Sequence[str], column_names: Sequence[str]) -> figure:
    """Draws a confusion matrix: each cell is the share of the pixels of its row, the true class.

    Args:
      matrix: integers `[R, C]`.
      row_names: of the true classes.
      column_names: of the predicted classes.
    """
    rows, columns = matrix.shape
    totals = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(100.0 * matrix, totals, out=np.zeros(matrix.shape), where=totals > 0)
    down, across = np.indices(matrix.shape)
    source = ColumnDataSource(
        {
            "x": across.ravel(),
            "y": down.ravel(),
            "share": shares.ravel(),
            "alpha": 0.04 + 0.96 * shares.ravel() / 100,
            "pixels": [f"{count:,}" for count in matrix.ravel().tolist()],
            "true": np.repeat(row_names, columns).tolist(),
            "prediction": np.tile(column_names, rows).tolist(),
        }
    )
    plot = _rows(row_names, height=130 + 24 * rows, tools="save")
    plot.rect("x", "y", width=0.96, height=0.94, source=source, color=COLOURS[0], alpha="alpha", line_color=None)
    full = shares.ravel() >= _FULL
    for inside, colour, name in ((full, "#ffffff", ""), (~full, _GREY, INK)):
        shown = inside & (shares.ravel() >= _LEAST_SHARE)
        texts = [f"{share:.0f}" for share in shares.ravel()[shown]]
        cells = ColumnDataSource({"x": across.ravel()[shown], "y": down.ravel()[shown], "text": texts})
        look = {"text_font_size": "10px", "text_align": "center", "text_baseline": "middle", "text_color": colour}
        plot.text("x", "y", text="text", source=cells, name=name, **look)
    plot.x_range = Range1d(-0.5, columns - 0.5)
    plot.xaxis.ticker = FixedTicker(ticks=list(range(columns)))
    plot.xaxis.major_label_overrides = {place: _label(name) for place, name in enumerate(column_names)}
    plot.xaxis.major_label_orientation = 0.9
    plot.xgrid.visible = False
    tooltips = [("true", "@true"), ("prediction", "@prediction"), ("share", "@share{0.0} %"), ("pixels", "@pixels")]
    plot.add_tools(HoverTool(renderers=[plot.renderers[0]], tooltips=tooltips))
    return plot


def _columns(names: Sequence[str], series: Mapping[str, Sequence[float | None]]) -> dict[str, Any]:
    """Returns an entry for each score: its key, name, row and colour."""
    scores = [np.nan if score is None else score for of_key in series.values() for score in of_key]
    return {
        "keys": [key for key in series for _ in names],
        "of": list(names) * len(series),
        "row": np.tile(np.arange(len(names), dtype=np.float64), len(series)),
        "score": np.array(scores, np.float64),
        "color": [style(number)[0] for number in range(len(series)) for _ in names],
    }


def _source(keys: Iterable[str], columns: Mapping[str, Any]) -> ColumnDataSource:
    """Returns columns with those by which the page's script hides the entries of a key: `key` and `alpha`."""
    keys = list(keys)
    return ColumnDataSource({"key": keys, "alpha": np.ones(len(keys)), **columns})


def _rows(names: Sequence[str], height: int, tools: str = "save") -> figure:
    """Returns an empty figure with a row for each name, from top to bottom."""
    plot = _figure(height=height + 60, tools=tools, y_range=Range1d(len(names) - 0.4, -0.6))
    plot.yaxis.ticker = FixedTicker(ticks=list(range(len(names))))
    plot.yaxis.major_label_overrides = {place: _label(name) for place, name in enumerate(names)}
    plot.ygrid.visible = False
    return plot


def _label(name: str) -> PlainText:
    """Returns a name for an axis. As a plain string, Bokeh would take dollar signs in it for a formula."""
    short = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
    return PlainText(text=short)


def _figure(**options: Any) -> figure:
    plot = figure(
        sizing_mode="stretch_width",
        min_width=0,
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        toolbar_location="above",
        **options,
    )
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    for axis in plot.axis:
        axis.axis_line_color = axis.major_tick_line_color = axis.major_label_text_color = _GREY
        axis.minor_tick_line_color = None
        axis.major_label_text_font_size = "11px"
        axis.major_label_text_font = "system-ui, sans-serif"
    for grid in plot.grid:
        grid.grid_line_color, grid.grid_line_alpha = _GREY, 0.25
    return plot
