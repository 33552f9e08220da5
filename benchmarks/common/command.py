"""The command line that the benchmarks of speed share: a configuration, its changes, and the file of results."""

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from benchmarks.common.runs import key_of, load_config
from data.classes import class_table

CONFIG = "configs/toy.py"
_PLACES = ("json", "profile", "folder", "data", "text", "page")  # Flags that name files; they change nothing measured.


def parser(description: str) -> argparse.ArgumentParser:
    """Returns a parser with the options that every benchmark of speed has."""
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    result.add_argument("--config", default=CONFIG, help="configuration file and words after its colon: %(default)s")
    result.add_argument("--classes", type=int, default=0, help="number of classes; default: the configuration's")
    result.add_argument("--json", type=Path, help="file to write the result to")
    return result


def parse(
    options_parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None
) -> tuple[argparse.Namespace, ConfigDict]:
    """Parses the options, and the settings `--config.KEY=VALUE` of the configuration.

    Returns:
      The options, with `classes` filled in and `overrides`, and the configuration.
    """
    options, overrides = options_parser.parse_known_args(arguments)
    for override in overrides:
        if not key_of(override):
            options_parser.error(f"unexpected argument {override!r}; a setting is written --config.KEY=VALUE")
    try:
        config = load_config(options.config, overrides)
        options.classes = options.classes or len(class_table(config.data.classes, config.data.custom).names)
    except ValueError as error:
        options_parser.error(str(error))
    options.overrides = overrides
    return options, config


def described(module: str, arguments: Sequence[str] | None = None) -> str:
    """Returns the command line of a benchmark without the names of its files.

    Args:
      module: full name, such as "benchmarks.speed.step"; `__spec__.name` in the benchmark itself.
      arguments: default: those of this process.
    """
    given = sys.argv[1:] if arguments is None else arguments
    shown = [word for word in given if word.lstrip("-").partition("=")[0] not in _PLACES]
    return shlex.join(["python", "-m", module, *shown])


def write(file: Path | None, result: Mapping) -> None:
    """Writes a result as JSON, completely or not at all."""
    if file is None:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=2) + "\n")
    temporary.replace(file)
