"""Evaluation with a fake network: files that the official scripts score alike, images without labels, subset names."""

import copy
import json
from types import SimpleNamespace

import numpy as np
import optax
import pytest
from cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling import args as official_arguments
from cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling import evaluateImgLists, getPrediction
from flax import linen as nn
from PIL import Image

from ass_jax.checkpoints import selection
from ass_jax.checkpoints.manager import Checkpoints
from ass_jax.evaluation import evaluate as evaluation
from ass_jax.evaluation import image_scores, metrics
from ass_jax.method.state import create_state
from ass_jax.models import Networks
from ass_jax.training import validation
from configs import base
from configs.user_error import UserError
from data import classes as labels

SIZE, LABEL_SIZE = (8, 16), (16, 32)


class Segmenter(nn.Module):
    """Classifies every fourth pixel independently; predicts most classes."""

    num_classes: int

    @nn.compact
    def __call__(self, images, train):
        logits = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(1.0))(images[:, ::2, ::2])
        return logits, logits


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Returns a function that saves a checkpoint of a fake network and returns its configuration and class table."""

    def make(classes, kept=False, **settings):
        config = base.get_config("joint")
        config.data.target_size = SIZE
        config.evaluation.update({"test_size": LABEL_SIZE} | settings)
        table = labels.class_table(classes)
        networks = Networks(Segmenter(len(table.names)), None, None)
        monkeypatch.setattr(evaluation, "build_networks", lambda *_: networks)
        state = create_state(networks=networks, optimizer=optax.identity(), config=config, num_classes=len(table.names))
        with Checkpoints(tmp_path / evaluation.CHECKPOINTS) as checkpoints:
            checkpoints.save(7, state, None, config.to_dict() if kept else {})
        return config, table

    return make


def batches(table, labelled=True):
    """Yields two batches of two images with Cityscapes names; the last image is padding."""
    random = np.random.default_rng(3)
    for number in range(2):
        batch = {
            "image": random.integers(0, 256, (2, *SIZE, 3)).astype(np.uint8),
            "valid": np.array([True, number == 0]),
            "name": np.array([f"ulm/ulm_{number:06}_{place:06}" for place in range(2)]),
        }
        truth = random.integers(0, len(table.names) + bool(table.others), (2, *LABEL_SIZE))
        batch["label"] = np.where(random.random(truth.shape) < 0.1, 255, truth).astype(np.uint8)
        batch["label"][~batch["valid"]] = 255
        if not labelled:
            del batch["label"]
        yield batch


@pytest.mark.parametrize("classes", ["cityscapes19", "synthia16"])
@pytest.mark.parametrize("views", [{}, {"flip": True, "scales": (1.0, 1.5), "window": (8, 8)}])
def test_official_scripts_give_the_files_the_same_scores(tmp_path, trained, classes, views):
    config, table = trained(classes, **views)
    report = evaluation.evaluate(config, class_table=table, evaluation_batches=lambda: batches(table), workdir=tmp_path)
    truths, predictions = [], []
    for batch in batches(table):
        for name, label in zip(batch["name"][batch["valid"]], batch["label"][batch["valid"]], strict=True):
            file = name.partition("/")[2]
            scored = label < len(table.names)
            raw = np.where(scored, table.raw_ids[np.where(scored, label, 0)], 0)
            truths.append(str(tmp_path / f"{file}_gtFine_labelIds.png"))
            Image.fromarray(raw.astype(np.uint8)).save(truths[-1])
            predictions.append(str(tmp_path / "predictions" / f"{file}.png"))
    assert len(truths) == len(list((tmp_path / "predictions").iterdir())) == 3
    arguments = copy.copy(official_arguments)
    arguments.quiet, arguments.JSONOutput, arguments.evalInstLevelScore = True, False, False
    expected = evaluateImgLists(predictions, truths, arguments)["classScores"]
    assert report["class_iou"] == {name: expected[name] for name in table.names}
    assert sum(score > 0 for score in report["class_iou"].values()) > 5

    # The scores by image, from the same files.
    assert (report["images"], report["images_left_out"]) == (3, 0)
    maps = [[np.asarray(Image.open(file)) for file in pair] for pair in zip(predictions, truths, strict=True)]
    for raw_id, (name, found) in zip(table.raw_ids, report["class_by_image"].items(), strict=True):
        lesions = [(prediction[truth > 0] == raw_id, truth[truth > 0] == raw_id) for prediction, truth in maps]
        pixels = [(np.sum(first & second), np.sum(first), np.sum(second)) for first, second in lesions]
        dices = [2 * both / (first + second) for both, first, second in pixels if first + second]
        assert (found["images"], found["dice"]) == (len(dices), np.mean(dices) if dices else None), name


def test_official_scripts_find_the_files(tmp_path, trained):
    config, table = trained("cityscapes19")
    evaluation.evaluate(config, class_table=table, evaluation_batches=lambda: batches(table), workdir=tmp_path)
    arguments = copy.copy(official_arguments)
    arguments.predictionPath, arguments.predictionWalk = str(tmp_path / "predictions"), None
    found = getPrediction(arguments, "gtFine/val/ulm/ulm_000001_000000_gtFine_labelIds.png")
    assert found == str(tmp_path / "predictions" / "ulm_000001_000000.png")


def test_images_without_labels_are_only_predicted(tmp_path, trained, capsys):
    config, table = trained("cityscapes19", split="test")
    report = evaluation.evaluate(
        config,
        class_table=table,
        evaluation_batches=lambda: batches(table, labelled=False),
        workdir=tmp_path,
        labelled=False,
        left_out=5,
    )
    choice = {"step": 7, "checkpoint": "last", "chosen": "the last one: not chosen by a score"}
    assert report == choice | {"split": "test", "images": 3, "images_left_out": 5}
    output = capsys.readouterr().out
    assert "mIoU" not in output
    assert "Images left out of the evaluation because their files cannot be used: 5;" in output
    assert not (tmp_path / "predictions").exists()
    with_labels = config.copy_and_resolve_references()
    with_labels.evaluation.split = "validation"
    evaluation.evaluate(with_labels, class_table=table, evaluation_batches=lambda: batches(table), workdir=tmp_path)
    for folder in ("predictions{}", "predictions{}_color"):
        files = sorted((tmp_path / folder.format("_test")).iterdir())
        assert len(files) == 3
        for file in files:
            assert Image.open(file).size == LABEL_SIZE[::-1]
            assert file.read_bytes() == (tmp_path / folder.format("") / file.name).read_bytes()


def test_test_images_with_labels_are_scored(tmp_path, trained, capsys):
    config, table = trained("cityscapes19")
    reports = {}
    for split in ("validation", "test"):
        config.evaluation.split = split
        reports[split] = evaluation.evaluate(
            config, class_table=table, evaluation_batches=lambda: batches(table), workdir=tmp_path
        )
        assert reports[split].pop("split") == split
    assert reports["test"] == reports["validation"]
    assert "mIoU" in capsys.readouterr().out
    assert len(list((tmp_path / "predictions_test").iterdir())) == 3


def test_predictions_of_slices_are_volumes_with_the_same_scores(tmp_path, trained, capsys):
    config, table = trained("brats_whole")
    names = np.array([["p_1/002", "p_1/003"], ["p_2/000", ""]])
    shape, written = (*LABEL_SIZE[::-1], 5), {}
    volumes = SimpleNamespace(
        of_images=["p_1", "p_1", "p_2"],
        frames=dict.fromkeys(("p_1", "p_2"), SimpleNamespace(shape=shape)),
        write=lambda name, folder, file, labels: written.update({f"{folder.name}/{file}": labels}),
    )

    def slices():
        yield from (batch | {"name": names[number]} for number, batch in enumerate(batches(table)))

    report = evaluation.evaluate(
        config, class_table=table, evaluation_batches=slices, workdir=tmp_path, left_out=2, volumes=volumes
    )
    assert list(written) == ["predictions/p_1", "predictions/p_2"]
    truths = {name: np.full(shape, 255, np.uint8) for name in written}
    for batch in slices():
        for name, label in zip(batch["name"][batch["valid"]], batch["label"][batch["valid"]], strict=True):
            truths[f"predictions/{name[:3]}"][:, :, int(name[-3:])] = label.T
    dices = []
    for name, found in written.items():
        assert not found[:, :, 4].any()  # No slice was given.
        lesions = found[truths[name] < 255] == 1, truths[name][truths[name] < 255] == 1
        assert 0.1 < lesions[0].mean() < 0.9
        dices.append(2 * np.sum(lesions[0] & lesions[1]) / sum(map(np.sum, lesions)))
    assert report["dice_by_volume"] == np.mean(dices)
    assert (report["volumes"], report["volumes_left_out"], report["images"], report["images_left_out"]) == (2, 2, 3, 0)
    output = capsys.readouterr().out
    assert "Volumes left out of the evaluation because their files cannot be used: 2;" in output
    assert "predictions/ (train ids)\n" in output


def test_settings_that_differ_from_the_checkpoint_are_printed(tmp_path, trained, capsys):
    config, table = trained("cityscapes19", kept=True)
    for flip in (False, True):
        config.evaluation.flip = flip
        config.variant = "ass" if flip else "joint"
        config.optimizer.learning_rate = 0.5  # No score depends on it.
        report = evaluation.evaluate(
            config, class_table=table, evaluation_batches=lambda: batches(table), workdir=tmp_path
        )
        changed = [("evaluation.flip", "false", "true"), ("variant", '"joint"', '"ass"')]
        assert report[evaluation.CHANGED] == changed * flip
        assert report["variant"] == "joint"
        text = capsys.readouterr().out
        printed = (
            "checkpoint 7 with settings that differ from those of its training:\n"
            "  evaluation.flip: checkpoint false, now true"
        )
        assert (printed in text) == flip
        assert (
            "Checkpoints, as scored during training, with the settings of that time, not those above:" in text
        ) == flip
        assert ("Checkpoints, as scored during training:" in text) != flip


def test_settings_of_another_network_are_named(tmp_path, trained, monkeypatch):
    config, _ = trained("cityscapes19", kept=True)
    fewer = labels.class_table("synthia16")
    monkeypatch.setattr(evaluation, "build_networks", lambda *_: Networks(Segmenter(16), None, None))
    config.data.classes, config.model.backbone = "synthia16", "vgg16"

    def evaluate():
        evaluation.evaluate(config, class_table=fewer, evaluation_batches=lambda: batches(fewer), workdir=tmp_path)

    with pytest.raises(UserError) as caught:
        evaluate()
    assert str(caught.value) == (
        f"Checkpoint 7 in {tmp_path / evaluation.CHECKPOINTS} is of another network. "
        "Evaluate it with its own settings:\n"
        '  data.classes: checkpoint "toy", now "synthia16"\n'
        '  model.backbone: checkpoint "resnet101", now "vgg16"'
    )
    config.data.classes, config.model.backbone = "toy", "resnet101"  # No setting tells: the leaves do.
    with pytest.raises(
        UserError, match=r"leaves that differ: 2\.\n.*bias: expected float32\[16\], found float32\[19\]"
    ):
        evaluate()


def test_picture_takes_labels_of_several_sizes():
    table = labels.class_table("polyp")
    strip, same = evaluation.PredictionStrip(2, table), evaluation.PredictionStrip(2, table)
    image, truth = np.zeros((8, 8, 3), np.uint8), np.arange(64, dtype=np.uint8).reshape(8, 8) % 2
    for large in (1, 3):
        found = truth.repeat(large, 0).repeat(large, 1)
        strip.add(image, found, found)
        same.add(image, truth, truth)
    np.testing.assert_array_equal(strip.picture(), same.picture())


def test_devices_compute_the_next_batch_while_the_host_visits_one():
    order = []

    def given():
        for number in range(3):
            order.append(f"batch {number}")
            yield {"image": np.zeros((4, 1, 1, 3), np.uint8), "valid": np.ones(4, bool)}

    def step(variables, batch):
        assert batch["label"].shape == (4, 2, 3)
        order.append("step")
        return np.zeros((4, 1, 1), np.int32), batch["valid"], batch["label"]

    def visit(name, *maps):
        assert name == ""
        if order[-1] != "seen":
            order.append("seen")

    table = labels.ClassTable(("road",), np.zeros((1, 3), np.uint8), {"1": (0,)})
    mesh = evaluation.make_mesh([])
    report = evaluation.score({}, given(), step=step, mesh=mesh, class_table=table, unlabelled_size=(2, 3), visit=visit)
    assert order == ["batch 0", "step", "batch 1", "step", "seen", "batch 2", "step", "seen"]
    assert report["mean_iou"] == {"1": None}
    assert (report["images"], report["images_left_out"]) == (0, 12)  # No pixel of them counts.


@pytest.mark.parametrize(
    ("classes", "subsets"),
    [
        ("cityscapes19", ["19", "16", "13"]),
        ("synthia16", ["16", "13", "16_of_19", "13_of_19"]),
        ("toy", ["toy"]),
    ],
)
def test_every_score_names_its_class_subset(tmp_path, capsys, classes, subsets):
    table = labels.class_table(classes)
    count = len(table.names)
    confusion = np.random.default_rng(0).integers(1, 99, (count + bool(table.others), count))
    counts = image_scores.count_pixels(confusion[None, :count])
    found = metrics.report(confusion, table.names, table.subsets, table.others) | image_scores.report(
        counts, table.names, 2
    )
    report = found | {"held_out": found, "average": found}
    assert list(json.loads(json.dumps(report))["mean_iou"]) == subsets

    with Checkpoints(tmp_path, best_metrics=selection.RANKINGS["mean_iou"]) as checkpoints:
        checkpoints.save(7, {"step": np.array(7)}, selection.checkpoint_metrics(report), {})
        assert checkpoints.metrics()["mIoU"] == found["mean_iou"][subsets[0]]
        assert checkpoints.metrics()["dice_by_image"] == found["dice_by_image"]
        report |= selection.describe(7, "last") | {"checkpoints": selection.saved_reports(checkpoints)}
    for entry in report["checkpoints"].values():
        assert list(entry["mean_iou"]) == list(entry["held_out"]["mean_iou"]) == subsets

    evaluation.print_report("ass", report)
    output = capsys.readouterr().out
    rows = [line.split("  ")[0] for line in output.splitlines()]
    assert [row.removeprefix("mIoU ") for row in rows if row.startswith("mIoU ")] == subsets
    (titles,) = (line for line in output.splitlines() if line.startswith("checkpoint"))
    for subset in subsets:
        assert titles.count(f" mIoU {subset} ") == 2
    assert titles.count(" Dice by image ") == 2
    assert ["images", "left", "out", "2", "2"] in [line.split() for line in output.splitlines()]

    written = {}

    class Writer:
        def write_scalars(self, step, scores):
            written.update(scores)

    validation.write_scores(7, report, Writer())
    tags = {tag for tag in written if "mIoU" in tag}
    assert tags == {
        f"{group}/mIoU_{subset}" for group in ("validation", "validation_average", "held_out") for subset in subsets
    }
    for group in ("validation", "validation_average", "held_out"):
        assert written[f"{group}/dice_by_image"] == found["dice_by_image"]
        assert written[f"{group}/iou_by_image"] == found["iou_by_image"]
        assert (written[f"{group}/images"], written[f"{group}/images_left_out"]) == (1, 2)
