"""Checks the files of one part of a run, such as "source_train"."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from data.checking import report, survey
from data.classes import ClassTable
from data.preparation import locate, prepare, split_index
from data.raw.faults import Fault, printable
from data.raw.pairs import Pair


@dataclasses.dataclass
class Part:
    """What is known of a part of a run.

    Attributes:
      title: data set, split and folder.
      names: of its usable images.
      has_label: of each of them.
      reasons: name -> why an image that is there cannot be used.
      lines: what was found, for people.
      problems: why training would fail, each with what to do.
      faults: of files; the preparation leaves these out.
      where: its files and how it is prepared; None for generated images.
      needed: bytes that preparing it takes.
      sizes: name -> (height, width) of usable images that were looked into.
    """

    title: str
    names: list[str]
    has_label: list[bool]
    reasons: dict[str, str] = dataclasses.field(default_factory=dict)
    lines: list[str] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)
    faults: list[Fault] = dataclasses.field(default_factory=list)
    where: locate.Located | None = None
    needed: int = 0
    sizes: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)


def generated(config: ConfigDict, part: str) -> Part:
    """Returns a part of the generated data set."""
    count = config.data.toy[f"{part.removesuffix('_train')}_count" if "train" in part else "validation_count"]
    found = Part(f"toy {part}", [f"{part}_{number:06}" for number in range(count)], [True] * count)
    found.lines.append(f"nothing to check on disk: {count} images are generated")
    if not count:
        found.problems.append(f"toy {part}: data.toy asks for no image of it; expected 1 or more.")
    return found


def prepared_earlier(config: ConfigDict, where: locate.Located, split: str) -> Part:
    """Returns a part whose records are there; its files, if they still are, are not looked into."""
    folder, title = locate.folder_of(config.data, where), f"{where.layout.name} {split}"
    if broken := _broken(folder, split):
        return Part(title, [], [], problems=[broken], where=where)
    content = split_index.read(split_index.file_of(folder, split))
    found = Part(title, content.names, content.labelled.tolist(), where=where)
    found.lines.append(f"prepared earlier: {len(content.names)} images in {printable(str(folder))}")
    return found


def examine(config: ConfigDict, part: str, where: locate.Located, class_table: ClassTable, limit: int | None) -> Part:
    """Looks into the files of a part.

    Args:
      config: the whole configuration.
      part: such as "source_train".
      where: its files.
      class_table: of the run.
      limit: so many evenly spread pairs are read; None: all.

    Raises:
      ValueError: a process that reads files died.
    """
    layout, pairs = where.layout, where.found.pairs
    domain, split = part.partition("_")[0], locate.SPLITS[where.layout.name][part]
    root = config.data[f"{domain}_root"]
    chosen = pairs if limit is None else survey.evenly_spread(pairs, limit)
    table = class_of_raw_ids(where, class_table)
    wanted_ids = frozenset(raw_id for raw_id, name in enumerate(table) if name is not None)
    result = survey.survey(chosen, layout.labels, wanted_ids, f"{layout.name} {split}")
    usable = [pair for pair in pairs if pair.name not in result.bad]
    found = Part(
        f"{layout.name} {split} in {printable(root)}",
        [pair.name for pair in usable],
        [pair.label is not None for pair in usable],
        where=where,
        faults=[*where.found.faults, *result.faults],
        sizes=result.size_of,
    )
    found.reasons = _reasons(where, result)
    found.lines += _counts(pairs, layout.splits[split], split in layout.unlabelled, len(chosen))
    found.lines += report.lines(result, layout, table)
    found.problems += [f"{found.title}: {text}" for text in _problems(config, part, found.faults, usable, result)]
    folder = locate.folder_of(config.data, where)
    if not folder.exists():
        found.needed = prepare.needed_bytes(usable, where.form)
    elif broken := _broken(folder, split):
        found.problems.append(broken)
    return found


def _broken(folder: Path, split: str) -> str:
    """Returns what is wrong with a prepared folder; empty if nothing shows."""
    whole = all(file.exists() for file in (folder / "dataset_info.json", split_index.file_of(folder, split)))
    return "" if whole else f"{printable(str(folder))} is not a whole data set; remove it to have it prepared again."


def class_of_raw_ids(where: locate.Located, class_table: ClassTable) -> list[str | None]:
    """Returns the class of every raw id that a label can hold; None where it is ignored."""
    rules = where.layout.labels
    names = (rules.raw_ids.get(raw_id) for raw_id in range(rules.values))
    return [name if name in class_table.names else None for name in names]


def _counts(pairs: list[Pair], complete: int, partly_labelled: bool, looked_at: int) -> Iterator[str]:
    labels = sum(pair.label is not None for pair in pairs)
    found = f"images: {len(pairs)}, of which {labels} have a label" if partly_labelled else f"pairs: {len(pairs)}"
    missing = f": {complete - len(pairs)} are not there" if len(pairs) < complete else ""
    yield found + (f" of {complete} in the complete data set{missing}" if complete else "")
    if looked_at < len(pairs):
        yield f"looked into {looked_at} of them, evenly spread"


def _reasons(where: locate.Located, result: survey.Survey) -> dict[str, str]:
    """Returns name -> fault of the images that cannot be used."""
    of_file = {fault.file: fault for fault in [*result.faults, *where.found.faults]}
    reasons = {}
    for pair in where.found.pairs:
        if pair.name in result.bad:
            reasons[pair.name] = str(of_file.get(pair.image) or of_file[pair.label])
    for fault in where.found.faults:  # They have no pair; only the names of Cityscapes can be told from the files.
        for ending in ("_leftImg8bit", "_gtFine_labelIds"):
            if fault.file.stem.endswith(ending):
                reasons[f"{fault.file.parent.name}/{fault.file.stem.removesuffix(ending)}"] = str(fault)
    return reasons


def _problems(
    config: ConfigDict, part: str, faults: list[Fault], usable: list[Pair], result: survey.Survey
) -> Iterator[str]:
    limit = config.data.rejected_limit
    if len(faults) > limit:
        yield (
            f"{len(faults)} files cannot be used, more than the {limit} that may be left out. Repair them, or raise "
            "--config.data.rejected_limit."
        )
    if not usable or result.looked_at == len(result.bad):
        yield f"none of the {result.looked_at} pairs that were looked into can be used. Repair the files named above."
    if part == "target_validation":
        try:
            split_index.check_label_sizes(np.array(list(result.sizes)).reshape(-1, 2), config.evaluation.batch)
        except ValueError as error:
            yield f"{error} Set --config.evaluation.batch=1."
