"""The ranking by which target training images are chosen as labelled, and the lists that follow from it.

The rule: images are ranked by the SHA-256 of "{seed}:{name}", and the first `count` are labelled. So the choice
depends on names and seed alone, lists of one seed are nested (50 in 100 in 200 ...), and anyone can make a list again
with `printf '0:name' | sha256sum`.

Where images belong to sequences (`DatasetSpec.sequence_of`), these are ranked by the SHA-256 of "{seed}:{sequence}",
and the images of a sequence among themselves as above. So whole sequences are labelled, as a clinic labels patients; of
the last one, only as many images as are left of `count`.

For datasets whose images have official names, `data/datasets/lists/{dataset}/seed{seed}/{count}.txt` holds the lists,
one name a line, sorted; `{dataset}/{N}.txt` there holds all N names, from which

    python -m data.sampling.ranking

writes the others again. Images of these datasets are ranked among the official names, so that an image which is
missing on a disk never changes the choice.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from configs.user_error import UserError
from data.datasets.registry import SPECS
from data.datasets.spec import DatasetSpec

FOLDER = Path(__file__).parents[1] / "datasets" / "lists"
SEEDS = (0, 1, 2)


def official_names(spec: DatasetSpec) -> list[str] | None:
    """Returns the official names of all target training images of a dataset, sorted; None if it has no lists."""
    return read_names(FOLDER / spec.name / f"{spec.listed_counts[-1]}.txt") if spec.listed_counts else None


def read_names(file: Path) -> list[str]:
    """Returns the names in a text file: one a line; blank lines and lines that begin with # are skipped.

    Raises:
      OSError, UnicodeDecodeError: the file cannot be read as text.
    """
    lines = (line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def rank_names(names: Sequence[str], seed: int, sequence_of: Callable[[str], str] | None = None) -> list[str]:
    """Returns the names by rank, the first to be labelled first; those of a sequence stay together."""

    def key(name: str) -> tuple[str, str]:
        return _rank(sequence_of(name), seed) if sequence_of else "", _rank(name, seed)

    return sorted(names, key=key)


def first_of(ranked: Sequence[str], count: int, spec: DatasetSpec) -> list[str]:
    """Returns the first `count` of the names by rank, or those of the first `count` sequences where these count."""
    if not spec.counts_sequences or spec.sequence_of is None:
        return list(ranked[:count])
    chosen = set(list(dict.fromkeys(map(spec.sequence_of, ranked)))[:count])
    return [name for name in ranked if spec.sequence_of(name) in chosen]


def count_of(names: Sequence[str], spec: DatasetSpec) -> int:
    """Returns how many labelled images the names are, or how many sequences where these count."""
    return len(set(map(spec.sequence_of, names))) if spec.counts_sequences and spec.sequence_of else len(names)


def write_lists(spec: DatasetSpec, folder: Path = FOLDER) -> None:
    """Writes the lists of all counts and seeds of a dataset below `folder`."""
    *counts, _ = spec.listed_counts
    names = official_names(spec) or []
    for seed in SEEDS:
        for count in counts:
            file = folder / spec.name / f"seed{seed}" / f"{count}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            rule = f"# {spec.name}, seed {seed}: the {count} of {len(names)} names that come first by SHA-256 of "
            hashed = f'"{seed}:{{sequence}}", then of "{seed}:{{name}}".' if spec.sequence_of else f'"{seed}:{{name}}".'
            chosen = sorted(rank_names(names, seed, spec.sequence_of)[:count])
            file.write_text("\n".join([rule + hashed, *chosen]) + "\n")


def check_count(count: int, available: int) -> None:
    """Raises UserError unless `count` labelled images can be chosen among `available` ones."""
    if count == -1 and available > 0:
        return
    if not 1 <= count <= available:
        raise UserError(
            f"data.labelled_count is {count}, but the target training split has {available} images: "
            f"expected 1 to {available}, or -1 for all."
        )


def _rank(name: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()


if __name__ == "__main__":
    for _spec in SPECS.values():
        if _spec.listed_counts:
            write_lists(_spec)
