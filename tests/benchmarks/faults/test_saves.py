"""The timers around checkpoints, and the share computed from them."""

import time
from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from ass_jax.checkpoints import integrity, manager
from ass_jax.checkpoints.manager import Checkpoints
from ass_jax.training.monitor import Monitor
from benchmarks.faults.saves import Watch, verdict


def test_steps_and_calls_are_timed_separately(tmp_path, monkeypatch):
    for name in ("save", "raise_failed_save", "wait", "close"):
        monkeypatch.setattr(Checkpoints, name, getattr(Checkpoints, name))
    monkeypatch.setattr(integrity, "checksums", integrity.checksums)
    monkeypatch.setattr(Monitor, "add", lambda monitor, metrics: monitor.seen.append(metrics))
    watch, monitor, state = Watch(), SimpleNamespace(seen=[]), {"a": jnp.ones(1000)}
    watch.install()
    monkeypatch.setattr(manager.ocp.CheckpointManager, "is_saving_in_progress", lambda self: len(monitor.seen) < 4)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.wait()
        assert watch.calls == 0  # Before the first step.
        for number in range(1, 7):
            time.sleep(0.02)
            Monitor.add(monitor, {"loss": jnp.float32(number)})
            if number == 2:
                time.sleep(0.2)  # An evaluation.
                begun = time.monotonic()
                checkpoints.save(number, state, None, {})
                took = time.monotonic() - begun
                assert watch.calls == pytest.approx(
                    took, rel=0.1
                )  # Counted once, although it waits for the previous save.
                assert 0 < watch.checksums <= watch.calls
    assert len(monitor.seen) == 6
    assert watch.saves == 1
    assert [during for _, during in watch.steps] == [False, True, True, True, False]
    assert all(0.02 <= seconds < 0.2 for seconds, _ in watch.steps)


def test_share_counts_calls_and_slower_steps():
    steps = [(0.1, False)] * 95 + [(0.12, True)] * 5
    text, holds = verdict({"steps": steps, "calls": 0.1, "checksums": 0.01, "saves": 3})
    assert holds
    assert text.startswith("101 steps of 100 ms, 3 saves: 2.00 % of the training time; 0.10 s in the training thread")
    assert text.endswith("5 steps during a save took +0.10 s longer")
    assert not verdict({"steps": steps, "calls": 0.3, "checksums": 0.01, "saves": 3})[1]
    # Fast steps during a save do not make up for the calls.
    assert (
        "1.00 %"
        in verdict(
            {
                "steps": [(0.1, False)] * 5 + [(0.05, True)] * 5 + [(0.1, False)] * 90,
                "calls": 0.1,
                "checksums": 0.0,
                "saves": 1,
            }
        )[0]
    )
