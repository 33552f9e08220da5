"""What a report shows of a ladder, as `ladder.json` holds it."""

import dataclasses
from pathlib import Path
from typing import Any

from ass_jax.runtime.workdir import read_json

LADDER = "ladder.json"


@dataclasses.dataclass(frozen=True)
class Ladder:
    """Scores of variants over seeds.

    Attributes:
      file: that holds them.
      title: configuration file of its runs.
      subset: name of the mean IoU that is compared.
      seeds: as text.
      scores: by variant, the mean IoU of each seed, from 0 to 1; None where a run has not ended.
      differences: entries of the file: `of`, `against`, `mean`, `error`, `by_seed`, `positive`, `count`.
      spreads: by variant, `mean` and `deviation` over the seeds.
    """

    file: Path
    title: str
    subset: str
    seeds: list[str]
    scores: dict[str, list[float | None]]
    differences: list[dict]
    spreads: dict[str, dict]


def find_ladder(path: Path) -> Path | None:
    """Returns the file of a ladder, which may be `path` itself or lie in this folder; None if there is none."""
    if path.is_file():
        return path
    return path / LADDER if (path / LADDER).is_file() else None


def read_ladder(file: Path) -> Ladder:
    """Reads a ladder.

    Raises:
      UserError: the file cannot be read or holds no ladder.
    """
    content = read_json(file, {"variants": dict, "seeds": list, "subsets": list, "differences": list})
    seeds = [str(seed) for seed in content["seeds"]]
    subset = str(next(iter(content["subsets"]), ""))
    variants = {name: row for name, row in content["variants"].items() if isinstance(row, dict)}
    return Ladder(
        file=file,
        title=str(content.get("config_file", "")),
        subset=subset,
        seeds=seeds,
        scores={name: [_of(row, "by_seed").get(seed) for seed in seeds] for name, row in variants.items()},
        differences=[pair for pair in content["differences"] if isinstance(pair, dict)],
        spreads={name: _of(_of(row, "mean_iou"), subset) for name, row in variants.items()},
    )


def _of(entries: dict, key: str) -> dict[str, Any]:
    value = entries.get(key)
    return value if isinstance(value, dict) else {}
