"""A training run of a benchmark: its command line, its configuration and the files it writes."""

import dataclasses
import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from ass_jax.runtime.workdir import SCORES
from configs._validate import validate

FULL_METHOD = "ass_plus"  # Every term that some variant switches off is active in it.
SETTINGS = "config.json"
LOG = "log.txt"
JOB = "job.json"  # Time and machine of a run, written by `benchmarks.ladder.jobs`.
PLACES = ("data.directory", "data.source_root", "data.target_root")  # Folders of a machine; they change no result.
_NAMED_DIFFERENCES = 3


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """One training run.

    Attributes:
      variant: of `configs._variants.VARIANTS`; a number of labelled target images may follow, as in "joint,8".
      seed: of weights, order of the data and choice of labelled images.
      config: as the run will see it.
      arguments: of `main.py`.
      folder: its working directory.
    """

    variant: str
    seed: int
    config: ConfigDict
    arguments: tuple[str, ...]
    folder: Path

    def __str__(self) -> str:
        return f"{self.variant} seed {self.seed}"

    def scores(self) -> dict | None:
        """Returns the scores after the last step; None if the run has not finished."""
        scores = _read(self.folder / SCORES)
        return scores if scores is not None and scores.get("step") == self.config.steps else None

    def job(self) -> dict:
        """Returns time and machine of the run; empty if they are unknown."""
        return _read(self.folder / JOB) or {}

    def conflict(self) -> str:
        """Describes how the settings in the folder differ from this run's; empty if the folder can be used."""
        found = _read(self.folder / SETTINGS)
        if found is None:
            return f"{self.folder} has scores without {SETTINGS}." if self.scores() else ""
        found = {key: value for key, value in flatten(found).items() if key not in PLACES}
        expected = flatten(settings(self.config))
        differing = [key for key in sorted(found.keys() | expected.keys()) if found.get(key) != expected.get(key)]
        if not differing:
            return ""
        named = [f"{key} {found.get(key)} there, {expected.get(key)} here" for key in differing[:_NAMED_DIFFERENCES]]
        more = len(differing) - len(named)
        return f"{self.folder}: {'; '.join(named)}" + (f"; and {more} more." if more else ".")


def plan(
    config: str, variants: Sequence[str], seeds: Sequence[int], overrides: Sequence[str], folder: Path
) -> list[Run]:
    """Plans the runs: all variants of a seed before the next seed, so that finished runs can be compared early.

    An override applies to every run except those whose variant sets the same key: a variant without a term stays
    without it.

    Args:
      config: configuration file; further words may follow its colon.
      variants: see `Run`.
      seeds: see `Run`.
      overrides: arguments `--config.KEY=VALUE`.
      folder: of the runs' working directories.

    Raises:
      ValueError: a file, word, key or value is not valid, or the variants would not be compared fairly.
    """
    file, _, words = config.partition(":")
    names = {variant: f"{file}:{','.join(filter(None, (variant, words)))}" for variant in (FULL_METHOD, *variants)}
    plain = {variant: flatten(settings(load_config(name))) for variant, name in names.items()}
    runs = []
    for seed in seeds:
        for variant in variants:
            own = {key for key, value in plain[variant].items() if value != plain[FULL_METHOD][key]}
            changes = (
                f"--config.seed={seed}",
                f"--config.data.labelled_seed={seed}",
                *(override for override in overrides if key_of(override) not in own),
            )
            workdir = folder / f"{variant.replace(',', '_')}_seed{seed}"
            arguments = (f"--config={names[variant]}", *changes, f"--workdir={workdir}")
            runs.append(Run(variant, seed, load_config(names[variant], changes), arguments, workdir))
    _check_fair(runs)
    return runs


def typical_run(runs: Sequence[Run]) -> Run:
    """Returns the first run of the most complete method; the report shows its settings and pictures."""
    best = (run for name in (FULL_METHOD, "ass") for run in runs if run.variant.partition(",")[0] == name)
    return next(best, runs[0])


def load_config(name: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """Returns the configuration that `main.py` builds from its arguments.

    Args:
      name: a file and the words after its colon.
      overrides: arguments `--config.KEY=VALUE`.

    Raises:
      ValueError: a file, word, key or value is not valid.
    """
    file, _, words = name.partition(":")
    if not Path(file).is_file():
        raise ValueError(f"There is no configuration file {file!r}.")
    specification = importlib.util.spec_from_file_location("config_file", file)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    values, line = flags.FlagValues(), ["main.py", *overrides]
    try:
        config_flags.DEFINE_config_dict("config", module.get_config(words), flag_values=values, sys_argv=line)
        values(line)
        validate(values.config)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{name} {' '.join(overrides)}: {error}") from error
    return values.config


def settings(config: ConfigDict) -> dict:
    """Returns a configuration as plain JSON values, without `PLACES`."""
    plain = json.loads(config.to_json())
    for place in PLACES:
        group, name = place.split(".")
        del plain[group][name]
    return plain


def flatten(tree: dict, prefix: str = "") -> dict:
    """Returns a nested dictionary as one of dotted keys, such as "data.batch.source"."""
    return dict(_leaves(tree, prefix))


def key_of(override: str) -> str:
    """Returns the key of an argument: "augment.flip" of "--noconfig.augment.flip"."""
    return override.partition("=")[0].partition("config.")[2]


def _check_fair(runs: Sequence[Run]) -> None:
    """Raises ValueError unless all variants train as long, on as many labelled images a step."""
    labelled = {run.variant: run.config.data.batch.source + run.config.data.batch.labelled for run in runs}
    steps = {run.variant: run.config.steps for run in runs}
    for name, found in {"labelled images a step": labelled, "steps": steps}.items():
        if len(set(found.values())) > 1:
            raise ValueError(
                f"The variants would differ in their {name}: {found}. Change the batch or the steps in the "
                "configuration file instead."
            )


def _read(file: Path) -> dict | None:
    """Returns the contents of a JSON file; None if it is missing or incomplete."""
    try:
        return json.loads(file.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def _leaves(tree: dict, prefix: str) -> Iterator[tuple[str, object]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
