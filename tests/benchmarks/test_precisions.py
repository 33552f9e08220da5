"""Both precisions are compared, whatever is ready in time."""

import json
import time

import pytest

from benchmarks import precisions
from benchmarks.turns import PlayerError

FACTS = {"images_per_step": 3, "tflop": 0.1, "limit_tflop_per_second": 1.0}
MACHINE = {"cpu": "abacus", "cores": 2, "memory_gib": 1, "system": "wood", "python": "3", "devices": "1 cpu"}
SPEEDS = {"jax": 0.5, "plain": 2.0, "compile": 1.0}  # Seconds of a step.


class Player:
    """Takes no time, and tells that it did."""

    cores = 1.0

    def __init__(self, name):
        self.facts = FACTS | {"setting": name, "machine": MACHINE | {"packages": {"torch": "1"}}}
        self._seconds = SPEEDS[name]

    def go(self, steps):
        return steps * self._seconds

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.fixture
def started(monkeypatch):
    """Replaces the programs; returns a list of what was started and ready, in order, and of names that fail."""
    events, failing = [], set()

    class Program:
        def __init__(self, arguments, logs, patience):
            self._dtype, self._patience = logs.name, patience

        def ours(self):
            return self._player("jax")

        def peer(self, setting):
            return self._player(setting)

        def _player(self, name):
            events.append(f"{self._dtype} {name} starts")
            if f"{self._dtype} {name}" in failing:
                raise PlayerError("it took too long to be ready")
            time.sleep(0.05 if name == "jax" else 0.0)
            events.append(f"{self._dtype} {name} ready")
            return Player(name)

    monkeypatch.setattr(precisions, "Program", Program)
    return events, failing


def run(tmp_path):
    file = tmp_path / "result.json"
    code = precisions.main(["--config=configs/toy.py:ass", "--settings=plain,compile", f"--json={file}"])
    return code, json.loads(file.read_text())["precisions"]


def test_the_fastest_setting_is_the_peer_of_each_precision(started, tmp_path):
    code, found = run(tmp_path)
    assert code == 0
    assert list(found) == ["bfloat16", "float32"]
    for case in found.values():
        assert case["sides"]["torch"]["setting"] == "compile"
        assert case["ratio"]["median"] == 2.0
        assert case["tried"] == {"plain": 2.0, "compile": 1.0}


def test_ours_of_one_precision_waits_for_that_of_the_other(started, tmp_path):
    events, _ = started
    run(tmp_path)
    assert events.index("bfloat16 jax ready") < events.index("float32 jax starts")
    assert events.index("float32 plain starts") < events.index("bfloat16 jax ready")


def test_what_is_not_ready_is_left_out_and_named(started, tmp_path):
    _, failing = started
    failing |= {"bfloat16 compile", "float32 jax"}
    code, found = run(tmp_path)
    assert code == 1
    assert list(found) == ["bfloat16"]
    assert found["bfloat16"]["sides"]["torch"]["setting"] == "plain"
    assert "too long" in found["bfloat16"]["tried"]["compile"]
