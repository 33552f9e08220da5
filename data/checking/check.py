"""`--mode=check`: reports before any training whether the data on disk will do, and how to mend it.

It reads files as their preparation does, on all cores, and imports neither TensorFlow nor JAX.
"""

import itertools
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from configs.user_error import UserError
from data import streams
from data.checking import part as check_part
from data.checking import report
from data.checking.part import Part
from data.classes import ClassTable, class_table
from data.datasets.registry import find_spec
from data.datasets.spec import describe_layout, domain_of
from data.preparation import location, prepare, split_index
from data.preparation.location import Locations, MissingDataError
from data.raw.faults import printable
from data.sampling import labelled_subset

# Pairs of each split that are read before a preparation: faults that all files share show in a few of them.
BEFORE_TRAINING = 16
_SHOWN = 20


class UnusableDataError(UserError):
    """The data on disk will not do for training."""

    exit_code = 1


def check_data(config: ConfigDict, limit: int | None = None, report_file: Path | None = None) -> bool:
    """Checks the data of a run and prints a report.

    Args:
      config: the whole configuration.
      limit: number of evenly spread pairs of each split to read; None: all.
      report_file: for the whole report, which names every file; its folder exists. None: no such file.

    Returns:
      Whether training would work with this data.

    Raises:
      UserError: the list of labelled images cannot be used, or the report cannot be written.
    """
    labelled_subset.check_list(config.data)
    table = class_table(config.data.classes, config.data.custom)
    locations, problems = _locate(config)
    if problems:
        _print_report([*problems, "", "Training would not work, see above."], report_file)
        return False
    parts = {part: _examine(config, part, locations, table, limit) for part in streams.parts(config)}
    of_list, problems = _check_labelled(config, parts)
    of_disk, full = _check_disk(config, parts)
    problems = [problem for part in parts.values() for problem in part.problems] + problems + full
    short, whole = (
        [
            *_part_lines(config, parts, all_of_them=each),
            *_shared_lines(parts),
            *of_list,
            *of_disk,
            "",
            *_verdict(parts, problems, limit),
        ]
        for each in (False, True)
    )
    _print_report(short, report_file, whole)
    return not problems


def check_before_training(config: ConfigDict) -> Locations:
    """Does the cheap part of the check, for the datasets that are not prepared yet.

    Args:
      config: the whole configuration.

    Returns:
      Where the parts of the run are that are not generated: `data.pipeline.prepare` need not list their files again.

    Raises:
      UnusableDataError: training would fail; the message says why and what to do.
      UserError: the list of labelled images cannot be used.
    """
    labelled_subset.check_list(config.data)
    table = class_table(config.data.classes, config.data.custom)
    locations, problems = _locate(config)
    if problems:
        raise UnusableDataError("\n".join(problems).strip("\n"))
    if all(place.folder.exists() for place in locations.values()):
        return locations
    parts = {}
    for part in streams.parts(config):
        place = locations.get(part)
        if place and place.folder.exists():
            parts[part] = check_part.describe_records(place)
        else:
            parts[part] = _examine(config, part, locations, table, BEFORE_TRAINING)
    problems = [problem for part in parts.values() for problem in part.problems]
    problems += _check_labelled(config, parts)[1] + _check_disk(config, parts)[1]
    if problems:
        faults = [line for part in parts.values() for line in _fault_lines(part, all_of_them=False)]
        raise UnusableDataError("\n".join([*faults, *_enumerate(problems), "--mode=check looks into all files."]))
    return locations


def _locate(config: ConfigDict) -> tuple[Locations, list[str]]:
    """Returns the locations of all parts that are not generated, and lines about those that are missing."""
    found: dict[str, location.SplitLocation] = {}
    missing: dict[tuple[str, str], list[MissingDataError]] = {}
    problems = []
    for part in streams.parts(config):
        if find_spec(config.data, domain_of(part)).is_generated:
            continue
        try:
            found[part] = location.locate_split(config.data, part)
        except MissingDataError as error:
            missing.setdefault((error.spec.name, error.domain), []).append(error)
        except UserError as error:
            problems.append(str(error))
    for errors in missing.values():
        first = errors[0]
        if unreadable := list(dict.fromkeys(fault for error in errors for fault in error.unreadable)):
            problems += ["", f"The dataset {first.spec.name!r} cannot be read:"]
            problems += [f"  {fault}" for fault in unreadable[:_SHOWN]]
            continue
        problems += ["", *describe_layout(first.spec, first.domain, first.root).splitlines()]
        faults = dict.fromkeys(fault for error in errors for fault in error.faults)
        if faults:
            problems += ["", "What was found instead:", *(f"  {fault}" for fault in list(faults)[:_SHOWN])]
    return found, problems


def _examine(config: ConfigDict, part: str, locations: Locations, table: ClassTable, limit: int | None) -> Part:
    if part not in locations:
        return check_part.describe_generated(find_spec(config.data, domain_of(part)), part)
    if locations[part].files is None:
        return check_part.describe_records(locations[part])
    return check_part.examine_files(config, locations[part], table, limit)


def _check_labelled(config: ConfigDict, parts: dict[str, Part]) -> tuple[list[str], list[str]]:
    """Returns lines about the labelled target images, and problems with them."""
    if not streams.reads_target_labels(config):
        return ["", "labelled target images: none are needed"], []
    part = parts["target_train"]
    has_label = dict(zip(part.names, part.has_label, strict=True))
    lines, problems = [""], []
    try:
        chosen, description = labelled_subset.labelled_names(
            config.data, [name for name, holds in has_label.items() if holds]
        )
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
    except UserError as error:
        problems.append(printable(str(error)))
    return lines, problems


def _check_disk(config: ConfigDict, parts: dict[str, Part]) -> tuple[list[str], list[str]]:
    """Returns lines about the disk space that preparing the parts takes, and problems with it."""
    directory = location.prepared_folder(config.data.directory)
    needed = 0
    for part in parts.values():
        if part.location and part.needed:
            work = prepare.incomplete_folder(part.location.folder)
            done = sum(file.stat().st_size for file in work.glob("*") if file.is_file())
            needed += max(0, part.needed - done)
    if not needed:
        return ["", "preparation: nothing is left to prepare"], []
    existing = next(folder for folder in (directory, *directory.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    sizes = f"{prepare.gigabytes(needed)}, {prepare.gigabytes(free)} are free"
    lines = ["", f"preparation: takes about {sizes} in {printable(str(directory))}"]
    name_another = "Name another folder: --config.data.directory=FOLDER."
    problems = []
    if needed > free:
        problems.append(f"The prepared data takes about {sizes} in {printable(str(directory))}. {name_another}")
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        problems.append(f"{printable(str(existing))} is not a writable folder. {name_another}")
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


def _shared_lines(parts: dict[str, Part]) -> list[str]:
    """Returns lines about images that are in two parts; no problem as such, but scores may say little."""
    lines = []
    for one, other in itertools.combinations(parts, 2):
        names = {digest: name for name, digest in parts[other].digests.items()}
        shared = [(name, names[digest]) for name, digest in parts[one].digests.items() if digest in names]
        if shared:
            example = printable(f"{shared[0][0]}, there {shared[0][1]}")
            lines.append(f"  {len(shared)} of {one} are in {other}, too; the first one: {example}")
    if not lines:
        return []
    return ["", "the same images in two parts (scores of images that were trained on are too good):", *lines]


def _fault_lines(part: Part, *, all_of_them: bool) -> Iterator[str]:
    if part.location:
        yield from report.fault_lines(part.faults, part.location.spec, all_of_them=all_of_them)


def _verdict(parts: dict[str, Part], problems: Sequence[str], limit: int | None) -> Iterator[str]:
    if problems:
        yield f"Training would not work, for {len(problems)} reason{'s' * (len(problems) > 1)}:"
        yield from _enumerate(problems)
        return
    faults = sum(len(part.faults) for part in parts.values())
    left_out = f" {faults} files would be left out, see above." if faults else ""
    looked = "" if limit is None else f" No more than {limit} pairs of each split were looked into."
    yield f"Training would work with this data.{left_out}{looked}"


def _enumerate(problems: Sequence[str]) -> list[str]:
    return [f"{number}. {problem}" for number, problem in enumerate(problems, start=1)]


def _print_report(lines: Sequence[str], report_file: Path | None, whole: Sequence[str] | None = None) -> None:
    """Prints lines, and writes the whole report to a file if there is one."""
    print("\n".join(lines).strip("\n"), flush=True)
    if report_file is not None:
        try:
            report_file.write_text("\n".join(whole or lines).strip("\n") + "\n", encoding="utf-8")
        except OSError as error:  # Not the data's fault, and what is printed stands.
            text = f"The report above could not be written to {report_file} as well ({error.strerror})."
            raise UserError(text) from error
        print(f"Every file by name: {report_file}", file=sys.stderr)
