"""Runs of a small network on random batches, for tests of the loop."""

import functools
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from ass_jax.checkpoints.manager import Checkpoints
from ass_jax.evaluation import metrics
from ass_jax.method.optimizers import make_optimizer
from ass_jax.method.state import create_state
from ass_jax.models import build_networks, deeplab
from ass_jax.runtime import compilation
from ass_jax.runtime.sharding import make_mesh, on_mesh
from ass_jax.runtime.workdir import CHECKPOINTS
from ass_jax.training import loop
from configs import base
from tests.helpers import quick_compilation

SIZE = (32, 64)
CHOICE = {"list": "made up, 2 images", "sha256": "0a1b"}
CLASSES = SimpleNamespace(
    names=("road", "sky", "car"),
    palette=np.array([[128, 64, 128], [70, 130, 180], [0, 0, 142]], np.uint8),
    subsets={"all": (0, 1, 2), "two": (0, 1)},
    raw_ids=None,
    others=(),
)


def shrink(patch):
    """Makes the small backbone smaller still, and compiles steps quickly."""
    tiny = functools.partial(deeplab._resnet, stage_sizes=(1, 1, 1, 1), block="basic", width=4, stem_width=4)
    patch.setitem(deeplab.BACKBONES, "resnet_tiny", tiny)
    for option, value in quick_compilation.OPTIONS.items():
        patch.setitem(compilation._STEP_OPTIONS_ON_CPU, option, value)


@pytest.fixture(autouse=True)
def small_backbone(monkeypatch):
    shrink(monkeypatch)


def configuration(words="ass", **settings):
    config = base.default_config()
    config.data.batch.update(source=2, labelled=2, unlabelled=2)
    base.finish(config, words + ",smoke")
    config.data.source_size = config.data.target_size = SIZE
    config.model.branches = 1
    config.teacher.decay = 0.9
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


def run(config, workdir, training=None, evaluation=evaluation_batches, **others):
    """Trains; returns the report, the writer and the steps whose batches were read.

    `training` returns the batches from a step on, and `others` are further attributes of `TrainingData`.
    """
    writer, read = Writer(), []
    data = loop.TrainingData(
        training_batches=training or (lambda start: training_batches(config, start, read)),
        evaluation_batches=evaluation,
        labelled=CHOICE,
        **others,
    )
    report = loop.train(config, data, class_table=CLASSES, writer=writer, workdir=workdir)
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


def scores_of(rate, **others):
    """Returns a report in which every class has the IoU `rate`, with other scores."""
    confusion = np.diag([round(200 * rate / (1 + rate))] * 3)
    wrong = 100 - confusion[0, 0]
    confusion = confusion + wrong * np.roll(np.eye(3, dtype=int), 1, axis=1)
    return metrics.report(confusion, CLASSES.names, CLASSES.subsets) | others
