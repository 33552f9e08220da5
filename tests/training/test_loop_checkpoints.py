"""Which checkpoint of a run is evaluated: the last, the selected or the best one."""

import json

import numpy as np
import pytest

from ass_jax.checkpoints.manager import Checkpoints
from ass_jax.evaluation.evaluate import evaluate
from ass_jax.runtime.workdir import CHECKPOINTS
from ass_jax.training import loop, validation
from configs.user_error import UserError
from tests.helpers import small_runs
from tests.helpers.small_runs import CLASSES, configuration, evaluation_batches, run, scores_of

small_backbone = small_runs.small_backbone


def test_evaluation_without_a_checkpoint_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match="Train first"):
        evaluate(configuration("joint"), class_table=CLASSES, evaluation_batches=evaluation_batches, workdir=tmp_path)


def test_unknown_checkpoint_choice_lists_the_valid_ones(tmp_path):
    config = configuration("joint", **{"evaluation.checkpoint": "newest"})
    with pytest.raises(UserError, match=r"'newest'.*last, selected, best"):
        evaluate(config, class_table=CLASSES, evaluation_batches=evaluation_batches, workdir=tmp_path)


def test_report_distinguishes_last_selected_and_best_checkpoints(tmp_path, monkeypatch, capsys):
    on_validation, on_held_out = iter([0.2, 0.9, 0.4, 0.3]), iter([0.1, 0.2, 0.8, 0.3])
    seen = []

    def score(variables, batches, **others):
        seen.append(sorted(others))
        return scores_of(next(on_held_out))

    def idle(state, batch, **others):
        return state.replace(step=state.step + 1), dict.fromkeys(
            ("loss/segmentation_source", "skipped"), 0.0 * state.step
        )

    monkeypatch.setattr(loop, "train_step", idle)
    monkeypatch.setattr(validation, "score_all", lambda *_, **__: scores_of(next(on_validation)))
    monkeypatch.setattr(validation, "score", score)
    config = configuration("joint", **{"steps": 4, "evaluation.every": 1, "checkpoint.keep": 1, "teacher.decay": 0.0})
    report, writer, _ = run(config, tmp_path, held_out_batches=lambda: evaluation_batches(1))
    assert seen == [["class_table", "mesh", "step", "volumes"]] * 4

    # The report has the last checkpoint's scores on top, then all three with step and choice.
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

    # Each of them can be evaluated.
    for choice, step in {"last": 4, "selected": 3, "best": 2}.items():
        config.evaluation.checkpoint = choice
        again = evaluate(config, class_table=CLASSES, evaluation_batches=evaluation_batches, workdir=tmp_path)
        assert again["step"] == step
        assert again["checkpoints"] == found


def test_dice_by_image_chooses_the_checkpoints(tmp_path, monkeypatch):
    """The mean IoU falls from step to step; the Dice by image does not."""
    ious, dices, held_out = iter([0.9, 0.8, 0.7, 0.6]), iter([0.1, 0.2, 0.7, 0.3]), iter([0.2, 0.8, 0.1, 0.3])

    def idle(state, batch, **others):
        return state.replace(step=state.step + 1), dict.fromkeys(
            ("loss/segmentation_source", "skipped"), 0.0 * state.step
        )

    monkeypatch.setattr(loop, "train_step", idle)
    monkeypatch.setattr(validation, "score_all", lambda *_, **__: scores_of(next(ious), dice_by_image=next(dices)))
    monkeypatch.setattr(validation, "score", lambda *_, **__: scores_of(0.5, dice_by_image=next(held_out)))
    settings = {"steps": 4, "evaluation.every": 1, "checkpoint.keep": 1, "teacher.decay": 0.0}
    config = configuration("joint", **settings, **{"checkpoint.metric": "dice_by_image"})
    report, writer, _ = run(config, tmp_path, held_out_batches=lambda: evaluation_batches(1))
    steps = {"last": 4, "selected": 2, "best on validation": 3}
    assert {name: entry["step"] for name, entry in report["checkpoints"].items()} == steps
    assert writer.scalars[3]["validation/dice_by_image"] == 0.7
    assert writer.scalars[2]["held_out/dice_by_image"] == 0.8
    for choice, step in zip(("last", "selected", "best"), steps.values(), strict=True):
        config = configuration("joint", **{"teacher.decay": 0.0, "evaluation.checkpoint": choice})
        assert config.checkpoint.metric == "mean_iou"  # The training's counts.
        again = evaluate(config, class_table=CLASSES, evaluation_batches=evaluation_batches, workdir=tmp_path)
        assert again["step"] == step
        assert again["images"] == 3


def test_run_without_held_out_images_has_nothing_selected(tmp_path):
    with Checkpoints(tmp_path / CHECKPOINTS) as checkpoints:
        checkpoints.save(1, {"step": np.array(1)}, {"mIoU": 0.5}, {})
    config = configuration("joint", **{"evaluation.checkpoint": "selected"})
    with pytest.raises(UserError, match=r"held no images out.*--config\.data\.held_out=COUNT"):
        evaluate(config, class_table=CLASSES, evaluation_batches=evaluation_batches, workdir=tmp_path)
