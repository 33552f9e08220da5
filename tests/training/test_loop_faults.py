"""The loop under faults: signals, a locked folder, other settings, damaged checkpoints, steps that are not finite."""

import json
import os
import signal

import numpy as np
import pytest

from ass_jax.checkpoints import config_diff
from ass_jax.checkpoints.integrity import DamagedError, SaveError
from ass_jax.checkpoints.manager import Checkpoints
from ass_jax.runtime import lock, preemption
from ass_jax.runtime.workdir import CHECKPOINTS, LOCK
from ass_jax.training import loop, validation
from tests.helpers import small_runs as parts

small_backbone = parts.small_backbone


@pytest.fixture(autouse=True)
def idle_step(monkeypatch):
    """Replaces the step by one that only counts, which compiles fast, and evaluation by one without pictures."""

    def idle(state, batch, **others):
        return state.replace(step=state.step + 1), dict.fromkeys(
            ("loss/segmentation_source", "skipped"), 0.0 * state.step
        )

    monkeypatch.setattr(loop, "train_step", idle)
    monkeypatch.setattr(validation, "score_all", score)


def score(variables, batches, **others):
    for _ in batches():
        pass
    return parts.scores_of(0.5)


def run(config, workdir, at_read=None, at_evaluation=None, **others):
    """Trains; calls `at_read` with each step whose batch is read, and `at_evaluation` before an evaluation."""
    read = []

    def training_batches(start):
        for batch in parts.training_batches(config, start, read):
            if at_read:
                at_read(read[-1])
            yield batch

    def evaluation_batches():
        if at_evaluation:
            at_evaluation()
        yield from parts.evaluation_batches()

    report, *_ = parts.run(config, workdir, training_batches, evaluation_batches, **others)
    return report, read


def steps_of(workdir):
    return sorted(int(path.name) for path in (workdir / CHECKPOINTS).iterdir() if path.name.isdigit())


def configuration(**settings):
    defaults = {"steps": 6, "checkpoint.every": 8, "evaluation.every": 0, "teacher.decay": 0.0, "log_every": 4}
    return parts.configuration("joint", **(defaults | settings))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_saves_after_the_current_step_and_the_run_resumes_there(tmp_path, number, code):
    before = signal.getsignal(number)

    def ask(step):
        if step == 2:  # The third batch is read while the devices work on step 2.
            os.kill(os.getpid(), number)

    config = configuration()
    with pytest.raises(preemption.StoppedError, match="after step 3, which is saved") as error:
        run(config, tmp_path, at_read=ask)
    assert error.value.exit_code == code
    assert signal.getsignal(number) == before
    assert steps_of(tmp_path) == [3]
    assert [line["step"] for line in parts.lines(tmp_path)] == [3]
    assert not (tmp_path / LOCK).exists()
    report, read = run(config, tmp_path)
    assert read == [3, 4, 5]
    assert report["step"] == 6
    assert steps_of(tmp_path) == [3, 4, 6]


@pytest.mark.parametrize("every", [2, 0])
def test_signal_during_evaluation_aborts_it_and_loses_no_step(tmp_path, every):
    config = configuration(**{"evaluation.every": every})
    stops = 2 if every else 6
    with pytest.raises(preemption.StoppedError, match=f"after step {stops}, which is saved"):
        run(config, tmp_path, at_evaluation=lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert steps_of(tmp_path)[-1] == stops
    if every:
        assert run(config, tmp_path)[1] == [2, 3, 4, 5]


def test_second_training_is_refused_and_the_lock_given_back(tmp_path):
    with lock.training_lock(tmp_path), pytest.raises(lock.LockedError, match=f"process {os.getpid()}"):
        run(configuration(), tmp_path)
    run(configuration(), tmp_path)
    assert not (tmp_path / LOCK).exists()


def test_other_settings_are_refused_unless_allowed(tmp_path, monkeypatch):
    run(configuration(steps=4), tmp_path)
    changed = {"optimizer.learning_rate": 0.5, "log_every": 1}
    with pytest.raises(config_diff.ChangedError, match=r"learning_rate: checkpoint 0.00025, now 0.5\nUse the same"):
        run(configuration(**changed), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["optimizer"]["learning_rate"] == 0.00025
    monkeypatch.setitem(parts.CHOICE, "sha256", "ffff")
    with pytest.raises(config_diff.ChangedError, match=r'labelled\.sha256: checkpoint "0a1b", now "ffff"'):
        run(configuration(), tmp_path)
    monkeypatch.setitem(parts.CHOICE, "sha256", "0a1b")
    assert run(configuration(**changed, resume_with_changes=True), tmp_path)[1] == [4, 5]
    # The checkpoint has the changed settings now, so the run resumes without permission.
    assert run(configuration(**changed, steps=7), tmp_path)[1] == [6]


def test_checkpoint_beyond_the_last_step_is_only_evaluated(tmp_path, capsys):
    run(configuration(), tmp_path)
    run(configuration(), tmp_path)
    assert "Step 6 of 6 is done already; evaluating." in capsys.readouterr().out
    report, read = run(configuration(steps=4), tmp_path)
    assert (report["step"], read) == (6, [])
    told = capsys.readouterr().out
    assert "The checkpoint is of step 6, beyond config.steps = 4: nothing to train; evaluating." in told
    assert "done already" not in told


def test_run_resumes_from_the_checkpoint_before_the_damaged_ones(tmp_path, caplog, capsys):
    config = configuration(**{"checkpoint.every": 4})
    run(config, tmp_path)
    for step in (4, 6):
        for path in (tmp_path / CHECKPOINTS / str(step) / "state").rglob("d/*"):
            path.write_bytes(path.read_bytes()[:-10])
    report, read = run(config, tmp_path)
    assert read == [2, 3, 4, 5]
    assert "Goes on from step 2" in capsys.readouterr().out
    for step in (4, 6):
        assert f"Checkpoint {step} in" in caplog.text
    assert report["step"] == 6
    assert steps_of(tmp_path) == [2, 4, 6]
    for step in (2, 4, 6):
        (tmp_path / CHECKPOINTS / str(step) / "checksums" / "metadata").write_text("")
    with pytest.raises(DamagedError, match="Every checkpoint"):
        run(config, tmp_path)


def test_skipped_steps_are_named_with_their_images(tmp_path, monkeypatch, caplog):
    def skip(state, batch, **others):
        bad = (state.step == 1).astype(np.float32)
        return state.replace(step=state.step + 1), {"loss/segmentation_source": bad * np.nan, "skipped": bad}

    monkeypatch.setattr(loop, "train_step", skip)
    run(configuration(), tmp_path, names_of_step=lambda step: {"source": [f"street_{step}", "b"], "labelled": ["c"]})
    assert "Step 2: loss/segmentation_source" in caplog.text
    assert "Its images: source street_1, b; labelled c." in caplog.text


@pytest.mark.parametrize("every", [1, 2, 3, 7, 10])
def test_last_complete_checkpoint_is_at_most_one_interval_old(tmp_path, monkeypatch, every):
    begun = []

    def save(self, step, *others):
        begun.append(step)

    monkeypatch.setattr(loop.Checkpoints, "save", save)
    run(configuration(**{"steps": 25, "checkpoint.every": every}), tmp_path)
    assert begun[-1] == 25
    for step in range(1, 26):  # A save may still be running at any step; the next save waits for it.
        whole = ([0, 0] + [number for number in begun if number <= step])[-2]
        assert step - whole <= every


def test_failed_save_ends_the_run_within_an_interval(tmp_path, monkeypatch):
    config = configuration(**{"checkpoint.every": 2, "steps": 9})
    manager = Checkpoints.__init__.__globals__["ocp"].CheckpointManager
    wait, waited = manager.wait_until_finished, []

    def fail(self):
        wait(self)
        waited.append(self.latest_step())
        if waited[-1] == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(manager, "wait_until_finished", fail)
    with pytest.raises(SaveError, match=r"Make room.*No space left"):
        run(config, tmp_path)
    monkeypatch.undo()
    assert steps_of(tmp_path)[-1] == 3


def test_other_settings_are_refused_even_when_the_run_is_finished(tmp_path):
    config = parts.configuration("joint", steps=1)
    run(config, tmp_path)
    config.optimizer.learning_rate = 0.5
    with pytest.raises(config_diff.ChangedError, match=r"optimizer\.learning_rate"):
        run(config, tmp_path)
