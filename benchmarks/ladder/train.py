"""Trains every variant of the method over several seeds and reports their scores: `make ladder`.

  python -m benchmarks.ladder.train
  python -m benchmarks.ladder.train --seeds=0,1,2,3,4 --jobs=4
  python -m benchmarks.ladder.train --report_only
  python -m benchmarks.ladder.train --config=configs/toy.py:smoke --workdir=runs/trial
  python -m benchmarks.ladder.train --config.optimizer.learning_rate=0.01 --workdir=runs/trial
  python -m benchmarks.ladder.train --config.data.labelled_count=3 --workdir=runs/ladder_3
  python -m benchmarks.ladder.train --config=configs/camvid.py --variants=source_only,joint,ass_plus --counts=4,8,16

Finished runs are skipped and unfinished ones resume from their last checkpoint: after an interruption, repeat the
command. `--config.KEY=VALUE` changes a setting of every run, except where the variant itself sets it (a term that a
variant lacks stays off). The report goes to docs/results/ladder/ and a short table into README.md; that of a trial
(other settings, not all variants) goes to the working directory, or to --output. Runs whose steps compile to the same
program, such as most runs that differ only in their seed, compile it once.

--counts trains the variants that read some target labels once with each number of labelled images.
"""

import argparse
import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from ass_jax.runtime.workdir import PREDICTION_PICTURE
from benchmarks.common import machine
from benchmarks.common.runs import PLACES, Run, key_of, plan, typical_run
from benchmarks.ladder.jobs import interrupt_on_signals, train_missing
from benchmarks.ladder.plot import save_plot
from benchmarks.ladder.report import README_ROWS, markdown, refresh_readme, short_table
from benchmarks.ladder.statistics import summarise
from configs._variants import VARIANTS

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "configs/toy.py"
WORKDIR = Path("runs/ladder")
SEEDS = (0, 1, 2)
SET_BY_LADDER = ("seed", "data.labelled_seed", "variant")
EXIT_CODE_OF_INTERRUPT = 130  # As shells report Ctrl-C.


def main(arguments: Sequence[str] | None = None, command: Sequence[str] = (), root: Path = ROOT) -> int:
    """Trains what is missing, writes the report and returns the exit code: 1 if a run failed.

    Args:
      arguments: of the command line; default: those of this process.
      command: program that trains one run; default: `main.py`.
      root: of the repository, in which `docs/results/ladder/` and `README.md` are written.
    """
    options, overrides = _parse(arguments)
    try:
        runs = plan(options.config, _rows(options.variants, options.counts), options.seeds, overrides, options.workdir)
    except ValueError as error:
        return _refuse(str(error))
    conflicts = list(filter(None, (run.conflict() for run in runs)))
    if conflicts:
        lines = "\n".join(f"  {conflict}" for conflict in conflicts)
        return _refuse(f"There are runs with other settings: remove them or choose another --workdir.\n{lines}")
    failed = []
    if not options.report_only:
        try:
            failed = train_missing(runs, command or (sys.executable, str(ROOT / "main.py")), options.jobs)
        except KeyboardInterrupt:
            print(
                "Interrupted. The same command resumes the runs; --report_only reports the finished ones.",
                file=sys.stderr,
            )
            return EXIT_CODE_OF_INTERRUPT
    # The report names no path of this machine.
    path = Path(options.config).resolve()
    config = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
    shown = [override for override in overrides if key_of(override) not in PLACES]
    try:
        summary = summarise(runs, config, _command(options, config, shown), shown)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    trial = config != CONFIG or options.variants != list(VARIANTS) or bool(shown) or bool(options.counts)
    folder = options.output or (options.workdir if trial else root / "docs/results/ladder")
    _write(summary, runs, folder, None if trial else root / "README.md")
    return 1 if failed else 0


def _parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Returns the options and the overrides of the configuration."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    cores = len(machine.usable_cores())
    parser.add_argument("--config", default=CONFIG, help=f"configuration file (default: {CONFIG})")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="default: %(default)s")
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)), help="default: %(default)s")
    parser.add_argument("--counts", help="numbers of labelled target images; default: the configuration's")
    parser.add_argument(
        "--workdir", type=Path, help=f"folder of the runs (default: {WORKDIR}, or {WORKDIR}_NAME for configs/NAME.py)"
    )
    parser.add_argument("--output", type=Path, help="folder of the report")
    parser.add_argument(
        "--jobs",
        type=int,
        default=cores,
        help="runs at a time (default: one a core, here %(default)s). More than one: on the processor, in one thread "
        "each; one: on all cores, or on the accelerator that JAX finds.",
    )
    parser.add_argument("--report_only", action="store_true", help="train nothing; report the finished runs")
    options, overrides = parser.parse_known_args(arguments)
    for override in overrides:
        if not (override.startswith("--config.") and "=" in override) and not override.startswith("--noconfig."):
            parser.error(f"unexpected argument {override!r}; a setting is written --config.KEY=VALUE")
        if key_of(override) in SET_BY_LADDER:
            parser.error(f"{key_of(override)} is set by the ladder: --seeds, --variants")
        if options.counts and key_of(override) == "data.labelled_count":
            parser.error("data.labelled_count is set by --counts")
    options.variants = options.variants.split(",")
    unknown = [variant for variant in options.variants if variant not in VARIANTS]
    if unknown:
        parser.error(f"unknown variant {unknown[0]!r}; valid: {', '.join(VARIANTS)}")
    for name, example in (("seeds", "0,1,2"), ("counts", "4,8,16")):
        given = getattr(options, name)
        try:
            setattr(options, name, [] if given is None else [int(number) for number in given.split(",")])
        except ValueError:
            parser.error(f"--{name}={given}: expected numbers such as {example}")
    for name in ("variants", "seeds", "counts"):
        if len(set(getattr(options, name))) < len(getattr(options, name)):
            parser.error(f"--{name}: one is named twice")
    if options.workdir is None:
        name = Path(options.config.partition(":")[0]).stem
        options.workdir = WORKDIR if name == Path(CONFIG).stem else WORKDIR.with_name(f"{WORKDIR.name}_{name}")
    if options.jobs < 1:
        parser.error(f"--jobs={options.jobs}: expected 1 or more")
    return options, overrides


def _rows(variants: Sequence[str], counts: Sequence[int]) -> list[str]:
    """Returns the rows of the ladder: where a variant reads some target labels, one for each of the counts."""
    rows = []
    for variant in variants:
        counted = VARIANTS[variant].target_labels == "few" and counts
        rows += [f"{variant},{count}" for count in counts] if counted else [variant]
    return rows


def _command(options: argparse.Namespace, config: str, overrides: Sequence[str]) -> str:
    """Returns the command that repeats the ladder."""
    given = {
        "config": (config, CONFIG),
        "variants": (",".join(options.variants), ",".join(VARIANTS)),
        "seeds": (",".join(map(str, options.seeds)), ",".join(map(str, SEEDS))),
        "counts": (",".join(map(str, options.counts)), ""),
    }
    changed = [f"--{name}={value}" for name, (value, default) in given.items() if value != default]
    return shlex.join(["python", "-m", __spec__.name, *changed, *overrides])


def _write(summary: dict, runs: Sequence[Run], folder: Path, readme: Path | None) -> None:
    """Writes the report into a folder and its table into the README; prints both places."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ladder.json").write_text(json.dumps(summary, indent=2) + "\n")
    (folder / "ladder.md").write_text(markdown(summary))
    save_plot(summary, folder / "ladder.png")
    picture = typical_run([run for run in runs if run.scores()]).folder / PREDICTION_PICTURE
    if picture.is_file():
        shutil.copyfile(picture, folder / PREDICTION_PICTURE)
    if readme is not None and not refresh_readme(readme, short_table(summary, README_ROWS)):
        print(f"{readme} has no marks `<!-- ladder -->` and `<!-- /ladder -->` for the table.", file=sys.stderr)
    print(f"{short_table(summary)}\n\nReport: {folder}/ladder.md")


def _refuse(message: str) -> int:
    print(message, file=sys.stderr)
    return 2


if __name__ == "__main__":
    interrupt_on_signals()
    sys.exit(main())
