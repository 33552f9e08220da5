"""The loop on random batches: resuming, reports, wrong batches. tests/data/test_real_data.py has real files."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ass_jax.checkpoints.manager import Checkpoints
from ass_jax.evaluation.evaluate import LABELLED, evaluate
from ass_jax.method.state import abstract_segmenter
from ass_jax.models import build_networks
from ass_jax.runtime.sharding import make_mesh, on_mesh
from ass_jax.runtime.workdir import CHECKPOINTS, PREDICTION_PICTURE, PREDICTIONS
from ass_jax.training import loop
from ass_jax.training.monitor import DivergedError
from ass_jax.weights import export
from ass_jax.weights.trained_model import Trained
from tests.helpers import small_runs
from tests.helpers.small_runs import (
    CHOICE,
    CLASSES,
    configuration,
    evaluation_batches,
    final_state,
    lines,
    run,
    training_batches,
)

small_backbone = small_runs.small_backbone


def test_stopped_and_resumed_run_equals_a_straight_one(tmp_path, capsys):
    config = configuration(**{"steps": 4, "checkpoint.every": 2, "evaluation.every": 2})
    straight, writer, read = run(config, tmp_path / "straight")
    assert read == [0, 1, 2, 3]

    # Killed after step 3, of which only the log is left.
    class StoppedError(Exception):
        pass

    stopped = config.copy_and_resolve_references()
    with pytest.MonkeyPatch.context() as patch:
        report = loop.Monitor.report

        def kill(monitor, step):
            report(monitor, step)
            if step == 3:
                raise StoppedError

        patch.setattr(loop.Monitor, "report", kill)
        with pytest.raises(StoppedError):
            run(stopped, tmp_path / "resumed")
    assert [line["step"] for line in lines(tmp_path / "resumed")] == [1, 2, 2, 3]
    resumed, _, read = run(config, tmp_path / "resumed")
    assert read == [2, 3]
    output = capsys.readouterr().out
    assert "Goes on from step 2" in output
    assert output.count("Labelled target images: made up, 2 images; SHA-256 0a1b.\n") == 3
    assert resumed == straight

    one, other = final_state(config, tmp_path / "straight"), final_state(config, tmp_path / "resumed")
    assert int(one.step) == 4
    jax.tree.map(np.testing.assert_array_equal, one, other)

    # The log has every step once, with the same numbers.
    timeless = [
        [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines(tmp_path / name)]
        for name in ("straight", "resumed")
    ]
    assert timeless[0] == timeless[1]
    assert [line["step"] for line in timeless[0]] == [1, 2, 2, 3, 4, 4]  # Steps 2 and 4 were evaluated too.

    # Scores, settings and files of the run.
    assert straight["step"] == 4
    assert straight["labelled"] == CHOICE
    with Checkpoints(tmp_path / "straight" / CHECKPOINTS, read_only=True) as checkpoints:
        assert checkpoints.configuration(2)[LABELLED] == CHOICE
    assert set(straight["average"]["mean_iou"]) == {"all", "two"}
    assert (tmp_path / "straight" / PREDICTION_PICTURE).is_file()
    assert json.loads((tmp_path / "straight" / "config.json").read_text())["steps"] == 4
    assert writer.images[4]["validation"].ndim == 4
    expected = {
        "loss/segmentation_source",
        "loss/segmentation_labelled",
        "loss/global",
        "loss/global_discriminator",
        "accuracy/global_discriminator",
        "loss/semantic",
        "loss/semantic_discriminator",
        "accuracy/semantic_discriminator",
        "gradient_norm/segmenter",
        "gradient_norm/global_discriminator",
        "gradient_norm/semantic_discriminator",
        "learning_rate/backbone",
        "learning_rate/classifier",
        "learning_rate/global_discriminator",
        "learning_rate/semantic_discriminator",
        "images_per_second",
        "validation/mIoU_all",
        "validation_average/mIoU_all",
        "validation_IoU/car",
    }
    assert expected <= set(writer.scalars[4])

    # A finished run only evaluates, to the same scores; so does --mode=eval, which writes the predictions.
    again, _, read = run(config, tmp_path / "straight")
    assert again == straight
    assert read == []
    evaluated = evaluate(
        config, class_table=CLASSES, evaluation_batches=evaluation_batches, workdir=tmp_path / "straight"
    )
    assert evaluated == straight
    for folder in (PREDICTIONS, f"{PREDICTIONS}_color"):
        files = sorted(path.name for path in (tmp_path / "straight" / folder).iterdir())
        assert files == ["town_0_0.png", "town_0_1.png", "town_1_0.png"]


def test_non_finite_steps_end_the_run_with_the_last_good_state(tmp_path, monkeypatch):
    settings = {"optimizer.learning_rate": 1e30, "steps": 9, "checkpoint.every": 100, "skipped_limit": 2}
    config = configuration("joint", **settings)
    with pytest.raises(DivergedError, match=r"not finite.*2 updates in a row"):
        run(config, tmp_path)
    state = final_state(config, tmp_path)
    assert 3 <= state.step < 9
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda batch: batch["source"].update(image=batch["source"]["image"] / 255.0), "source images uint8"),
        (lambda batch: batch["labelled"].update(label=batch["labelled"]["label"][:, 1:]), "labelled labels"),
        (lambda batch: batch["labelled"]["label"].__setitem__((0, 9, 9), 7), r"0 to 2, or 255.*\[7\]"),
    ],
)
def test_wrong_first_batch_is_refused(change, message):
    batch = next(training_batches(configuration(), 0, []))
    loop._expect_batch(batch, 3)
    change(batch)
    with pytest.raises(ValueError, match=message):
        loop._expect_batch(batch, 3)


@pytest.fixture
def weights_of_a_run(tmp_path_factory):
    """Returns a weight file whose pixel settings and branches differ from the configuration's, and its arrays."""
    config = configuration("joint", **{"model.branches": 2, "model.pixel_mean": (1.0, 2.0, 3.0), "teacher.decay": 0.0})
    networks = build_networks(config, 3)
    shapes = abstract_segmenter(networks, config)
    random = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: random.uniform(0.5, 1.0, leaf.shape).astype(np.float32), shapes)
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    export.write(Trained(config, CLASSES.names, CLASSES.palette, variables), path)
    return path, variables


def test_initial_weights_bring_their_settings_even_when_resumed(tmp_path, weights_of_a_run, monkeypatch, capsys):
    path, variables = weights_of_a_run
    seen = []

    def idle(state, batch, *, networks, config, **_):
        seen.append((networks.segmenter.branches, config.model.pixel_mean))
        return state.replace(step=state.step + 1), {"loss/segmentation_source": 0.0 * state.step, "skipped": 0.0}

    monkeypatch.setattr(loop, "train_step", idle)
    config = configuration("joint", init=str(path), steps=2)
    run(config, tmp_path)
    assert "weights.safetensors: ass_jax" in capsys.readouterr().out
    config.steps = 4
    config.init = "gone.safetensors"  # No longer needed: the checkpoint has everything.
    run(config, tmp_path)
    assert seen == [(2, (1.0, 2.0, 3.0))] * 2
    with Checkpoints(tmp_path / CHECKPOINTS, read_only=True) as checkpoints:
        target = on_mesh(jax.tree.map(jax.typeof, jax.tree.map(jnp.asarray, variables)), make_mesh([2]))
        for average in (False, True):  # Nothing was trained.
            found = checkpoints.restore_segmenter(target, 4, average=average)
            jax.tree.map(np.testing.assert_array_equal, found, variables)


def test_loop_waits_for_no_device_between_reports(tmp_path, monkeypatch):
    """Reading an array, or waiting for it, waits for the step: only reports and saves may do so."""
    kind, events = type(jnp.zeros(())), []

    def idle(state, batch, **others):
        return state.replace(step=state.step + 1), {"loss/segmentation_source": 0.0 * state.step, "skipped": 0.0}

    def noted(name, function):
        def call(*arguments, **keywords):
            events.append(name)
            return function(*arguments, **keywords)

        return call

    monkeypatch.setattr(loop, "train_step", idle)
    for owner, name in ((loop.Monitor, "add"), (loop.Monitor, "report"), (loop.Checkpoints, "save")):
        monkeypatch.setattr(owner, name, noted(name, getattr(owner, name)))
    monkeypatch.setattr(kind, "_value", property(noted("read", kind._value.fget)))
    monkeypatch.setattr(kind, "block_until_ready", noted("read", kind.block_until_ready))
    settings = {"steps": 6, "log_every": 3, "checkpoint.every": 12, "evaluation.every": 0, "teacher.decay": 0.0}
    run(configuration("joint", **settings), tmp_path)
    first, last = events.index("add"), events.index("save")
    told = [name for name, before in zip(events[first:last], ["", *events[first:last]], strict=False) if name != before]
    assert told == ["add", "report", "read", "add", "report", "read"]
