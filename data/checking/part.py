"""Checks the files of one part of a run, such as "source_train"."""

import collections
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from configs.user_error import UserError
from data.checking import report, survey
from data.classes import ClassTable
from data.datasets.spec import DatasetSpec, domain_of
from data.preparation import prepare, split_index
from data.preparation.location import SplitLocation
from data.raw import train_ids
from data.raw.faults import Fault, printable
from data.raw.label_rules import LabelRules
from data.raw.pairs import Pair


@dataclasses.dataclass
class Part:
    """Findings about a part of a run.

    Attributes:
      title: dataset, split and folder.
      names: of its usable images.
      has_label: whether each of them has a label.
      reasons: name -> why an image on disk cannot be used.
      lines: the findings in words.
      problems: why training would fail, each with what to do.
      faults: of files that the preparation leaves out.
      location: of its files and records; None for generated images.
      needed: bytes that preparing it takes.
      sizes: name -> (height, width) of the usable images that were read.
      digests: name -> hash of the pixels of the same images.
    """

    title: str
    names: list[str]
    has_label: list[bool]
    reasons: dict[str, str] = dataclasses.field(default_factory=dict)
    lines: list[str] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)
    faults: list[Fault] = dataclasses.field(default_factory=list)
    location: SplitLocation | None = None
    needed: int = 0
    sizes: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    digests: dict[str, bytes] = dataclasses.field(default_factory=dict)


def describe_generated(spec: DatasetSpec, part: str) -> Part:
    """Returns the findings about a part whose images are generated."""
    count = spec.splits[part].count
    found = Part(f"{spec.name} {part}", [f"{part}_{number:06}" for number in range(count)], [True] * count)
    found.lines.append(f"nothing to check on disk: {count} images are generated")
    if not count:
        found.problems.append(f"{spec.name} {part} has 0 images; expected 1 or more. See data.{spec.name}.")
    return found


def describe_records(location: SplitLocation) -> Part:
    """Returns the findings about a part whose records exist; its files are not read."""
    if problem := _incomplete(location):
        return Part(location.title, [], [], problems=[problem], location=location)
    content = split_index.read_index(split_index.file_of(location.folder, location.split.name))
    found = Part(location.title, content.names, content.labelled.tolist(), location=location)
    found.lines.append(f"prepared earlier: {len(content.names)} images in {printable(str(location.folder))}")
    return found


def examine_files(config: ConfigDict, location: SplitLocation, class_table: ClassTable, limit: int | None) -> Part:
    """Reads the files of a part.

    Args:
      config: the whole configuration.
      location: of its files.
      class_table: of the run.
      limit: number of evenly spread pairs to read; None: all.

    Raises:
      UserError: a process that reads files died.
    """
    spec, pairs, title = location.spec, location.user_files.pairs, location.title
    root = config.data[f"{domain_of(location.part)}_root"]
    chosen = pairs if limit is None else survey.spread_evenly(pairs, limit)
    table = class_of_raw_ids(spec, class_table)
    class_ids = frozenset(raw_id for raw_id, name in enumerate(table) if name is not None)
    result = survey.survey_pairs(chosen, spec.labels, class_ids, title)
    usable = [pair for pair in pairs if pair.name not in result.bad]
    found = Part(
        f"{title} in {printable(root)}",
        [pair.name for pair in usable],
        [pair.label is not None for pair in usable],
        location=location,
        faults=[*location.user_files.faults, *result.faults],
        sizes=result.size_of,
        digests=result.digests,
    )
    found.reasons = _reasons(location, result)
    found.lines += _counts(location, len(chosen))
    found.lines += report.lines(result, spec, domain_of(location.part), table)
    found.problems += [
        f"{found.title}: {text}" for text in _problems(config, location.part, found.faults, usable, result, spec.labels)
    ]
    if not location.folder.exists():
        found.needed = prepare.needed_bytes(usable, location.form)
    elif problem := _incomplete(location):
        found.problems.append(problem)
    return found


def _incomplete(location: SplitLocation) -> str:
    """Returns what is wrong with the folder of the records; empty if nothing shows."""
    folder = location.folder
    files = (folder / "dataset_info.json", split_index.file_of(folder, location.split.name))
    if all(file.exists() for file in files):
        return ""
    return f"{printable(str(folder))} is not a complete dataset; remove it to have it prepared again."


def class_of_raw_ids(spec: DatasetSpec, class_table: ClassTable) -> list[str | None]:
    """Returns the class of every raw id that a label can hold; None where it is ignored."""
    names = (spec.labels.raw_ids.get(raw_id) for raw_id in range(spec.labels.values))
    return [None if name is None else class_table.class_of(name) for name in names]


def _counts(location: SplitLocation, read: int) -> Iterator[str]:
    pairs, split = location.user_files.pairs, location.split
    labels = sum(pair.label is not None for pair in pairs)
    all_labelled = split.labels == "all"
    found = f"pairs: {len(pairs)}" if all_labelled else f"images: {len(pairs)}, of which {labels} have a label"
    missing = f": {split.count - len(pairs)} are not there" if len(pairs) < split.count else ""
    yield found + (f" of {split.count} in the complete dataset{missing}" if split.count else "")
    if others := location.user_files.others:
        kinds = collections.Counter(_kind_of_name(fault.file.name) for fault in others)
        yield f"other files, not used: {', '.join(f'{count} {kind}' for kind, count in kinds.most_common())}"
    if read < len(pairs):
        yield f"looked into {read} of them, evenly spread"


def _kind_of_name(name: str) -> str:
    """Returns what names of files of one kind share: "*_labelTrainIds.png", "*.txt", or the name itself."""
    match = re.search(r"_[^_\W\d]+\.\w+$|\.\w+$", name)
    return printable(name if match is None or match.start() == 0 or not re.search(r"\d", name) else f"*{match[0]}")


def _reasons(location: SplitLocation, result: survey.Survey) -> dict[str, str]:
    """Returns name -> fault of the images that cannot be used."""
    files = location.user_files
    of_file: dict[Path | None, Fault] = {fault.file: fault for fault in [*result.faults, *files.faults]}
    reasons = {}
    for pair in files.pairs:
        if pair.name in result.bad:
            files_of_pair = (pair.image, pair.label, pair.field_of_view)
            reasons[pair.name] = str(next(of_file[file] for file in files_of_pair if file in of_file))
    for fault in files.faults:  # These have no pair; only file names of Cityscapes give away the image's name.
        for ending in ("_leftImg8bit", "_gtFine_labelIds"):
            if fault.file.stem.endswith(ending):
                reasons[f"{fault.file.parent.name}/{fault.file.stem.removesuffix(ending)}"] = str(fault)
    return reasons


def _problems(
    config: ConfigDict, part: str, faults: list[Fault], usable: list[Pair], result: survey.Survey, rules: LabelRules
) -> Iterator[str]:
    limit = config.data.rejected_limit
    if len(faults) > limit:
        yield (
            f"{len(faults)} files cannot be used, more than the {limit} that may be left out. Repair them, or raise "
            "--config.data.rejected_limit."
        )
    if reason := train_ids.describe_train_ids(result.pixels, result.rows, rules):
        yield f"{reason}. {train_ids.REMEDY}"
    if not usable or result.read == len(result.bad):
        yield f"none of the {result.read} pairs that were looked into can be used. Repair the files named above."
    if part == "target_validation":
        try:
            split_index.check_label_sizes(np.array(list(result.sizes)).reshape(-1, 2), config.evaluation.batch)
        except UserError as error:
            yield str(error)
