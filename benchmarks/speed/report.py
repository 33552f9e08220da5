"""The report on speed, computed entirely from the results of the benchmarks."""

from collections.abc import Iterable, Sequence

from benchmarks.common.machine import describe_in_words
from benchmarks.speed.scaling import QUANTITIES

_GIB = 2**30
_METHOD = """\
Images and labels are random, of the given sizes; batches are on the device unless a table says something else. Times
are medians of several samples, each of which ends when the device is done, with the quartiles in brackets; compilation
is not included. TFLOP are counted from the networks' convolutions and matrix products, 3 × 2 for each
multiply-accumulate of a forward pass, whatever the compiler adds or saves. The limit is the speed of a large square
matrix product in the same precision, measured in the same process; on a GPU, both frameworks multiply float32 in TF32.
Memory is the peak of the device or, where it keeps no count, what the compiler planned for arguments, results and
temporaries; in the comparison with PyTorch on a CPU, it is that of the whole process."""


def markdown(results: dict[str, dict], growth: dict[str, list[dict]], plot: str = "performance.png") -> str:
    """Returns the report as a page of Markdown.

    Args:
      results: of the benchmarks, by name; any may be missing.
      growth: of `benchmarks.speed.scaling.growth`.
      plot: file name of the plot, in the folder of the page.
    """
    sections = [
        ("Against PyTorch", _against(_of(results, "compare"))),
        ("The training step", _steps(_of(results, "step"))),
        ("The largest batch", _largest(_of(results, "largest"))),
        ("Evaluation and prediction", _evaluation(_of(results, "evaluate"))),
        ("Input", _input(results.get("input"))),
        ("Start-up", _start(_of(results, "start"))),
        ("How the cost grows", _growth(growth, results, plot)),
        ("Commands and machines", _commands(results)),
    ]
    parts = [
        "# Speed and memory",
        "Written by `benchmarks/speed/suite.py` (`make bench`); changes by hand are lost.",
        *(f"## {title}\n\n{text}" for title, text in sections if text),
        f"## How it was measured\n\n{_METHOD}",
    ]
    return "\n\n".join(parts) + "\n"


def short_table(results: dict[str, dict]) -> str:
    """Returns the table of speed for docs/results/index.md; empty if nothing was compared."""
    rows, machines = [], {}
    for case in _of(results, "compare"):
        ours, peer, ratio = case["sides"]["jax"], case["sides"]["torch"], case["ratio"]
        rates = [f"{side['images_per_second']:.2f}" for side in (ours, peer)]
        rows.append([_case(ours), *rates, f"{ratio['median']:.2f}"])
        machines[_machine(peer["machine"])] = None
    table = _table(["training step", "images/s", "PyTorch's", "ratio"], rows)
    return f"{table}\n\n{'; '.join(machines)}." if rows else ""


def _of(results: dict[str, dict], prefix: str) -> list[dict]:
    named = [found for name, found in results.items() if name.startswith(f"{prefix}_")]
    return [case for found in named for case in found.get("precisions", {"": found}).values()]


def _against(found: Sequence[dict]) -> str:
    if not found:
        return ""
    rows = []
    for case in found:
        ours, peer, ratio = case["sides"]["jax"], case["sides"]["torch"], case["ratio"]
        speed = ours["tflop"] / ours["seconds"]["median"]
        rows.append(
            [
                _case(ours),
                f"{ours['images_per_second']:.2f}",
                f"{peer['images_per_second']:.2f} (`{peer['setting']}`)",
                f"**{ratio['median']:.2f}** ({ratio['lower']:.2f} to {ratio['upper']:.2f})",
                f"{speed:.3g}",
                f"{speed / ours['limit_tflop_per_second']:.0%}",
                _memory_of_both(ours, peer),
                " and ".join(f"{side['cores']['median']:.1f}" for side in (ours, peer)),
            ]
        )
    head = ["step", "ours, images/s", "PyTorch, images/s", "ratio", "our TFLOP/s", "of the limit"]
    head += ["GiB of both", "cores busy"]
    tried = "\n".join(f"- {_case(case['sides']['jax'])}: {_tried(case['tried'])}" for case in found)
    return (
        "The same step (networks, streams, losses, optimisers, precision) in both frameworks, in turns on one machine "
        "with the same number of cores. The ratio is that of our images/s to PyTorch's in each round. PyTorch runs "
        "with the fastest of its settings below. On a CPU, fewer busy cores than there are means that other programs "
        "may have disturbed the figures. With a GPU, one fully busy core means that the processor launches work all "
        f"the time and may be the limit instead of the GPU.\n\n{_table(head, rows)}\n\nPyTorch's settings, "
        "milliseconds of a step; settings close to the fastest one are measured in turns, the others alone:\n\n"
        f"{tried}"
    )


def _tried(settings: dict[str, float | str]) -> str:
    return ", ".join(
        f"`{name}` {1000 * found:.0f}" if isinstance(found, float) else f"`{name}` failed ({found.splitlines()[0]})"
        for name, found in settings.items()
    )


def _steps(found: Sequence[dict]) -> str:
    rows = [
        [
            _case(step),
            _milliseconds(step["seconds"]),
            f"{step['images_per_second']:.2f}",
            f"{step['tflop']:.3g}",
            f"{step['tflop_per_second']:.3g}",
            f"{step['share_of_limit']:.0%} of {step['limit_tflop_per_second']:.3g}",
            f"{_memory(step):.3g}",
            f"{step['compile_seconds']:.0f}",
            f"{step['steps_of_run']:,}: {step['steps_of_run'] * step['seconds']['median'] / 3600:.2g} h",
        ]
        for step in found
    ]
    head = ["step", "ms", "images/s", "TFLOP", "TFLOP/s", "of the limit", "GiB", "compiled in s", "steps of a run"]
    return _table(head, rows) if rows else ""


def _largest(found: Sequence[dict]) -> str:
    rows = []
    for search in found:
        trials = {int(images): trial for images, trial in search["trials"].items()}
        if not trials:
            continue
        name = "ours" if search["framework"] == "jax" else f"PyTorch (`{search['setting']}`)"
        for images, trial in sorted(trials.items()):
            share = f"{trial['share_of_limit']:.0%}" if "share_of_limit" in trial else "–"
            most = "**" if images == search["images_per_stream"] else ""
            rows.append(
                [
                    f"{name}, {search['dtype']}",
                    f"{most}{images}{most}",
                    f"{trial['images_per_second']:.2f}",
                    f"{_memory(trial):.3g}",
                    share,
                ]
            )
    head = ["step", "images of each stream", "images/s", "GiB", "of the limit"]
    return f"At the paper's sizes, one GPU; the largest that fits is bold.\n\n{_table(head, rows)}" if rows else ""


def _evaluation(found: Sequence[dict]) -> str:
    rows = []
    for result in found:
        views = [f"{key} {value}" for key, value in result["views"].items() if _acts(key, value)]
        height, width = result["image_size"]
        what = f"{result['backbone']}, {result['dtype']}, {result['batch']} × {height}×{width}"
        rows += [
            [
                f"{name}, {what} to {'×'.join(map(str, result['label_size']))}"
                + (f", {', '.join(views)}" * bool(views)),
                f"{result[name]['images_per_second']:.2f}",
                _milliseconds(result[name]["seconds"]),
                f"{_memory(result[name]):.3g}",
            ]
            for name in ("evaluation", "prediction")
        ]
    return _table(["what", "images/s", "ms of a batch", "GiB"], rows) if rows else ""


def _acts(key: str, value: object) -> bool:
    return value not in (False, [0, 0]) and not (key == "scales" and value == [1.0])


def _input(found: dict | None) -> str:
    if not found:
        return ""
    texts = []
    if "records" in found:
        rows = [
            [
                f"{row['set']} {row['size'][0]}×{row['size'][1]}, {row['augmentation']}",
                f"{row['cores']}",
                f"{row['rate']:.1f}",
                f"{row['rate_per_core']:.1f}",
                f"{row['decoder']:.1f}",
                f"{row['share']:.0%}",
            ]
            for row in found["records"]
        ]
        head = ["records", "cores", "pairs/s", "per core", "the decoder alone", "of the decoder"]
        texts.append(f"Pairs of image and label from prepared records, decoded and augmented.\n\n{_table(head, rows)}")
    if "loading" in found:
        loading = found["loading"]
        constant, loaded, alone = (_milliseconds(loading[name]) for name in ("constant", "loaded", "alone"))
        texts.append(
            f"The training loop of `{found['config']}`: a step takes {constant} ms with one batch over and over, and "
            f"{loaded} ms with the batches of the pipeline; loading a batch alone takes {alone} ms. Loading therefore "
            f"costs {loading['share']['median']:.1%} of the step, which hides {loading['hidden']['median']:.0%} of it."
        )
    return "\n\n".join(texts)


def _start(found: Sequence[dict]) -> str:
    rows = [
        [
            f"{result['config']}, {result['backbone']}",
            *(f"{result[name]['median']:.2g}" for name in ("help", "compiling", "kept")),
        ]
        for result in found
    ]
    text = (
        "Seconds from the command to the end of the first training step, including imports and the check of the data: "
        "in a new working directory, and in one that holds the compiled programs."
    )
    head = ["training", "`--help`", "new", "compiled before"]
    return f"{text}\n\n{_table(head, rows)}" if rows else ""


def _growth(growth: dict[str, list[dict]], results: dict[str, dict], plot: str) -> str:
    if not growth:
        return ""
    first = next(found for name, found in results.items() if name.startswith("scaling/"))
    note = (
        " The devices are virtual and share the cores: their row shows what the division costs, not what more "
        "devices would gain."
        if first["platform"] == "cpu"
        else ""
    )
    rows = [
        [
            QUANTITIES[quantity],
            f"{row['value']:.3g}",
            f"{row['milliseconds']:.1f} ({row['lower']:.1f} to {row['upper']:.1f})",
            f"{row['images_per_second']:.1f}",
            f"{row['gib']:.3g}",
        ]
        for quantity, points in growth.items()
        for row in points
    ]
    head = ["what grows", "to", "ms of a step", "images/s", "GiB on a device"]
    return (
        f"One quantity at a time, with {first['backbone']} in {first['dtype']}.{note}\n\n"
        f"![Milliseconds and memory of a step]({plot})\n\n{_table(head, rows)}"
    )


def _commands(results: dict[str, dict]) -> str:
    """Lists the commands under each machine that ran them."""
    machines = {}
    for found in results.values():
        case = next(iter(found["precisions"].values())) if "precisions" in found else found
        facts = case["machine"] if "machine" in case else case["sides"]["torch"]["machine"]
        machines.setdefault(_machine(facts), []).append(found["command"])
    return "\n\n".join(
        f"On {words}:\n\n```\n" + "\n".join(dict.fromkeys(commands)) + "\n```" for words, commands in machines.items()
    )


def _machine(facts: dict) -> str:
    """Describes a machine regardless of PyTorch and the number of devices that a benchmark used."""
    packages = {name: version for name, version in facts["packages"].items() if name != "torch"}
    kind = facts["devices"].partition(" ")[2] or facts["devices"]
    return describe_in_words(facts | {"packages": packages, "devices": kind})


def _case(found: dict) -> str:
    """Describes the work of a step: variant, backbone, type, streams."""
    streams = ", ".join(f"{count} {name} {high}×{wide}" for name, (count, high, wide) in found["streams"].items())
    variant = found["config"].partition(":")[2]
    return f"{variant}, {found['backbone']}, {found['dtype']}, {streams}"


def _milliseconds(seconds: dict) -> str:
    return f"{1000 * seconds['median']:.1f} ({1000 * seconds['lower']:.1f} to {1000 * seconds['upper']:.1f})"


def _memory(found: dict) -> float:
    memory = found["memory"]
    return (memory.get("device") or memory.get("compiled") or memory["process"]) / _GIB


def _memory_of_both(ours: dict, peer: dict) -> str:
    """Returns the memory of the device if both frameworks report it, else that of the process."""
    key = "device" if ours["memory"]["device"] and peer["memory"]["device"] else "process"
    return " and ".join(f"{side['memory'][key] / _GIB:.1f}" for side in (ours, peer))


def _table(head: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
