import json

import pytest

from ass_jax.evaluation.compare_runs import compare_runs
from configs.user_error import UserError


def run(folder, variant, road, mean):
    folder.mkdir()
    scores = {
        "variant": variant,
        "step": 9,
        "class_iou": {"road": road, "car": None},
        "mean_iou": {"toy": mean},
    }
    (folder / "eval.json").write_text(json.dumps(scores))
    return folder


def test_table_has_a_column_per_run_and_names_pictures(tmp_path):
    runs = [run(tmp_path / "one", "source_only", 0.5, 0.5), run(tmp_path / "two", "ass", 0.625, 0.6249)]
    (runs[1] / "predictions.png").touch()
    lines = compare_runs(runs).splitlines()
    assert lines[0].split() == ["IoU", "in", "%", "source_only", "ass"]
    assert ["road", "50.0", "62.5"] in [line.split() for line in lines]
    assert ["mIoU", "toy", "50.0", "62.5"] in [line.split() for line in lines]
    assert lines[-1] == f"Picture: {runs[1] / 'predictions.png'}"
    assert "one/predictions.png" not in lines[-2]


def test_scores_by_image_stand_beside_runs_without_them(tmp_path):
    runs = [run(tmp_path / "old", "source_only", 0.5, 0.5), run(tmp_path / "new", "ass", 0.6, 0.6)]
    scores = json.loads((runs[1] / "eval.json").read_text())
    scores |= {"dice_by_image": 0.75, "dice_by_image_interval": [0.7, 0.8], "images": 9, "images_left_out": 1}
    (runs[1] / "eval.json").write_text(json.dumps(scores))
    lines = [line.split() for line in compare_runs(runs).splitlines()]
    assert lines[-3:] == [
        ["Dice", "by", "image", "–", "75.0", "(70.0–80.0)"],
        ["images", "–", "9"],
        ["images", "left", "out", "–", "1"],
    ]


def test_runs_of_one_variant_are_told_apart_by_folder(tmp_path):
    runs = [run(tmp_path / "one", "ass", 0.5, 0.5), run(tmp_path / "two", "ass", 0.6, 0.6)]
    heading = compare_runs(runs).splitlines()[0]
    assert all(str(folder) in heading for folder in runs)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"variant": "ass", "class', "it is not JSON, or is cut short"),
        ("", "it is not JSON, or is cut short"),
        ("[" * 100_000, "it is not JSON, or is cut short"),
        ("[1]", r"expected JSON of type dict, found \[1\]"),
        ('{"variant": "ass", "class_iou": {}}', "expected mean_iou of type dict, found nothing"),
        ('{"variant": "ass", "class_iou": 3, "mean_iou": {}}', "expected class_iou of type dict, found 3"),
        ("\udcff", "it cannot be read"),
    ],
)
def test_invalid_score_files_are_named(tmp_path, text, message):
    runs = [run(tmp_path / "one", "ass", 0.5, 0.5), run(tmp_path / "two", "ass", 0.6, 0.6)]
    (runs[1] / "eval.json").write_text(text, errors="surrogateescape")
    with pytest.raises(UserError, match=rf"two/eval\.json: {message}"):
        compare_runs(runs)


def test_run_without_scores_is_named(tmp_path):
    with pytest.raises(UserError, match=r"one has no eval\.json"):
        compare_runs([tmp_path / "one"])
