"""The ladder's report, computed entirely from the scores and the configurations."""

import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.common.machine import describe_in_words
from configs._variants import VARIANTS, Variant
from data.datasets.registry import SPECS
from data.streams import STREAMS

README_ROWS = ("source_only", "joint", "adaptsegnet", "ass", "ass_plus", "oracle")
TERMS = ("global", "semantic", "mixed")  # Of the loss, in addition to the cross-entropy of the labelled images.


def markdown(summary: dict) -> str:
    """Returns the report as a page of Markdown; it shows the plot `ladder.png` of the same folder."""
    config, count, missing = summary["config"], len(summary["seeds"]), _missing(summary)
    file, overrides = summary["config_file"].partition(":"), summary["overrides"]
    words = f"{file[0]}:VARIANT{file[2] and ','}{file[2]}"
    parts = [
        f"# The ladder: every variant on `{summary['config_file']}`",
        f"Written by `benchmarks/ladder/train.py` from {len(summary['runs']) - len(missing)} finished runs of "
        f"{len(summary['runs'])}; changes by hand are lost. Make it again with `{summary['command']}`.",
        *([f"**Missing: {_listed(missing)}.**"] if missing else []),
        *([f"**Settings changed for it: `{shlex.join(overrides)}`.**"] if overrides else []),
        "![mIoU of every variant, a dot a seed](ladder.png)",
        "## Scores",
        f"In %, on the target's validation images after step {config['steps']:,}, from the last checkpoint (not the "
        f"best one). {_explain_spread(count)}",
        _score_table(summary),
    ]
    if summary["differences"]:
        parts += [
            "## Differences, seed by seed",
            "In percentage points of mIoU; positive: the first is better. Runs with the same seed share the "
            "segmenter's initial weights, the order of each stream and the choice of labelled target images, so that "
            f"part of the random variation cancels. {_explain_sign(count)} The standard error is that of the mean "
            "difference.",
            _difference_table(summary),
        ]
    parts += [
        "## IoU by class",
        "Means over the seeds, in %.",
        _class_table(summary),
        *([_class_difference_table(summary)] if summary["differences"] else []),
        "## What acts in each variant",
        "All variants train for the same number of steps, on the same number of labelled images a step (source and "
        "target together). Unlabelled images are added where the global term or the teacher needs them. A "
        "discriminator exists only if its term has a weight; a teacher (moving average of the segmenter) only if "
        "mixed images have one.",
        _parts_table(summary),
        "## Settings",
        _bullets(_settings(config)),
        "## How it was run",
        f"Every run is a separate process, with SEED {_listed(summary['seeds'])}:",
        f"```\npython main.py --config={words} --config.seed=SEED --config.data.labelled_seed=SEED"
        f"{''.join(f' {shlex.quote(override)}' for override in overrides)} --workdir=WORKDIR\n```",
        _bullets(_conditions(summary)),
        "The same CPU, versions and number of threads reproduce the numbers bit for bit. On other machines the last "
        "bits of sums differ, which training can amplify.",
    ]
    return "\n\n".join(parts) + "\n"


def short_table(summary: dict, variants: Iterable[str] | None = None) -> str:
    """Returns a table of the scores alone.

    Args:
      summary: of `benchmarks.ladder.statistics.summarise`.
      variants: rows of the table, such as `README_ROWS`; default: all.
    """
    shown = summary["variants"] if variants is None else variants
    rows = [
        [f"`{name}`", describe_parts(name, row["labelled_count"]), _percent(_main(row, summary))]
        for name, row in summary["variants"].items()
        if name in shown
    ]
    missing = _missing(summary)
    return "\n\n".join(
        [
            _table(["variant", "what acts", "mIoU in %"], rows, words=2),
            f"The last checkpoint, after {summary['config']['steps']:,} steps of `{summary['config_file']}`. "
            f"{_explain_spread(len(summary['seeds']))}" + (f" Missing: {_listed(missing)}." if missing else ""),
        ]
    )


def refresh_readme(file: Path, text: str, mark: str = "ladder") -> bool:
    """Puts `text` between `<!-- mark -->` and `<!-- /mark -->` in a file; returns whether both marks exist."""
    first, last = re.escape(f"<!-- {mark} -->"), re.escape(f"<!-- /{mark} -->")
    old = file.read_text() if file.is_file() else ""
    between = re.compile(f"(?s)(?<={first}\n).*?(?={last})")
    if not between.search(old):
        return False
    file.write_text(between.sub(lambda _: f"{text}\n", old, count=1))
    return True


def describe_parts(variant: str, labelled_count: int) -> str:
    """Describes a variant in a few words, such as "source + 8 labelled target images + global + semantic"."""
    parts = parts_of(variant)
    labels = {"none": "", "few": f"{labelled_count} labelled target images", "all": "all target images labelled"}
    terms = {
        "adapted statistics": parts.adapts_statistics,
        "global": parts.global_term,
        "semantic": parts.semantic_term,
        "teacher": parts.teacher,
    }
    names = (
        "source" * parts.source_labels,
        labels[parts.target_labels],
        *(name for name, acts in terms.items() if acts),
    )
    return " + ".join(filter(None, names))


def parts_of(variant: str) -> Variant:
    """Returns the parts of a variant, behind which a number of labelled images may stand, as in "joint,8"."""
    return VARIANTS[variant.partition(",")[0]]


def _missing(summary: dict) -> list[str]:
    return [f"{run['variant']} seed {run['seed']}" for run in summary["runs"] if run["scores"] is None]


def _conditions(summary: dict) -> list[str]:
    """Returns a line for each kind of machine and number of parallel runs."""
    kinds = {}
    for run in summary["runs"]:
        if run["scores"] is not None:
            kinds.setdefault(_condition(run["job"]), []).append(run["seed"])
    if len(kinds) == 1:
        return [f"{kind}." for kind in kinds]
    return [f"{len(seeds)} runs, seed {_listed(dict.fromkeys(seeds))}: {kind}." for kind, seeds in kinds.items()]


def _condition(job: dict) -> str:
    if not job:
        return "Machine and time are unknown"
    way = "one run at a time"
    if job["jobs"] > 1:
        way = f"{job['jobs']} runs at a time, each in one thread on {job['cores']} core(s)"
    return f"{describe_in_words(job['machine'])}; {way}"


def _explain_spread(count: int) -> str:
    if count == 1:
        return "One seed: the random variation is unknown."
    return f"Mean ± sample standard deviation over {count} seeds."


def _explain_sign(count: int) -> str:
    if count == 1:
        return "One seed cannot separate a difference from chance."
    return (
        f"If two variants were equally good, all {count} differences would be positive by chance once in {2**count} "
        "ladders."
    )


def _score_table(summary: dict) -> str:
    subsets, rows = summary["subsets"], []
    taught = any(row["average"]["count"] for row in summary["variants"].values())
    foreground = dict.fromkeys(title for row in summary["variants"].values() for title in row["foreground"])
    for name, row in summary["variants"].items():
        share = row["share_of_oracle"]
        rows.append(
            [
                f"`{name}`",
                *(_percent(row["mean_iou"].get(subset)) for subset in subsets),
                *([_percent(row["average"])] if taught else []),
                ", ".join(_number(row["by_seed"].get(seed)) for seed in summary["seeds"]),
                "–" if share is None else f"{100 * share:.0f} %",
                *(_percent(row["foreground"].get(title)) for title in foreground),
            ]
        )
    means = [f"mIoU {subset}" for subset in subsets] + [f"teacher's mIoU {subsets[0]}"] * taught
    by_seed = f"seed {', '.join(map(str, summary['seeds']))}"
    return _table(["variant", *means, by_seed, "share of oracle", *foreground], rows)


def _difference_table(summary: dict) -> str:
    rows = [
        [
            _name(pair),
            _percent(pair, signed=True),
            "–" if pair["error"] is None else f"{100 * pair['error']:.1f}",
            ", ".join(_number(pair["by_seed"].get(seed), signed=True) for seed in summary["seeds"]),
            f"{pair['positive']} of {pair['count']}",
        ]
        for pair in summary["differences"]
    ]
    by_seed = f"seed {', '.join(map(str, summary['seeds']))}"
    return _table(["difference", "mIoU", "standard error", by_seed, "positive"], rows)


def _class_table(summary: dict) -> str:
    names = list(dict.fromkeys(name for row in summary["variants"].values() for name in row["class_iou"]))
    rows = [
        [f"`{variant}`", *(_number(row["class_iou"].get(name, {}).get("mean")) for name in names)]
        for variant, row in summary["variants"].items()
    ]
    return _table(["variant", *names], rows)


def _name(pair: dict) -> str:
    return f"`{pair['of']}` − `{pair['against']}`"


def _class_difference_table(summary: dict) -> str:
    pairs = summary["differences"]
    names = list(dict.fromkeys(name for pair in pairs for name in pair["class_iou"]))
    rows = [[_name(pair), *(_number(pair["class_iou"].get(name), signed=True) for name in names)] for pair in pairs]
    return _table(["difference", *names], rows)


def _parts_table(summary: dict) -> str:
    rows = []
    for name, row in summary["variants"].items():
        count = {-1: "all", 0: "–"}.get(row["labelled_count"], row["labelled_count"])
        images = [row["images_per_step"].get(stream, "–") for stream in STREAMS]
        weights = [row[f"{term}_weight"] or "–" for term in TERMS]
        rows.append([f"`{name}`", *images, count, *weights])
    heads = ["variant", *(f"{stream} images a step" for stream in STREAMS)]
    return _table([*heads, "labelled target images", *(f"{term} weight" for term in TERMS)], rows)


def _settings(config: dict) -> list[str]:
    """Returns the main settings that all variants share, a line each."""
    data, model, loss, optimizer = (config[group] for group in ("data", "model", "loss", "optimizer"))
    discriminator, toy = config["discriminator"], data["toy"]
    target = SPECS[data["target"]]
    scored = "" if target.is_generated else f", scored on {target.splits['target_validation'].name}"
    lines = [f"Data: {data['source']} → {data['target']}{scored}, classes {data['classes']}."]
    generated = [f"{toy['source_count']} source"] * (data["source"] == "toy")
    generated += [f"{toy['target_count']} target and {toy['validation_count']} validation"] * (data["target"] == "toy")
    if generated:
        lines.append(
            f"Generated images: {_listed(generated)} images of {toy['height']}×{toy['width']} pixels, scenes of seed "
            f"{toy['seed']}, shift {toy['shift']:g}; the same in every run."
        )
    crop = _size(config["augment"]["crop"]) if any(config["augment"]["crop"]) else ""
    lines += [
        f"Training size (height × width): source {_size(data['source_size'])}, target {_size(data['target_size'])}"
        f"{crop and f'; crops of {crop}'}.",
        f"Network: {model['backbone']}, head {_head(model)}, {model['dtype']}.",
        f"Segmenter: {_descent(optimizer)}, learning rate {optimizer['learning_rate']:g} (classifier ×"
        f"{optimizer['classifier_factor']:g}), weight decay "
        f"{optimizer['weight_decay']:g}; polynomial decay of power {optimizer['decay_power']:g} over "
        f"{optimizer['decay_steps']:,} steps.",
        f"Global term: {loss['global_kind']}, width {discriminator['global_width']}, learning rate "
        f"{discriminator['global_learning_rate']:g}.",
        f"Semantic term: averages {loss['semantic_input']}, outputs {loss['semantic_outputs']}, width "
        f"{discriminator['semantic_width']}, learning rate {discriminator['semantic_learning_rate']:g}.",
        f"Adversarial weights rise over {loss['warmup_steps']:,} steps.",
    ]
    teacher = config["teacher"]
    if teacher["mixed_weight"]:
        lines.append(
            f"Teacher: decay {teacher['decay']:g}, {teacher['mixing']} regions, threshold {teacher['threshold']:g}, "
            f"jitter {teacher['jitter']:g}, {'' if teacher['blur'] else 'no '}blur; labelled images drawn at "
            f"rare-class temperature {data['rare_class_temperature']:g}."
        )
    return lines


def _head(model: dict) -> str:
    """Names the head; the atrous one in results of runs that had no choice."""
    head = model.get("head", "atrous")
    return f"atrous of {model['branches']} dilations" if head == "atrous" else head


def _descent(optimizer: dict) -> str:
    """Names the segmenter's optimiser; SGD in results of runs that had no choice."""
    if optimizer.get("kind", "sgd") == "adamw":
        return f"AdamW, betas {_listed(optimizer['betas'])}"
    return f"SGD, momentum {optimizer['momentum']:g}"


def _main(row: dict, summary: dict) -> dict | None:
    return row["mean_iou"].get(summary["subsets"][0])


def _percent(spread: dict | None, signed: bool = False) -> str:
    """Formats mean and deviation of shares of 1 in percent."""
    if not spread or spread["mean"] is None:
        return "–"
    deviation = spread["deviation"]
    return _number(spread["mean"], signed) + ("" if deviation is None else f" ± {100 * deviation:.1f}")


def _number(share: float | None, signed: bool = False) -> str:
    if share is None:
        return "–"
    return f"{100 * share:{'+' if signed else ''}.1f}".replace("-", "−")


def _size(size: Sequence[int]) -> str:
    return "×".join(map(str, size))


def _listed(values: Iterable) -> str:
    return ", ".join(map(str, values))


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]], words: int = 1) -> str:
    """Formats a Markdown table: the first `words` columns aligned left, the others right."""
    rule = ["---"] * words + ["---:"] * (len(heads) - words)
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (heads, rule, *rows))
