"""Checks that a checkpoint gives back what was saved and that the right ones are kept."""

import json
import logging
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ass_jax.checkpoints.manager import Checkpoints
from tests.helpers.small_states import CONFIGURATION, assert_identical, make_state, steps_on_disk

NAN = float("nan")


@pytest.mark.parametrize("with_average", [True, False])
@pytest.mark.parametrize("abstract", [True, False])
def test_restores_every_bit(tmp_path, with_average, abstract):
    state = make_state(1, with_average=with_average)
    target = make_state(2, with_average=with_average)
    with Checkpoints(tmp_path / "new" / "folder") as checkpoints:
        checkpoints.save(1, state, None, CONFIGURATION)
        restored = checkpoints.restore(jax.eval_shape(lambda: target) if abstract else target)
    assert_identical(restored, state)


def test_restores_any_step_after_reopening(tmp_path):
    states = {step: make_state(step) for step in (3, 7)}
    with Checkpoints(tmp_path, keep_latest=2) as checkpoints:
        for step, state in states.items():
            checkpoints.save(step, state, {"mIoU": 0.5}, {**CONFIGURATION, "seed": step})
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.latest_step() == 7
        assert_identical(checkpoints.restore(states[3]), states[7])
        assert_identical(checkpoints.restore(states[7], step=3), states[3])
        assert checkpoints.configuration(3) == json.loads(json.dumps({**CONFIGURATION, "seed": 3}))
        assert checkpoints.configuration()["seed"] == 7


def test_state_may_be_donated_while_it_is_written(tmp_path):
    state = {"kernel": jax.random.normal(jax.random.key(0), (2_000_000,)), "step": jnp.int32(3)}
    expected = jax.tree.map(np.array, state)
    overwrite = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf * 0 + 7, tree), donate_argnums=0)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, None, {})
        for _ in range(3):
            state = overwrite(state)
        assert_identical(checkpoints.restore(state), expected)


@pytest.mark.parametrize("saved_on", [1, 4])
def test_restores_onto_other_devices(tmp_path, saved_on):
    meshes = {
        count: NamedSharding(jax.sharding.Mesh(jax.devices()[:count], ("data",)), PartitionSpec())
        for count in (1, 2, 4)
    }
    state = make_state()
    target = jax.eval_shape(lambda: state)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, jax.device_put(state, meshes[saved_on]), None, CONFIGURATION)
        for sharding in meshes.values():
            placed = jax.tree.map(
                lambda leaf, sharding=sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), target
            )
            restored = checkpoints.restore(placed)
            assert_identical(restored, state)
            assert all(leaf.sharding == sharding for leaf in jax.tree.leaves(restored))
            variables = checkpoints.restore_segmenter(placed.segmenter)
            assert all(leaf.sharding == sharding for leaf in jax.tree.leaves(variables))


def test_segmenter_is_restored_alone(tmp_path):
    state = make_state(5)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, state, None, CONFIGURATION)
        target = make_state(6).segmenter
        assert_identical(checkpoints.restore_segmenter(target), state.segmenter)
        assert_identical(checkpoints.restore_segmenter(target, step=2, average=True), state.average)


def test_segmenter_is_restored_with_the_statistics_of_the_source(tmp_path):
    state = make_state(5)
    own = state.replace(source_stats=make_state(7).batch_stats)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, state, None, CONFIGURATION)
        checkpoints.save(3, own, None, CONFIGURATION)
        target = make_state(6).segmenter
        found = checkpoints.restore_segmenter(target, source=True)
        assert_identical(found, state.segmenter | {"batch_stats": own.source_stats})
        assert_identical(checkpoints.restore_segmenter(target), state.segmenter)
        # Without separate ones, those that all images have moved.
        assert_identical(checkpoints.restore_segmenter(target, 2, source=True), state.segmenter)


def test_segmenter_without_batch_norm_or_average(tmp_path):
    state = make_state(with_average=False).replace(batch_stats={})
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, state, None, CONFIGURATION)
        assert_identical(checkpoints.restore_segmenter(state.segmenter), state.segmenter)
        with pytest.raises(ValueError, match=r"Checkpoint 2 in .* has no moving average: teacher.decay is 0 there\."):
            checkpoints.restore_segmenter(state.segmenter, average=True)


@pytest.mark.parametrize(
    ("scores", "keep", "kept", "best"),
    [
        ([0.1, 0.9, 0.3, 0.4, 0.5], 2, [2, 4, 5], 2),
        ([0.1, 0.2, 0.3, 0.4, 0.5], 2, [4, 5], 5),
        ([0.9, 0.9, 0.3, 0.4], 1, [2, 4], 2),
        ([0.9, NAN, 0.3, NAN], 1, [1, 4], 1),
        ([NAN, NAN, NAN], 1, [3], None),
        (["missing", 0.2, "missing", None, NAN], 2, [2, 4, 5], 2),
        (["none", float("inf"), "none", "none"], 2, [3, 4], None),
        ([0.0, -1.0, -2.0], 1, [1, 3], 1),
    ],
)
def test_latest_and_best_are_kept(tmp_path, scores, keep, kept, best):
    metrics = [
        None if score == "none" else {} if score == "missing" else {"mIoU": score, "loss": 1} for score in scores
    ]
    with Checkpoints(tmp_path, keep_latest=keep) as checkpoints:
        for step, values in enumerate(metrics, start=1):
            checkpoints.save(step, {"step": jnp.int32(step)}, values, {})
            assert checkpoints.latest_step() == step
        assert checkpoints.best_step() == best
    assert steps_on_disk(tmp_path) == kept
    with Checkpoints(tmp_path, keep_latest=keep) as checkpoints:
        assert (checkpoints.latest_step(), checkpoints.best_step()) == (kept[-1], best)
        assert int(checkpoints.restore({"step": jnp.int32(0)}, best)["step"]) == (best or kept[-1])


def test_random_runs_with_restarts_keep_latest_and_best(tmp_path):
    draw = random.Random(0)
    for run in range(4):
        directory, scores = tmp_path / str(run), {}
        keep = draw.randint(1, 3)
        for _ in range(2):
            with Checkpoints(directory, keep_latest=keep, best_metrics=("score",)) as checkpoints:
                for _ in range(draw.randint(1, 4)):
                    score = draw.choice([NAN, None, draw.random(), draw.random()])
                    step = (checkpoints.latest_step() or 0) + draw.randint(1, 3)
                    scores[step] = -1.0 if score is None or score != score else score
                    checkpoints.save(step, {"step": jnp.int32(step)}, {"score": score}, {})
            best = max(scores, key=lambda step: (scores[step], step))
            assert steps_on_disk(directory) == sorted({*list(scores)[-keep:], best})
            scores = {step: scores[step] for step in steps_on_disk(directory)}


def test_best_of_every_metric_is_kept(tmp_path):
    scores = [(0.3, 0.1), (0.9, 0.2), (0.4, 0.8), (0.1, None), (0.5, 0.3), (0.2, 0.1)]
    rankings = ("selection_mIoU", "mIoU")
    with Checkpoints(tmp_path, keep_latest=1, best_metrics=rankings) as checkpoints:
        for step, (validation, selection) in enumerate(scores, start=1):
            metrics = {"mIoU": validation, "selection_mIoU": selection, "report": {"mean_iou": {"19": validation}}}
            checkpoints.save(step, {"step": jnp.int32(step)}, metrics, {})
    assert steps_on_disk(tmp_path) == [2, 3, 6]
    with Checkpoints(tmp_path, read_only=True, best_metrics=rankings) as checkpoints:
        assert [checkpoints.best_step(metric) for metric in ("mIoU", "selection_mIoU", "other")] == [2, 3, None]
        assert checkpoints.best_step() == 3
        assert checkpoints.metrics(3)["report"] == {"mean_iou": {"19": 0.4}}


def test_missing_metric_keeps_nothing(tmp_path):
    with Checkpoints(tmp_path, keep_latest=1, best_metrics=("selection_mIoU", "mIoU")) as checkpoints:
        for step, score in enumerate((0.1, 0.9, 0.4, 0.3), start=1):
            checkpoints.save(step, {"step": jnp.int32(step)}, {"mIoU": score}, {})
        assert checkpoints.best_step("selection_mIoU") is None
        assert checkpoints.best_step("mIoU") == 2
    assert steps_on_disk(tmp_path) == [2, 4]


def test_metrics_are_plain_json(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"step": jnp.int32(1)}, {"mIoU": np.float32(0.5), "loss": NAN, "list": (1, 2)}, {})
        assert checkpoints.metrics() == {"mIoU": 0.5, "loss": None, "list": [1, 2]}


def test_progress_is_not_logged(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="absl"), Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"step": jnp.int32(1)}, None, {})
        checkpoints.restore({"step": jnp.int32(1)})
        logging.getLogger("absl").info("a message of ours")
    information = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert information == ["a message of ours"]
