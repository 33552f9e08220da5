"""Parses the command line: runs the configuration file and checks each `--config.KEY=VALUE` against its keys.

Imports neither JAX nor TensorFlow, so that help and mistakes are answered at once.
"""

import difflib
import importlib.util
import os
import re
import shlex
import sys
import traceback
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from configs._validate import OF_WEIGHTS, flatten
from configs._variants import VARIANTS, valid_words
from configs.base import default_config
from configs.user_error import UserError

HELP = ("--help", "-help", "-h", "--helpshort", "-?")
_CONFIG_HELP = "Configuration file; words after a colon choose its variant."
# Flags of the main module, in the order of the help text.
_FLAGS = ("config", "workdir", "mode", "input", "output", "weights", "confidence", "check_files")


def parse(arguments: list[str]) -> list[str]:
    """Parses the flags of the main module, of which `config` and `workdir` are required.

    Afterwards `flags.FLAGS.config` is the configuration, locked. Help, and any mistake, end the process: help with 0, a
    mistake with one message and code 2.

    Args:
      arguments: the command line, the program first.

    Returns:
      The program alone; arguments that are no flags are mistakes.
    """
    help_only = any(argument in HELP for argument in arguments)
    arguments = [argument for argument in arguments if argument not in HELP]
    try:
        config, own, others = _load_config(flags.FLAGS.read_flags_from_files(arguments, force_gnu=False))
        defaults = dict(flatten(config, "config.")) if config else {}
        if config:
            config_flags.DEFINE_config_dict("config", config, _CONFIG_HELP, lock_config=True, sys_argv=others)
        rest = _parse_flags(others, defaults)
        if config:
            _check_pixels(flags.FLAGS.config.init, others)
            _keep_named(flags.FLAGS.config, others)
        if help_only:
            print(_help(dict(flatten(flags.FLAGS.config, "config.")) if config else {}, own))
            sys.exit(0)
        _check_complete(rest, config is not None)
    except flags.Error as error:
        print(f"{error}\n`python {arguments[0]} --help` shows what is valid.", file=sys.stderr)
        sys.exit(UserError.exit_code)
    return rest


def _load_config(arguments: list[str]) -> tuple[ConfigDict | None, list[str], list[str]]:
    """Runs the configuration file, once.

    Returns:
      The configuration, None where no file is named; the words of the file itself; the arguments without the file.

    Raises:
      flags.Error: the file is missing, a word after its colon is unknown, or a key does not exist.
    """
    alone = flags.FlagValues()
    flags.DEFINE_string("config", None, "", flag_values=alone)
    alone.set_gnu_getopt(True)
    others = alone(arguments, known_only=True)
    overrides = [match[1] for other in others if (match := re.match(r"--?(?:no)?(config\.[^=]*)", other))]
    if alone.config is None:
        if overrides:
            raise flags.Error(f"--{overrides[0]} needs --config=FILE.")
        return None, [], others
    file, *words = alone.config.split(":", 1)
    if not Path(file).is_file():
        raise flags.Error(f"There is no configuration file {file!r}. Found: {', '.join(_config_files())}.")
    config, own = _run_config_file(file, words)
    valid = dict(flatten(default_config(), "config."))
    _check_file(file, dict(flatten(config, "config.")), valid)
    for name in overrides:
        _check_key(name, valid, "There is no --", f"--{name}")
        if name == "config.variant":
            raise flags.Error(
                f"The variant is no key but a word after the file's colon, as in --config={file}:joint.\n"
                f"Valid: {', '.join(VARIANTS)}."
            )
    return config, own, others


def _run_config_file(file: str, words: list[str]) -> tuple[ConfigDict, list[str]]:
    """Runs a configuration file and returns its configuration and its own words, the keys of `WORDS`.

    Raises:
      flags.Error: a word is unknown, or the file is at fault; then the message names it, and the line.
    """
    specification = importlib.util.spec_from_file_location("config_file", file)
    if specification is None or specification.loader is None:
        raise flags.Error(f"{file} is no configuration file; expected a Python file such as configs/toy.py.")
    module = importlib.util.module_from_spec(specification)
    try:
        specification.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise flags.Error(f"{file} defines no function get_config(words); configs/toy.py is an example.")
        config = module.get_config(*words)
    except flags.Error:
        raise
    except Exception as error:  # A user's own lines may raise anything.
        raise flags.Error(_fault_of(file, error)) from error
    if not isinstance(config, ConfigDict):
        raise flags.Error(f"{file}: expected a ConfigDict from get_config, found {type(config).__name__}.")
    return config, list(getattr(module, "WORDS", ()))


def _fault_of(file: str, error: Exception) -> str:
    """Describes an error of a configuration file, with the file and the line."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {error.msg}."
    if isinstance(error, UserError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if os.path.abspath(frame.filename) == os.path.abspath(file)]
    first = (str(error).strip() or "no message").splitlines()[0]
    return f"{file}{f', line {lines[-1]}' if lines else ''}: {type(error).__name__}: {first}"


def _check_file(file: str, values: dict[str, Any], valid: dict[str, Any]) -> None:
    """Raises an error unless a configuration file sets all keys of `configs/base.py` and no others."""
    for name in values:
        _check_key(name, valid, f"{file} sets a key that configs/base.py does not define: ", f"{file}: {name}")
    missing = [name for name in valid if name not in values]
    if missing:
        raise flags.Error(f"{file} lacks {missing[0]}; begin with base.default_config(), as configs/toy.py does.")
    for name, default in valid.items():
        if not isinstance(values[name], int | float if isinstance(default, float) else type(default)):
            found = f"{values[name]!r} of type {type(values[name]).__name__}"
            raise flags.Error(f"{file} sets {name} to {found}; expected {type(default).__name__}, such as {default!r}.")
        if isinstance(default, tuple):
            _check_tuple(f"{file} sets {name} to ", default, values[name])


def _config_files() -> list[str]:
    """Returns the paths of this folder's configuration files."""
    files = sorted(file for file in Path(__file__).parent.glob("*.py") if file.name != "base.py")  # No experiment.
    return [os.path.relpath(file) for file in files if re.search(r"(?m)^def get_config", file.read_text())]


def _check_key(name: str, valid: dict[str, Any], problem: str, place: str) -> None:
    """Raises an error that lists the valid keys beside `name` if it is not among them.

    Args:
      name: the key.
      valid: all keys.
      problem: begins the message where the key is unknown.
      place: begins the message where `name` is a group of keys.
    """
    if name in valid:
        return
    group = name
    while not (below := [key.removeprefix(f"{group}.") for key in valid if key.startswith(f"{group}.")]):
        group = group.rpartition(".")[0]
    heads = dict.fromkeys(re.sub(r"\..*", ".*", key) for key in below)
    close = difflib.get_close_matches(name, valid, 1)
    if group == name:
        message = f"{place} is a group of keys."
    else:
        message = f"{problem}{name}." + (f" Did you mean --{close[0]}?" if close else "")
    raise flags.Error(f"{message}\nKeys of {group}: {', '.join(heads)}.")


def _parse_flags(arguments: list[str], defaults: dict[str, Any]) -> list[str]:
    """Parses all flags; returns the program and the arguments that are no flags.

    Raises:
      flags.Error: a flag is unknown or its value is of the wrong type.
    """
    try:
        rest = flags.FLAGS(arguments)
    except flags.UnrecognizedFlagError as error:
        raise flags.Error(
            f"{error}\nValid: --config, --config.KEY, {', '.join(f'--{name}' for name in _FLAGS[1:])}."
        ) from error
    except flags.IllegalFlagValueError as error:
        name = re.match(r"flag --([\w.]+)", str(error))
        default = defaults.get(name[1]) if name else None
        hint = "" if default is None else f"\nExpected: {type(default).__name__}, such as {default!r}."
        raise flags.Error(f"{error}{hint}") from error
    for name, default in defaults.items():
        if isinstance(default, tuple):
            _check_tuple(f"flag --{name}=", default, flags.FLAGS.config[name.removeprefix("config.")])
    return rest


def _check_pixels(init: str, arguments: list[str]) -> None:
    """Raises an error if pixels are set beside weights of a package, which bring their own."""
    found = [match[1] for other in arguments if (match := re.match(r"--?(config\.model\.pixel_\w+)", other))]
    if init and found and not Path(init).suffix:  # Files have an ending.
        raise flags.Error(f"--{found[0]} belongs to the weights of --config.init={init}, which set it: leave it out.")


def _keep_named(config: ConfigDict, arguments: list[str]) -> None:
    """Adds the settings of weights that the command line sets to `config.init_keeps`: weights must not change them."""
    named = {match[1] for other in arguments if (match := re.match(r"--?config\.model\.(\w+)", other))}
    config.init_keeps = (*config.init_keeps, *(key for key in OF_WEIGHTS if key in named - {*config.init_keeps}))


def _check_tuple(place: str, default: tuple, value: tuple) -> None:
    """Raises an error, which begins with `place`, if a tuple is not of the default's form.

    There must be as many numbers as in the default, whole where its numbers are; a default of one number stands for one
    or more. Names, or tuples as long as those of the default, may be any number. An empty default allows all.
    """
    if not default:
        return
    if isinstance(default[0], str | tuple):
        expected = f"any number of entries such as {default[0]!r}"
        fits = all(_has_form(entry, default[0]) for entry in value)
    else:
        length, count = (max(1, len(value)), "one or more") if len(default) == 1 else (len(default), len(default))
        expected = f"{count} numbers, such as {default}"
        accepted = (int, float) if isinstance(default[0], float) else int
        fits = len(value) == length and all(isinstance(entry, accepted) for entry in value)
    if not fits:
        raise flags.Error(f"{place}{value}: expected {expected}.")


def _has_form(value: Any, example: Any) -> bool:
    """Returns whether a value has the type of an example and, as a tuple, its length and the types of its entries."""
    if type(value) is not type(example):
        return False
    if not isinstance(example, tuple):
        return True
    return len(value) == len(example) and all(map(_has_form, value, example))


def _check_complete(rest: list[str], has_config: bool) -> None:
    """Raises an error if an argument is no flag or a required flag is missing."""
    if len(rest) > 1:
        raise flags.Error(f"Unexpected argument {rest[1]!r}: a flag is written --NAME=VALUE.")
    if not has_config:
        raise flags.Error("--config is missing. Example: --config=configs/toy.py.")
    found = {name: flags.FLAGS[name].value for name in _FLAGS}
    required = {}
    # Predictions of a weight file into a folder of their own need no run.
    if found["mode"] != "check" and not (found["mode"] == "predict" and found["weights"] and found["output"]):
        required["workdir"] = "runs/toy"
    if found["mode"] == "predict":
        required["input"] = "photos"
    for name, example in required.items():
        if found[name] is None:
            raise flags.Error(f"--{name} is missing. Example: --{name}={example}.")


def _help(values: dict[str, Any], own: list[str]) -> str:
    """Returns the help text, with the words and the configuration's keys and values where a file was named."""
    lines = [sys.modules["__main__"].__doc__, "Flags:"]
    lines += [f"  --{name:12}{_CONFIG_HELP if name == 'config' else flags.FLAGS[name].help}" for name in _FLAGS]
    lines += ["  --config.KEY  One key of the configuration, changed."]
    if values:
        lines += ["", f"Words after the file's colon: {valid_words(values['config.data.target'], own)}."]
        lines += ["", "Keys and values of this configuration:"]
        lines += [f"  --{name}={shlex.quote(str(value))}" for name, value in values.items()]
    return "\n".join(lines)
