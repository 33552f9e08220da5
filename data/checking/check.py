"""`--mode=check`: tells before any training whether the data on disk will do, and how to mend it.

It reads files as their preparation does, on all cores, and imports neither TensorFlow nor JAX.
"""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from data import streams
from data.checking import part as check_part
from data.checking import report
from data.checking.part import Part
from data.classes import ClassTable, class_table
from data.preparation import locate, prepare, split_index
from data.raw import layout
from data.raw.faults import printable
from data.sampling import labelled_subset
from data.toy import settings as toy_settings

REPORT = "check.txt"
# Pairs of each split that are read before a preparation: mistakes that all files share show in few of them.
BEFORE_TRAINING = 16
_SHOWN = 20


def settings(config: ConfigDict) -> ClassTable:
    """Checks the settings of the data, without looking at a disk but for the list of labelled images.

    Args:
      config: the whole configuration.

    Returns:
      The table of its classes.

    Raises:
      ValueError: a setting cannot be used.
    """
    table = class_table(config.data.classes, config.data.custom)
    for part in streams.parts(config):
        domain = part.partition("_")[0]
        name = config.data[domain]
        locate.expect_known(name, part)
        if name == "toy":
            toy_settings.check(config.data.toy)
        elif not set(locate.raw_ids(name, config.data, domain).values()) & set(table.names):
            raise ValueError(
                f"data.classes is {config.data.classes!r}, but no label of {name} holds any of its classes "
                f"({', '.join(table.names)}); expected a table that fits data.{domain}."
            )
    return table


def check(config: ConfigDict, limit: int | None = None, workdir: Path | None = None) -> bool:
    """Checks the data of a run and prints what was found.

    Args:
      config: the whole configuration.
      limit: so many evenly spread pairs of each split are read; None: all.
      workdir: folder for the whole report, in which every file is named.

    Returns:
      Whether training would work with this data.

    Raises:
      ValueError: a setting cannot be used.
    """
    table = settings(config)
    where, problems = _locate(config)
    if problems:
        _tell([*problems, "", "Training would not work, see above."], workdir)
        return False
    parts = {part: _examine(config, part, where, table, limit) for part in streams.parts(config)}
    of_list, problems = _labelled(config, parts)
    of_disk, full = _disk(config, parts)
    problems = [problem for part in parts.values() for problem in part.problems] + problems + full
    short, whole = (
        [*_part_lines(config, parts, all_of_them=each), *of_list, *of_disk, "", *_verdict(parts, problems, limit)]
        for each in (False, True)
    )
    _tell(short, workdir, whole)
    return not problems


def before_training(config: ConfigDict) -> None:
    """Does the cheap part of the check for the data sets that are not prepared yet.

    Args:
      config: the whole configuration.

    Raises:
      ValueError: training would fail; it says why and what to do.
    """
    table = settings(config)
    where, problems = _locate(config)
    if problems:
        raise ValueError("\n".join(problems))
    if all(locate.folder_of(config.data, each).exists() for each in where.values()):
        return
    parts = {}
    for part in streams.parts(config):
        each = where.get(part)
        if each and locate.folder_of(config.data, each).exists():
            parts[part] = check_part.prepared_earlier(config, each, _split(config, part))
        else:
            parts[part] = _examine(config, part, where, table, BEFORE_TRAINING)
    problems = [problem for part in parts.values() for problem in part.problems]
    problems += _labelled(config, parts)[1] + _disk(config, parts)[1]
    if problems:
        faults = [line for part in parts.values() for line in _fault_lines(part, all_of_them=False)]
        raise ValueError("\n".join([*faults, *_numbered(problems), "--mode=check looks into all files."]))


def _split(config: ConfigDict, part: str) -> str:
    return locate.SPLITS[config.data[part.partition("_")[0]]][part]


def _locate(config: ConfigDict) -> tuple[dict[str, locate.Located], list[str]]:
    """Returns where every real part is, and in lines what is missing."""
    found: dict[str, locate.Located] = {}
    missing: dict[tuple[str, str], list[prepare.MissingData]] = {}
    problems = []
    for part in streams.parts(config):
        name = config.data[part.partition("_")[0]]
        if name == "toy":
            continue
        try:
            found[part] = locate.locate(locate.wanted(name, config.data, part))
        except prepare.MissingData as error:
            missing.setdefault((error.layout.name, error.layout.domain), []).append(error)
        except ValueError as error:
            problems.append(str(error))
    for errors in missing.values():
        problems += ["", *layout.explanation(errors[0].layout, errors[0].root).splitlines()]
        faults = dict.fromkeys(fault for error in errors for fault in error.faults)
        if faults:
            problems += ["", "What was found instead:", *(f"  {fault}" for fault in list(faults)[:_SHOWN])]
    return found, problems


def _examine(
    config: ConfigDict, part: str, where: dict[str, locate.Located], table: ClassTable, limit: int | None
) -> Part:
    if part not in where:
        return check_part.generated(config, part)
    if where[part].found is None:
        return check_part.prepared_earlier(config, where[part], _split(config, part))
    return check_part.examine(config, part, where[part], table, limit)


def _labelled(config: ConfigDict, parts: dict[str, Part]) -> tuple[list[str], list[str]]:
    """Returns lines on the labelled target images, and problems with them."""
    if not streams.reads_target_labels(config):
        return ["", "labelled target images: none are needed"], []
    part = parts["target_train"]
    has_label = dict(zip(part.names, part.has_label, strict=True))
    lines, problems = [""], []
    try:
        chosen, description = labelled_subset.wanted(config.data, [name for name, holds in has_label.items() if holds])
        lacking = [name for name in sorted(chosen) if not has_label.get(name)]
        lines.append(f"labelled target images: {printable(description)}; {len(chosen) - len(lacking)} are there")
        for name in lacking[:_SHOWN]:
            why = "it has no label" if name in has_label else part.reasons.get(name, "no such image on disk")
            lines.append(f"  not there: {printable(name)}: {why}")
        if len(lacking) > _SHOWN:
            lines.append(f"  ... {len(lacking) - _SHOWN} more")
        choice = labelled_subset.choose(config.data, part.names, np.array(part.has_label, bool))
        if config.data.full_size and config.data.held_out:
            sizes = [part.sizes[name] for name in np.array(part.names)[choice.held_out] if name in part.sizes]
            split_index.check_label_sizes(np.array(sizes).reshape(-1, 2), config.evaluation.batch)
    except ValueError as error:
        problems.append(printable(str(error)))
    return lines, problems


def _disk(config: ConfigDict, parts: dict[str, Part]) -> tuple[list[str], list[str]]:
    """Returns lines on the disk that preparing the parts takes, and problems with it."""
    directory = locate.directory_of(config.data.directory)
    needed = 0
    for part in parts.values():
        if part.where and part.needed:
            folder = locate.folder_of(config.data, part.where)
            begun = folder.with_name(f"{prepare.INCOMPLETE}{folder.name}")
            done = sum(file.stat().st_size for file in begun.glob("*") if file.is_file())
            needed += max(0, part.needed - done)
    if not needed:
        return ["", "preparation: nothing is left to prepare"], []
    there = next(folder for folder in (directory, *directory.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    sizes = f"{prepare.gigabytes(needed)}, {prepare.gigabytes(free)} are free"
    lines = ["", f"preparation: takes about {sizes} in {printable(str(directory))}"]
    name_another = "Name another folder: --config.data.directory=FOLDER."
    problems = []
    if needed > free:
        problems.append(f"The prepared data takes about {sizes} in {printable(str(directory))}. {name_another}")
    if not there.is_dir() or not os.access(there, os.W_OK):
        problems.append(f"{printable(str(there))} is no folder that can be written to. {name_another}")
    return lines, problems


def _part_lines(config: ConfigDict, parts: dict[str, Part], *, all_of_them: bool) -> Iterator[str]:
    for name, part in parts.items():
        yield from ("", f"{name}: {part.title}", *(f"  {line}" for line in part.lines))
        if part.faults:
            yield (
                f"  files that cannot be used: {len(part.faults)}. They are left out; more than "
                f"{config.data.rejected_limit} (data.rejected_limit) stop the preparation."
            )
        yield from (f"  {line}" for line in _fault_lines(part, all_of_them=all_of_them))


def _fault_lines(part: Part, *, all_of_them: bool) -> Iterator[str]:
    if part.where:
        yield from report.fault_lines(part.faults, part.where.layout, all_of_them=all_of_them)


def _verdict(parts: dict[str, Part], problems: Sequence[str], limit: int | None) -> Iterator[str]:
    if problems:
        yield f"Training would not work, for {len(problems)} reason{'s' * (len(problems) > 1)}:"
        yield from _numbered(problems)
        return
    faults = sum(len(part.faults) for part in parts.values())
    left_out = f" {faults} files would be left out, see above." if faults else ""
    looked = "" if limit is None else f" No more than {limit} pairs of each split were looked into."
    yield f"Training would work with this data.{left_out}{looked}"


def _numbered(problems: Sequence[str]) -> list[str]:
    return [f"{number}. {problem}" for number, problem in enumerate(problems, start=1)]


def _tell(lines: Sequence[str], workdir: Path | None, whole: Sequence[str] | None = None) -> None:
    """Prints lines, and writes the whole report where there is a folder for it."""
    print("\n".join(lines).strip("\n"), flush=True)
    if workdir is not None:
        workdir.mkdir(parents=True, exist_ok=True)
        file = workdir / REPORT
        file.write_text("\n".join(whole or lines).strip("\n") + "\n", encoding="utf-8")
        print(f"Every file by name: {file}", file=sys.stderr)
