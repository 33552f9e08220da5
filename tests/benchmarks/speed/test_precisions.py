"""Both precisions are compared, with the settings that are ready in time."""

import json

import pytest

from benchmarks.common.turns import PlayerError
from benchmarks.speed import precisions

FACTS = {"images_per_step": 3, "tflop": 0.1, "limit_tflop_per_second": 1.0}
MACHINE = {"cpu": "abacus", "cores": 2, "memory_gib": 1, "system": "wood", "python": "3", "devices": "1 cpu"}
SPEEDS = {"jax": 0.5, "plain": 2.0, "compile": 1.0}  # Seconds of a step.


class Player:
    """Takes no time and records its events."""

    cores = 1.0

    def __init__(self, dtype, name, events, failing):
        self._dtype, self._name, self._events, self._failing = dtype, name, events, failing
        self.facts = FACTS | {"setting": name, "machine": MACHINE | {"packages": {"torch": "1"}}}
        self.record("starts")

    def record(self, what):
        self._events.append(f"{self._dtype} {self._name} {what}")
        if self._events[-1] in self._failing:
            raise PlayerError("no answer")

    def ready(self, patience):
        assert 0 < patience <= 600
        self.record("ready")
        return self

    def go(self, steps):
        self.record("goes")
        return steps * SPEEDS[self._name]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.record("ends")


@pytest.fixture
def started(monkeypatch):
    """Replaces the programs; returns the events in order, and the set of events that fail."""
    events, failing = [], set()

    class Program:
        def __init__(self, arguments, logs):
            self._dtype = logs.name

        def ours(self):
            return Player(self._dtype, "jax", events, failing)

        def peer(self, setting):
            return Player(self._dtype, setting, events, failing)

    monkeypatch.setattr(precisions, "Program", Program)
    return events, failing


def run(tmp_path):
    file = tmp_path / "result.json"
    code = precisions.main(["--config=configs/toy.py:ass", "--settings=plain,compile", f"--json={file}"])
    return code, json.loads(file.read_text())["precisions"] if file.exists() else None


def players_that(events, what):
    return {event.removesuffix(f" {what}") for event in events if event.endswith(f" {what}")}


def test_the_fastest_setting_is_the_peer_of_each_precision(started, tmp_path):
    code, found = run(tmp_path)
    assert code == 0
    assert list(found) == ["bfloat16", "float32"]
    for case in found.values():
        assert case["sides"]["torch"]["setting"] == "compile"
        assert case["ratio"]["median"] == 2.0
        assert case["tried"] == {"plain": 2.0, "compile": 1.0}


def test_pytorch_builds_while_our_programs_build_one_after_the_other(started, tmp_path):
    events, _ = started
    run(tmp_path)
    assert events.index("float32 plain starts") < events.index("bfloat16 jax ready")
    assert events.index("bfloat16 jax ready") < events.index("float32 jax starts")
    assert events.index("float32 jax ready") < events.index("bfloat16 plain goes")


@pytest.mark.parametrize("what", ["ready", "goes"])
def test_a_setting_that_fails_is_left_out_and_named(started, tmp_path, what):
    events, failing = started
    failing.add(f"bfloat16 compile {what}")
    code, found = run(tmp_path)
    assert code == 0
    assert found["bfloat16"]["sides"]["torch"]["setting"] == "plain"
    assert "no answer" in found["bfloat16"]["tried"]["compile"]
    assert found["float32"]["sides"]["torch"]["setting"] == "compile"
    assert players_that(events, "ends") == players_that(events, "starts")


def test_no_result_is_written_if_our_step_fails(started, tmp_path, capsys):
    events, failing = started
    failing.add("float32 jax ready")
    assert run(tmp_path) == (1, None)
    output = capsys.readouterr()
    assert "bfloat16: ours 500.0 ms" in output.out
    assert "float32, jax: no answer" in output.err
    assert players_that(events, "ends") == players_that(events, "starts")
