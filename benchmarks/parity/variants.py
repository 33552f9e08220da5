"""Checks whether two versions of the code train every variant with the same numbers, to the last bit.

    git switch main; python -m benchmarks.parity.variants --write=runs/main.json
    git switch my_branch; python -m benchmarks.parity.variants --against=runs/main.json

Every variant of the toy configuration is trained for 50 steps by `main.py` and evaluated; the metrics of all steps and
the scores are compared. `--init` starts all variants from a file of weights, for versions that draw different ones.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VARIANTS = [
    "source_only",
    "target_only",
    "joint",
    "adaptsegnet",
    "semantic",
    "ass",
    "teacher",
    "adaptsegnet_plus",
    "ass_plus",
    "oracle",
    "joint_all",
    "adaptsegnet_all",
    "ass_all",
]
STEPS = 50
_SPEED = "images_per_second"  # Varies from run to run.


def main() -> int:
    """Trains all variants; returns 1 if a number differs from the one in the file of `--against`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, help="JSON file to write the numbers to")
    parser.add_argument("--against", type=Path, help="JSON file to compare with")
    parser.add_argument("--init", default="", help="file of weights that all variants start from")
    parser.add_argument("--data", type=Path, help="folder of prepared data; default: a temporary one")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="comma-separated")
    options = parser.parse_args()
    if options.write:
        options.write.parent.mkdir(parents=True, exist_ok=True)
    expected = json.loads(options.against.read_text()) if options.against else {}
    found, differing = {}, 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for variant in options.variants.split(","):
            found[variant] = train(variant, folder / variant, options.data or folder / "data", options.init)
            if variant in expected:
                largest, where = difference(found[variant], expected[variant])
                differing += largest > 0
                print(f"{variant}: {f'differs by {largest:.1e} ({where})' if largest else 'equal'}", flush=True)
            else:
                print(f"{variant}: done", flush=True)
    if options.write:
        options.write.write_text(json.dumps(found, indent=1) + "\n")
    return int(differing > 0)


def train(variant: str, workdir: Path, data: Path, init: str) -> dict:
    """Trains a variant; returns `steps`, the metrics of each step, and `scores`."""
    settings = {
        "steps": STEPS,
        "log_every": 1,
        "evaluation.every": 0,
        "checkpoint.every": STEPS,
        "data.directory": data,
        "init": init,
        "verify": "never",
    }
    flags = [f"--config.{key}={value}" for key, value in settings.items()]
    command = [sys.executable, "main.py", f"--config=configs/toy.py:{variant}", f"--workdir={workdir}", *flags]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{variant} ended with code {result.returncode}:\n{result.stderr[-3000:]}")
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    steps = [{name: value for name, value in line.items() if name != _SPEED} for line in lines]
    scores = json.loads((workdir / "eval.json").read_text())
    return {"steps": steps, "scores": {name: scores[name] for name in ("mean_iou", "class_iou")}}


def difference(found: dict, expected: dict) -> tuple[float, str]:
    """Returns the largest relative difference and where it is; infinity if a name is missing."""
    found, expected = dict(_flat(found)), dict(_flat(expected))
    if found.keys() != expected.keys():
        return float("inf"), f"names {sorted(found.keys() ^ expected.keys())[:3]}"
    apart = {
        name: abs(found[name] - value) / max(abs(value), 1e-6) for name, value in expected.items() if value is not None
    }
    where = max(apart, key=apart.get)
    return apart[where], where


def _flat(value: object, name: str = "") -> list[tuple[str, float | None]]:
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return [leaf for key, entry in items for leaf in _flat(entry, f"{name}/{key}")]
    return [(name, value)]


if __name__ == "__main__":
    sys.exit(main())
