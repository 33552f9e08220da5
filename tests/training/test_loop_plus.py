"""A run of ASS+ on random batches: resuming with its teacher, pictures, export."""

import functools
import hashlib
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from ass_jax.inference.predictor import Predictor
from ass_jax.method.train_step import add_mixed
from ass_jax.models import build_networks
from ass_jax.runtime.sharding import make_mesh
from ass_jax.runtime.workdir import CHECKPOINTS, MIXED_PICTURE
from ass_jax.training import mixed_picture
from ass_jax.training.metric_writer import MetricWriter
from ass_jax.visualization import colourise
from ass_jax.weights import export
from ass_jax.weights.pretrained import open_weights
from ass_jax.weights.trained_model import open_description, open_run
from tests.helpers import small_runs as plain

# At threshold 0, every label of the barely trained teacher counts.
SETTINGS = {"steps": 4, "checkpoint.every": 4, "evaluation.every": 0, "teacher.threshold": 0.0}


@pytest.fixture(scope="module", autouse=True)
def small_backbone():
    with pytest.MonkeyPatch.context() as patch:
        plain.shrink(patch)
        yield


def configuration():
    return plain.configuration("ass_plus", **SETTINGS)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Returns the working directory of an uninterrupted run, its report and its writer."""
    workdir = tmp_path_factory.mktemp("straight")
    report, writer, _ = plain.run(configuration(), workdir)
    return workdir, report, writer


def state_hash(workdir):
    """Returns the SHA-256 of every leaf of the last state, with its path, type and shape."""
    digest = hashlib.sha256()
    state = plain.final_state(configuration(), workdir)
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def test_stopped_and_resumed_run_equals_a_straight_one(straight, tmp_path):
    """Bit for bit, teacher included; repeated steps mix the same images."""
    workdir = tmp_path / "stopped"
    # The files that a kill before the last checkpoint leaves.
    shutil.copytree(straight[0], workdir)
    shutil.rmtree(workdir / CHECKPOINTS / "4")
    resumed, _, read = plain.run(configuration(), workdir)
    assert read == [2, 3]
    assert resumed == straight[1]
    assert state_hash(workdir) == state_hash(straight[0])
    steps = [
        {line["step"]: line["loss/segmentation_mixed"] for line in plain.lines(workdir) if "skipped" in line}
        for workdir in (workdir, straight[0])
    ]
    assert steps[0] == steps[1]
    assert list(steps[0]) == [1, 2, 3, 4]


def test_report_and_metrics_include_the_teacher(straight):
    _, report, writer = straight
    assert {"loss/segmentation_mixed", "teacher/confident", "validation_average/mIoU_all"} <= set(writer.scalars[4])
    assert set(report["average"]["mean_iou"]) == {"all", "two"}
    assert writer.scalars[4]["teacher/confident"] == 1
    assert writer.scalars[4]["loss/segmentation_mixed"] > 0


def test_mixed_images_are_shown(straight):
    """The picture shows the last batch, mixed as a step from the final state would mix it."""
    workdir, _, writer = straight
    config, read = configuration(), []
    state, batch = plain.final_state(config, workdir), next(plain.training_batches(config, 3, read))
    mix = functools.partial(add_mixed, networks=build_networks(config, 3), config=config)
    streams = jax.device_get(jax.jit(mix)(state, batch)[0])
    mixed = streams["mixed"]
    with Image.open(workdir / MIXED_PICTURE) as picture:
        shown = np.asarray(picture)
    np.testing.assert_array_equal(shown, writer.images[4]["mixed"][0])
    heading, gap, factor = 20, 2, 4
    height, width = (factor * length for length in plain.SIZE)
    expected = [
        batch["unlabelled"]["image"],
        colourise(streams["unlabelled"]["pseudo_label"], plain.CLASSES.palette),
        np.rint(mixed["image"]),
        colourise(mixed["label"], plain.CLASSES.palette),
        np.rint(255 * mixed["weight"])[..., None].repeat(3, axis=-1),
    ]
    assert len({panels.tobytes() for panels in expected}) == 5
    for row in range(2):
        top = heading + row * (height + gap)
        for column, panels in enumerate(expected):
            left = column * (width + gap)
            panel = shown[top : top + height, left : left + width][::factor, ::factor]
            np.testing.assert_allclose(panel.astype(float), panels[row], atol=1)  # Another program rounds differently.


@pytest.mark.parametrize(("variant", "pictures"), [("ass", 4), ("ass_plus", 0)])
def test_no_picture_without_mixing_or_if_none_is_wanted(tmp_path, variant, pictures):
    config = plain.configuration(variant, **{"evaluation.pictures": pictures})
    show = mixed_picture.make_show(None, config, None, class_table=plain.CLASSES, writer=None, workdir=tmp_path)
    show(4, None, {})
    assert not list(tmp_path.iterdir())


def test_failed_picture_does_not_end_the_run(tmp_path, monkeypatch, caplog):
    def fail(path, picture):
        raise OSError(28, "No space left on device", str(path))

    def make(state, batch):
        image, label = np.zeros((1, 4, 4, 3), np.uint8), np.zeros((1, 4, 4), int)
        return {"image": image, "pseudo_label": label}, {"image": image, "label": label, "weight": label}

    monkeypatch.setattr(mixed_picture.visualization, "save_picture", fail)
    monkeypatch.setattr(mixed_picture.jax, "jit", lambda *_, **others: make)
    writer = MetricWriter(plain.Writer(), tmp_path, 0)
    shown = {"class_table": plain.CLASSES, "writer": writer, "workdir": tmp_path}
    mixed_picture.make_show(None, configuration(), make_mesh([2]), **shown)(4, None, {})
    assert "mixed.png could not be written: [Errno 28] No space left" in caplog.text


def test_teacher_is_exported_and_labels_images(straight, tmp_path):
    workdir = straight[0]
    state = plain.final_state(configuration(), workdir)
    assert not np.array_equal(
        *(state_part["params"]["classifier"]["dilation6"]["kernel"] for state_part in (state.average, state.segmenter))
    )
    file = tmp_path / "teacher.safetensors"
    assert export.main([str(workdir), f"--output={file}", "--average"]) == 0
    exported = open_description(open_weights(file))
    for found in (exported, open_run(workdir, average=True)):
        jax.tree.map(np.testing.assert_array_equal, found.variables, jax.device_get(state.average))
    image = np.random.default_rng(0).integers(0, 256, (*plain.SIZE, 3)).astype(np.uint8)
    _, teacher = Predictor(exported).with_confidence(image)
    _, student = Predictor(open_run(workdir)).with_confidence(image)
    assert teacher.shape == plain.SIZE
    assert np.abs(teacher - student).max() > 1e-6
