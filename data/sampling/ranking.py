"""The ranking by which target training images are labelled, and the lists that it gives.

The rule: the images are ranked by the SHA-256 of "{seed}:{name}" and the first `count` are labelled. So
the choice depends on nothing but names and seed, lists of one seed are nested (50 in 100 in 200 ...),
and anyone can make a list again with `printf '0:name' | sha256sum`.

`data/datasets/lists/{data set}/seed{seed}/{count}.txt` holds the lists of data sets whose images have
official names, one name a line, sorted; `{data set}/{N}.txt` there holds all N names, from which

    python -m data.sampling.ranking

writes the others again. Images of these data sets are ranked among the official names, so that an image
which is missing on a disk never changes the choice.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "datasets" / "lists"
OFFICIAL = {"cityscapes": 2975}  # Target data set -> number of its training images.
COUNTS = (50, 100, 200, 500, 1000)
SEEDS = (0, 1, 2)


def official_names(data_set: str) -> list[str] | None:
    """Returns all official names of a target data set's training images, sorted; None where it has no lists.

    Args:
      data_set: as in `config.data.target`.
    """
    return read_names(FOLDER / data_set / f"{OFFICIAL[data_set]}.txt") if data_set in OFFICIAL else None


def read_names(file: Path) -> list[str]:
    """Returns the names in a text file: one a line; blank lines and lines that begin with # are skipped.

    Raises:
      OSError, UnicodeDecodeError: the file cannot be read as text.
    """
    lines = (line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def ranked(names: Sequence[str], seed: int) -> list[str]:
    """Returns the names by rank: those that are labelled first come first."""
    return sorted(names, key=lambda name: _rank(name, seed))


def write_lists(data_set: str, folder: Path = FOLDER) -> None:
    """Writes the list of every count and seed of a data set below `folder`."""
    names = official_names(data_set)
    for seed in SEEDS:
        for count in COUNTS:
            file = folder / data_set / f"seed{seed}" / f"{count}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            rule = f"# {data_set}, seed {seed}: the {count} of {len(names)} names that come first by SHA-256 of "
            file.write_text("\n".join([f'{rule}"{seed}:{{name}}".', *sorted(ranked(names, seed)[:count])]) + "\n")


def check_count(count: int, available: int) -> None:
    """Raises ValueError unless `count` labelled images can be chosen among `available` ones."""
    if count == -1 and available > 0:
        return
    if not 1 <= count <= available:
        raise ValueError(
            f"data.labelled_count is {count}, but the target training split has {available} images: "
            f"expected 1 to {available}, or -1 for all."
        )


def _rank(name: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()


if __name__ == "__main__":
    for _data_set in OFFICIAL:
        write_lists(_data_set)
