"""The loop on made-up batches: resuming, reports, refusals. The real data's turn is in tests/test_main.py."""

import functools
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ass_jax import export, metrics
from ass_jax import train as loop
from ass_jax.checkpoint import Checkpoints
from ass_jax.evaluate import CHECKPOINTS, LABELLED, PREDICTIONS, STRIP, evaluate
from ass_jax.models import build_networks, deeplab
from ass_jax.optimizers import make_optimizer
from ass_jax.sharding import make_mesh, on_mesh
from ass_jax.state import abstract_segmenter, create_state
from ass_jax.trained import Trained
from configs import base

SIZE = (32, 64)
CHOICE = {"list": "made up, 2 images", "sha256": "0a1b"}
CLASSES = SimpleNamespace(
    names=("road", "sky", "car"),
    palette=np.array([[128, 64, 128], [70, 130, 180], [0, 0, 142]], np.uint8),
    subsets={"all": (0, 1, 2), "two": (0, 1)},
    raw_ids=None,
)


@pytest.fixture(autouse=True)
def small_backbone(monkeypatch):
    tiny = functools.partial(deeplab._resnet, stage_sizes=(1, 1, 1, 1), width=2, stem_width=4)
    monkeypatch.setitem(deeplab.BACKBONES, "resnet_tiny", tiny)


def configuration(words="ass", **settings):
    config = base.default_config()
    config.data.batch.update(source=2, labelled=2, unlabelled=2)
    base.finish(config, words + ",smoke")
    config.data.source_size = config.data.target_size = SIZE
    config.model.branches = 1
    config.average_decay = 0.9
    config.update_from_flattened_dict(settings)
    return config


def example(generator, count):
    label = generator.integers(0, 3, (count, *SIZE)).astype(np.uint8)
    label[:, :4] = 255
    return {"image": generator.integers(0, 256, (count, *SIZE, 3)).astype(np.uint8), "label": label}


def training_batches(config, start, read):
    step = start
    while True:
        generator = np.random.default_rng(step)
        batch = {stream: example(generator, 2) for stream in ("source", "labelled")}
        if config.loss.global_weight:
            batch["unlabelled"] = {"image": example(generator, 2)["image"]}
        read.append(step)
        yield batch
        step += 1


def evaluation_batches(seed=99):
    generator = np.random.default_rng(seed)
    for number, valid in enumerate(([True, True], [True, False])):
        names = np.array([f"town/town_{number}_{place}" for place in range(2)])
        yield example(generator, 2) | {"valid": np.array(valid), "name": names}


class Writer:
    """Stands for TensorBoard."""

    def __init__(self):
        self.scalars, self.images = {}, {}

    def write_scalars(self, step, scalars):
        self.scalars.setdefault(step, {}).update(scalars)

    def write_images(self, step, images):
        self.images.setdefault(step, {}).update(images)

    def flush(self):
        pass


def run(config, workdir, **others):
    writer, read = Writer(), []
    report = loop.train(
        config,
        class_table=CLASSES,
        training_batches=lambda start: training_batches(config, start, read),
        evaluation_batches=evaluation_batches,
        writer=writer,
        workdir=workdir,
        labelled=CHOICE,
        **others,
    )
    return report, writer, read


def final_state(config, workdir):
    networks = build_networks(config, 3)
    target = jax.eval_shape(
        lambda: create_state(networks=networks, optimizer=make_optimizer(config), config=config, num_classes=3)
    )
    with Checkpoints(workdir / CHECKPOINTS, read_only=True) as checkpoints:
        return checkpoints.restore(on_mesh(target, make_mesh([2])))


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_stopped_and_resumed_run_equals_a_straight_one(tmp_path, capsys):
    config = configuration(**{"steps": 4, "checkpoint.every": 2, "evaluation.every": 2})
    straight, writer, read = run(config, tmp_path / "straight")
    assert read == [0, 1, 2, 3]

    # A kill after step 3, of which nothing but the log is left.
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

    # What a user finds.
    assert straight["step"] == 4
    assert straight["labelled"] == CHOICE
    with Checkpoints(tmp_path / "straight" / CHECKPOINTS, read_only=True) as checkpoints:
        assert checkpoints.configuration(2)[LABELLED] == CHOICE
    assert set(straight["average"]["mean_iou"]) == {"all", "two"}
    assert (tmp_path / "straight" / STRIP).is_file()
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


def test_steps_that_are_not_finite_end_the_run_with_the_last_good_state(tmp_path, monkeypatch):
    settings = {"optimizer.learning_rate": 1e30, "steps": 9, "checkpoint.every": 100, "skipped_limit": 2}
    config = configuration("joint", **settings)
    with pytest.raises(FloatingPointError, match=r"not finite.*2 updates in a row"):
        run(config, tmp_path)
    state = final_state(config, tmp_path)
    assert 3 <= state.step < 9
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_evaluation_without_a_checkpoint_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="Train first"):
        evaluate(configuration("joint"), class_table=CLASSES, evaluation_batches=evaluation_batches, workdir=tmp_path)


def test_unknown_checkpoint_choice_lists_the_valid_ones(tmp_path):
    config = configuration("joint", **{"evaluation.checkpoint": "newest"})
    with pytest.raises(ValueError, match=r"'newest'.*last, selected, best"):
        evaluate(config, class_table=CLASSES, evaluation_batches=evaluation_batches, workdir=tmp_path)


def scores_of(rate):
    """Returns a report in which every class has the IoU `rate`."""
    confusion = np.diag([round(200 * rate / (1 + rate))] * 3)
    wrong = 100 - confusion[0, 0]
    return metrics.report(confusion + wrong * np.roll(np.eye(3, dtype=int), 1, axis=1), CLASSES.names, CLASSES.subsets)


def test_checkpoints_are_chosen_honestly_and_told_apart(tmp_path, monkeypatch, capsys):
    validation, held_out = iter([0.2, 0.9, 0.4, 0.3]), iter([0.1, 0.2, 0.8, 0.3])
    seen = []

    def score(variables, batches, **others):
        seen.append(sorted(others))
        return scores_of(next(held_out))

    def idle(state, batch, **others):
        return state.replace(step=state.step + 1), dict.fromkeys(
            ("loss/segmentation_source", "skipped"), 0.0 * state.step
        )

    monkeypatch.setattr(loop, "train_step", idle)
    monkeypatch.setattr(loop, "score_all", lambda *_, **__: scores_of(next(validation)))
    monkeypatch.setattr(loop, "score", score)
    monkeypatch.setattr(loop.Strip, "save", lambda *_: None)
    config = configuration("joint", **{"steps": 4, "evaluation.every": 1, "checkpoint.keep": 1, "average_decay": 0.0})
    report, writer, _ = run(config, tmp_path, held_out_batches=lambda: evaluation_batches(1))
    assert seen == [["class_table", "mesh", "step"]] * 4

    # The last one on top; all three apart, each with its step and how it was chosen.
    assert (report["step"], report["checkpoint"]) == (4, "last")
    assert report["mean_iou"]["two"] == pytest.approx(0.3, abs=0.01)
    assert report["held_out"]["mean_iou"]["two"] == pytest.approx(0.3, abs=0.01)
    found = report["checkpoints"]
    assert {name: entry["step"] for name, entry in found.items()} == {"last": 4, "selected": 3, "best on validation": 2}
    assert found["selected"]["mean_iou"]["all"] == pytest.approx(0.4, abs=0.01)
    assert found["selected"]["held_out"]["mean_iou"]["all"] == pytest.approx(0.8, abs=0.01)
    assert "not a fair score" in found["best on validation"]["chosen"]
    json.dumps(report, allow_nan=False)
    rows = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    rows = {row[0]: [cell.strip() for cell in row if cell.strip()] for row in rows}
    titles = ["step", "mIoU all", "mIoU two", "held-out mIoU all", "held-out mIoU two"]
    assert rows["checkpoint"] == ["checkpoint", *titles, "chosen"]
    assert [rows[name][1] for name in ("last", "selected", "best on validation")] == ["4", "3", "2"]
    assert rows["best on validation"][-1] == "chosen on the validation set: not a fair score"
    assert writer.scalars[3]["held_out/mIoU_two"] == pytest.approx(0.8, abs=0.01)
    assert writer.scalars[3]["validation/mIoU_two"] == pytest.approx(0.4, abs=0.01)

    # Each is there to be evaluated.
    for choice, step in {"last": 4, "selected": 3, "best": 2}.items():
        config.evaluation.checkpoint = choice
        again = evaluate(config, class_table=CLASSES, evaluation_batches=evaluation_batches, workdir=tmp_path)
        assert again["step"] == step
        assert again["checkpoints"] == found


def test_run_without_held_out_images_has_nothing_selected(tmp_path):
    with Checkpoints(tmp_path / CHECKPOINTS) as checkpoints:
        checkpoints.save(1, {"step": np.array(1)}, {"mIoU": 0.5}, {})
    config = configuration("joint", **{"evaluation.checkpoint": "selected"})
    with pytest.raises(FileNotFoundError, match=r"held no images out.*--config\.data\.held_out=COUNT"):
        evaluate(config, class_table=CLASSES, evaluation_batches=evaluation_batches, workdir=tmp_path)


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
    loop._check_batch(batch, 3)
    change(batch)
    with pytest.raises(ValueError, match=message):
        loop._check_batch(batch, 3)


@pytest.fixture
def weights_of_a_run(tmp_path_factory):
    """Returns a weight file whose pixels and branches differ from the configuration's, and its arrays."""
    config = configuration("joint", **{"model.branches": 2, "model.pixel_mean": (1.0, 2.0, 3.0), "average_decay": 0.0})
    networks = build_networks(config, 3)
    shapes = abstract_segmenter(networks, config)
    random = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: random.uniform(0.5, 1.0, leaf.shape).astype(np.float32), shapes)
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    export.write(Trained(config, CLASSES.names, CLASSES.palette, variables), path)
    return path, variables


def test_initial_weights_come_with_their_settings_also_when_resumed(tmp_path, weights_of_a_run, monkeypatch, capsys):
    path, variables = weights_of_a_run
    seen = []

    def idle(state, batch, *, networks, config, optimizer):
        seen.append((networks.segmenter.branches, config.model.pixel_mean))
        return state.replace(step=state.step + 1), {"loss/segmentation_source": 0.0 * state.step, "skipped": 0.0}

    monkeypatch.setattr(loop, "train_step", idle)
    config = configuration("joint", init=str(path), steps=2)
    run(config, tmp_path)
    assert "weights.safetensors: ass_jax" in capsys.readouterr().out
    config.steps = 4
    config.init = "gone.safetensors"  # No longer needed: the checkpoint has all.
    run(config, tmp_path)
    assert seen == [(2, (1.0, 2.0, 3.0))] * 2
    with Checkpoints(tmp_path / CHECKPOINTS, read_only=True) as checkpoints:
        target = on_mesh(jax.tree.map(jax.typeof, jax.tree.map(jnp.asarray, variables)), make_mesh([2]))
        for average in (False, True):  # Nothing was trained.
            found = checkpoints.restore_segmenter(target, 4, average=average)
            jax.tree.map(np.testing.assert_array_equal, found, variables)


def test_loop_waits_for_no_device_between_reports(tmp_path, monkeypatch):
    """Whoever reads a value of an array, or waits for one, waits for the step: only a report and a save may."""
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
    settings = {"steps": 6, "log_every": 3, "checkpoint.every": 12, "evaluation.every": 0, "average_decay": 0.0}
    run(configuration("joint", **settings), tmp_path)
    first, last = events.index("add"), events.index("save")
    told = [name for name, before in zip(events[first:last], ["", *events[first:last]], strict=False) if name != before]
    assert told == ["add", "report", "read", "add", "report", "read"]
