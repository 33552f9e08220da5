"""Which target training images are labelled.

The rule: the images are ranked by the SHA-256 of "{seed}:{name}" and the first `count` are labelled. So
the choice depends on nothing but names and seed, lists of one seed are nested (50 in 100 in 200 ...),
and anyone can make a list again with `printf '0:name' | sha256sum`.

The unlabelled stream is the whole target training split, the labelled images among them: that is our
choice, as the paper does not say; their labels are not read there.
"""

import hashlib
from collections.abc import Sequence

import numpy as np


def labelled_indices(names: Sequence[str], count: int, seed: int) -> np.ndarray:
    """Chooses the labelled target images.

    Args:
      names: name of every target training image, N in all.
      count: how many images are labelled; -1: all.
      seed: another seed gives another, independent choice.

    Returns:
      Indices into `names`, ascending, int64 [count].

    Raises:
      ValueError: `count` is neither -1 nor in 1..N, or two images have the same name.
    """
    check_count(count, len(names))
    if len(set(names)) != len(names):
        repeated = next(name for index, name in enumerate(names) if name in names[:index])
        raise ValueError(f"Names of target training images must differ, but {repeated!r} occurs twice.")
    ranked = sorted(range(len(names)), key=lambda index: _rank(names[index], seed))
    return np.sort(np.asarray(ranked[: len(names) if count == -1 else count], np.int64))


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
