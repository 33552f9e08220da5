"""The page itself: what stands where, as data that `rendering` turns into HTML."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bokeh.embed import json_item
from bokeh.plotting import figure

from ass_jax.checkpoints import config_diff
from ass_jax.class_table import BACKGROUND
from ass_jax.evaluation import metrics
from ass_jax.evaluation.report import curves, figures
from ass_jax.evaluation.report.curves import Curve
from ass_jax.evaluation.report.examples import ERROR_COLOURS, RIGHT, UNCOUNTED, WRONG
from ass_jax.evaluation.report.formats import ABSENT, grouped, hex_colour, percent, percentage, signed, whole
from ass_jax.evaluation.report.ladder import Ladder
from ass_jax.evaluation.report.rendering import render
from ass_jax.evaluation.report.run import PANELS, Evaluation, Run, mean_speed, read_run, training_seconds
from ass_jax.runtime.console import format_seconds

_TOTAL_POINTS = 100_000  # Of all curves of a page, some 2 MB.
_FEWEST_POINTS = 50  # Of a curve.
_KINDS = {"worst": "Worst", "median": "Near the median", "best": "Best"}


def run_page(workdir: Path) -> str:
    """Returns the report of a run as HTML.

    Raises:
      UserError: the folder has no file of a run.
    """
    return page([read_run(workdir)])


def page(runs: Sequence[Run], ladders: Sequence[Ladder] = ()) -> str:
    """Returns a report as HTML: of one run in full, of several side by side, and of ladders.

    Args:
      runs: any number.
      ladders: any number.
    """
    sections: list[dict] = []
    if len(runs) == 1:
        sections = _run_sections(runs[0])
    elif runs:
        sections = _comparison_sections(dict(zip(_labels(runs), runs, strict=True)))
    for ladder in ladders:
        sections += _ladder_sections(ladder)
    return render(_heading(runs, ladders), sections)


# The parts of the page. Each is data for the template, which escapes all text.


def _heading(runs: Sequence[Run], ladders: Sequence[Ladder]) -> dict:
    if len(runs) == 1:
        (run,) = runs
        return {
            "title": run.variant or run.folder.name,
            "subtitle": str(run.folder),
            "cards": _cards(run),
            "problems": run.problems,
        }
    problems = [f"{run.folder}: {problem}" for run in runs for problem in run.problems]
    title = f"{len(runs)} runs side by side" if runs else "Ladder"
    subtitle = ", ".join(str(path) for path in [*(run.folder for run in runs), *(ladder.file for ladder in ladders)])
    return {"title": title, "subtitle": subtitle, "cards": [], "problems": problems}


def _run_sections(run: Run) -> list[dict]:
    evaluations = list(run.evaluations.values())
    found = [_scores_section(run)] if evaluations else [_section("Scores", note="Nothing is scored yet.")]
    found.append(_curves_section(curves.by_plot(run.curves)))
    for evaluation in evaluations:
        found += _confusion_sections(evaluation) + _example_sections(evaluation)
    return [*found, _settings_section(run)]


def _comparison_sections(runs: Mapping[str, Run]) -> list[dict]:
    scored = {label: _main_evaluation(run) for label, run in runs.items()}
    known = {label: evaluation for label, evaluation in scored.items() if evaluation}
    found = [_section("Runs", _runs_table(runs))]
    if known:
        scores = {label: evaluation.scores for label, evaluation in known.items()}
        names = _class_names(scores.values())
        found.append(
            _section(
                "Scores",
                _figure("IoU by class in %", *_bars(names, {each: of["class_iou"] for each, of in scores.items()})),
                _figure("Dice by class in %", *_bars(names, {each: of["class_dice"] for each, of in scores.items()})),
                _score_table({label: scores[label] for label in scores}),
                note=f"On the {_listed({evaluation.split for evaluation in known.values()})} images, each at the step "
                "of its last evaluation.",
            )
        )
    plots: dict[str, dict[str, Curve]] = {}
    for label, run in runs.items():
        for name, curve in sorted(run.curves.items(), key=lambda entry: curves.place(entry[0])):
            if not (curves.is_of_class(name) or curves.is_count(name)):
                title = name.replace("/", ": ").replace("_", " ")
                plots.setdefault(title, {})[label] = curves.in_percent(name, curve)
    found.append(_curves_section(plots))
    differing = _differing_settings(runs)
    rows = [[key, *values] for key, values in differing.items()]
    note = "" if rows else "All settings are the same."
    blocks = [_table(["setting", *runs], rows)] if rows else []
    return [*found, _section("Settings that differ", *blocks, note=note)]


def _ladder_sections(ladder: Ladder) -> list[dict]:
    names = list(ladder.scores)
    series = {
        f"seed {seed}": [percentage(scores[number]) for scores in ladder.scores.values()]
        for number, seed in enumerate(ladder.seeds)
    }
    rows = [
        [name, percent(spread.get("mean")), percent(spread.get("deviation")), *map(percent, ladder.scores[name])]
        for name, spread in ladder.spreads.items()
    ]
    differences = [
        [
            f"{pair.get('of')} − {pair.get('against')}",
            signed(pair.get("mean")),
            percent(pair.get("error")),
            *(signed((pair.get("by_seed") or {}).get(seed)) for seed in ladder.seeds),
            f"{pair.get('positive', ABSENT)} of {pair.get('count', ABSENT)}",
        ]
        for pair in ladder.differences
    ]
    seeds = [f"seed {seed}" for seed in ladder.seeds]
    blocks = [
        _figure(f"mIoU {ladder.subset} in %, a dot a seed, a bar the mean", figures.dots(names, series), list(series)),
        _table(["variant", "mean", "deviation", *seeds], rows),
    ]
    found = [_section(f"Ladder {ladder.title}".strip(), *blocks, note=f"Scores in %, from {ladder.file}.")]
    if differences:
        found.append(
            _section(
                "Paired differences",
                _table(["difference", "mIoU", "standard error", *seeds, "positive"], differences),
                note="In percentage points of mIoU, seed by seed; positive: the first is better.",
            )
        )
    return found


def _cards(run: Run) -> list[tuple[str, str]]:
    evaluation, steps = _main_evaluation(run), run.settings.get("steps", "")
    found = []
    if evaluation:
        scores = evaluation.scores
        found += [(f"mIoU {name}, %", percent(score)) for name, score in scores["mean_iou"].items()][:1]
        if _score_name(evaluation) == "Dice":
            found.append(("Dice by image, %", percent(scores.get("dice_by_image"))))
        found.append(("pixel accuracy, %", percent(scores.get("pixel_accuracy"))))
        found.append(("images scored", grouped(scores.get("images"))))
    step = max([run.last_step, *(whole(found.scores.get("step")) for found in run.evaluations.values())])
    found.append((f"step of {grouped(int(steps))}" if steps.isdecimal() else "step", grouped(step)))
    speed, seconds = mean_speed(run), training_seconds(run)
    if speed is not None:
        found.append(("images/s in training", f"{speed:.1f}"))
    if seconds is not None:
        found.append(("training time, without evaluations", format_seconds(seconds)))
    return found


def _scores_section(run: Run) -> dict:
    main = _main_evaluation(run)
    assert main is not None
    columns = {}
    for split, evaluation in run.evaluations.items():
        columns |= {split: evaluation.scores}
        columns |= {
            title if evaluation is main else f"{split}, {title}": evaluation.scores[key]
            for key, title in {"average": "teacher", "held_out": "held-out"}.items()
            if key in evaluation.scores
        }
    names = _class_names([main.scores])
    plot, keys = _bars(names, {"IoU": main.scores["class_iou"], "Dice": main.scores["class_dice"]})
    checkpoints = []
    for split, evaluation in run.evaluations.items():
        step, chosen = grouped(evaluation.scores.get("step")), evaluation.scores.get("chosen", "not known how")
        checkpoints.append(f"{split.capitalize()}: step {step}, {chosen}")
    return _section(
        "Scores",
        _figure(f"IoU and Dice by class in %, {main.split}", plot, keys),
        _score_table(columns, main),
        note=f"{'; '.join(checkpoints)}.",
    )


def _score_table(columns: Mapping[str, dict], evaluation: Evaluation | None = None) -> dict:
    """Returns a table of IoU; of one evaluation, with a column of Dice and the colours of the classes."""
    groups = metrics.score_rows(list(columns.values()))
    head = ["IoU in %", *columns]
    if evaluation:
        head.append(f"Dice, {evaluation.split}")
        for kind, rows in groups.items():
            for row in rows:
                row.append(percent(evaluation.scores["class_dice"].get(row[0])) if kind == "classes" else "")
    colours = _colours(evaluation) if evaluation else {}
    rows = groups["classes"] + groups["means"] + groups["others"] + groups["counts"]
    lines = [len(groups["classes"]), len(groups["classes"]) + len(groups["means"])]
    return _table(head, rows) | {"colours": colours, "lines": lines}


def _curves_section(plots: Mapping[str, Mapping[str, Curve]]) -> dict:
    count = sum(map(len, plots.values()))
    most = min(curves.MOST_POINTS, max(_FEWEST_POINTS, _TOTAL_POINTS // max(1, count)))
    longest = max((len(curve.steps) for lines in plots.values() for curve in lines.values()), default=0)
    blocks = []
    for title, lines in plots.items():
        thinned = {label: curves.thin(curve, most) for label, curve in lines.items()}
        blocks.append(_figure(title, figures.curves(thinned), list(lines)))
    note = "Drag over a plot to zoom in, and use its tools to reset it. A click on a name hides its curve."
    if longest > most:
        note += f" Curves are thinned out to {most:,} points: of equal bins, the lowest and the highest value stay."
    return _section("Curves", *blocks, note=note if plots else "No metrics are written yet.")


def _confusion_sections(evaluation: Evaluation) -> list[dict]:
    matrix = evaluation.confusion
    if matrix is None:
        return []
    columns = [str(name) for name in evaluation.record["classes"]]
    rows = [*columns, *["other classes"] * (len(matrix) - len(columns))]
    plot = figures.heat_map(matrix, rows, columns)
    note = "A row is a true class, a column a predicted one. Numbers are the share of the row's pixels in %."
    return [_section(f"Confusion matrix, {evaluation.split}", _figure("", plot, []) | {"wide": True}, note=note)]


def _example_sections(evaluation: Evaluation) -> list[dict]:
    if not evaluation.examples:
        return []
    name = _score_name(evaluation)
    groups = [
        {
            "title": title,
            "examples": [
                {
                    "name": str(example.get("name")),
                    "score": f"{name} {percent(example.get('score'))} %",
                    "panels": [(panel, _picture(panel, example["panels"][panel])) for panel in PANELS],
                }
                for example in evaluation.examples
                if example.get("kind") == kind
            ],
        }
        for kind, title in _KINDS.items()
    ]
    errors = {"right": RIGHT, "wrong": WRONG, "ignored": UNCOUNTED}
    kind = f"Chosen by the image's {name}"
    if evaluation.record.get("processes", 1) != 1:
        kind += " among the images of the first process"
    block = {
        "kind": "examples",
        "groups": [group for group in groups if group["examples"]],
        "keys": [(error, hex_colour(ERROR_COLOURS[value])) for error, value in errors.items()],
        "classes": list(_colours(evaluation).items()),
    }
    return [
        _section(f"Images, {evaluation.split}", block, note=f"{kind}; the error map shows what is right and wrong.")
    ]


def _settings_section(run: Run) -> dict:
    evaluation = _main_evaluation(run)
    record = evaluation.record if evaluation else {}
    labelled = evaluation.scores.get("labelled") if evaluation else None
    facts = {"working directory": str(run.folder)}
    if isinstance(labelled, dict):
        facts |= {"labelled images": str(labelled.get("list")), "SHA-256 of their names": str(labelled.get("sha256"))}
    if isinstance(versions := record.get("versions"), dict):
        facts["versions"] = ", ".join(f"{library} {version}" for library, version in versions.items())
    for key, title in {"devices": "devices of the evaluation", "written": "evaluated at"}.items():
        if key in record:
            facts[title] = str(record[key])
    blocks = [_table(["run", ""], [[*fact] for fact in facts.items()]) | {"words": True}]
    if run.settings:
        table = _table(["setting", "value"], [[*setting] for setting in run.settings.items()]) | {"words": True}
        blocks.append({"kind": "details", "title": f"All {len(run.settings)} settings", "table": table})
    return _section("Settings", *blocks)


def _runs_table(runs: Mapping[str, Run]) -> dict:
    rows = []
    for label, run in runs.items():
        evaluation, speed, seconds = _main_evaluation(run), mean_speed(run), training_seconds(run)
        scores = evaluation.scores if evaluation else {}
        rows.append(
            [
                label,
                percent(next(iter(scores.get("mean_iou", {}).values()), None)),
                percent(scores.get("dice_by_image")),
                percent(scores.get("pixel_accuracy")),
                grouped(scores.get("step", run.last_step)),
                ABSENT if speed is None else f"{speed:.1f}",
                ABSENT if seconds is None else format_seconds(seconds),
            ]
        )
    head = ["run", "mIoU in %", "Dice by image in %", "pixel accuracy in %", "step", "images/s", "training time"]
    return _table(head, rows)


# Blocks of a section.


def _section(title: str, *blocks: dict, note: str = "") -> dict:
    return {"title": title, "note": note, "blocks": blocks}


def _figure(title: str, plot: figure, keys: Sequence[str]) -> dict:
    """Returns the block of a figure with `keys` in the order of their styles; a key that is the title is not shown."""
    shown = [] if [key.lower() for key in keys] == [title.lower()] else keys
    styled = [(key, *figures.style(number)) for number, key in enumerate(shown)]
    return {"kind": "figure", "title": title, "keys": styled, "item": json_item(plot)}


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> dict:
    return {"kind": "table", "head": head, "rows": rows, "lines": [], "colours": {}, "words": False}


def _bars(names: Sequence[str], series: Mapping[str, Mapping[str, float | None]]) -> tuple[figure, list[str]]:
    scores = {label: [percentage(of.get(name)) for name in names] for label, of in series.items()}
    return figures.bars(names, scores), list(scores)


# What the sections are made of.


def _labels(runs: Sequence[Run]) -> list[str]:
    """Returns the variants of runs, or their folders where variants are the same or unknown."""
    variants = [run.variant for run in runs]
    return variants if len(set(variants)) == len(runs) and all(variants) else [str(run.folder) for run in runs]


def _main_evaluation(run: Run) -> Evaluation | None:
    """Returns the evaluation of the validation images, or else another one."""
    return next(iter(run.evaluations.values()), None)


def _score_name(evaluation: Evaluation) -> str:
    """Returns the name of the score of `ass_jax.evaluation.image_scores.ranking_scores`."""
    return "Dice" if BACKGROUND in evaluation.scores["class_iou"] else "mIoU"


def _class_names(scores: Any) -> list[str]:
    return list(dict.fromkeys(name for of in scores for name in of["class_iou"]))


def _differing_settings(runs: Mapping[str, Run]) -> dict[str, list[str]]:
    keys = dict.fromkeys(key for run in runs.values() for key in run.settings)
    values = {key: [run.settings.get(key, config_diff.ABSENT) for run in runs.values()] for key in keys}
    return {key: found for key, found in values.items() if len(set(found)) > 1}


def _colours(evaluation: Evaluation) -> dict[str, str]:
    """Returns the colours of the classes as CSS has them; empty where the file has something else."""
    names, palette = evaluation.record.get("classes"), evaluation.record.get("palette")
    if not (isinstance(names, list) and isinstance(palette, list)):
        return {}
    return {
        str(name): hex_colour(colour)
        for name, colour in zip(names, palette, strict=False)
        if isinstance(colour, list) and len(colour) == 3 and all(isinstance(part, int) for part in colour)
    }


def _picture(panel: str, content: str) -> str:
    return f"data:image/{'jpeg' if panel == 'image' else 'png'};base64,{content}"


def _listed(words: Any) -> str:
    return " and ".join(sorted(words))
