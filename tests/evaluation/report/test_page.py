"""The numbers on a report, and that nothing from a file gets into its code."""

import json
import re

import numpy as np
import pytest

from ass_jax.evaluation.report.ladder import find_ladder, read_ladder
from ass_jax.evaluation.report.page import page, run_page
from ass_jax.evaluation.report.run import mean_speed, read_run, training_seconds
from configs.user_error import UserError
from tests.helpers.report_runs import HOSTILE, Page, record_of, write_run

LIMIT = 5_000_000  # Bytes of a page.
LADDER = {
    "config_file": "configs/toy.py",
    "subsets": ["toy"],
    "seeds": [0, 1],
    "variants": {
        "joint": {"by_seed": {"0": 0.5, "1": 0.25}, "mean_iou": {"toy": {"mean": 0.375, "deviation": 0.1768}}},
        "ass": {"by_seed": {"0": 0.625}, "mean_iou": {"toy": {"mean": 0.625, "deviation": None}}},
    },
    "differences": [
        {"of": "ass", "against": "joint", "by_seed": {"0": 0.125}, "mean": 0.125, "error": None, "positive": 1}
        | {"count": 1}
    ],
}


def test_numbers_of_a_run(tmp_path):
    folder = write_run(tmp_path / "run")
    found = Page(run_page(folder))
    # Of 32 pixels of road, 0 + 1 + 2 + 3 are taken for sky.
    assert found.cards == {
        "mIoU all, %": "40.6",
        "pixel accuracy, %": "81.2",
        "images scored": "4",
        "step of 40": "40",
        "images/s in training": "4.0",
        "training time, without evaluations": "1:20",  # 40 steps of 8 images, 4 a second.
    }
    rows = found.rows()
    assert rows["road"] == ["81.2", "89.7"]  # 26 / 32, and 2 * 26 / (2 * 26 + 6).
    assert rows["sky"] == ["0.0", "0.0"]
    assert rows["car"] == ["–", "–"]
    assert rows["mIoU all"] == ["40.6", ""]
    assert rows["loss.global_weight"] == ["0.5"]
    assert rows["working directory"] == [str(folder)]
    assert "jax" in rows["versions"][0]
    assert "Validation: step 40, the last one." in found.words
    # The two worst, the two best; the IoU of road in the images 1 to 3 is averaged with 0 of sky.
    shown = re.findall(r"town_(\d)\W+mIoU ([\d.]+) %", found.words)
    assert shown == [("3", "31.2"), ("2", "37.5"), ("0", "100.0"), ("1", "43.8")]
    assert len(found.links) == 4 * 4
    assert all(link.startswith(("data:image/jpeg;base64,", "data:image/png;base64,")) for link in found.links)


def test_page_of_a_run_that_has_only_begun(tmp_path):
    folder = write_run(tmp_path / "run", evaluated=False)
    (folder / "metrics.jsonl").unlink()
    found = Page(run_page(folder))
    assert found.cards == {"step of 40": "0"}
    assert "Nothing is scored yet." in found.words
    assert "No metrics are written yet." in found.words
    (folder / "config.json").unlink()
    (folder / "metrics.jsonl").write_text('{"step": 3, "loss/global": NaN}\n{"step": 4, "lo')
    found = Page(run_page(folder))
    assert found.cards == {"step": "3"}
    assert "metrics.jsonl: 1 damaged line left out." in found.words


def test_folder_of_no_run_is_named(tmp_path):
    with pytest.raises(UserError, match=r"expected the working directory of a run, .*; found neither\. Train first"):
        read_run(tmp_path)
    with pytest.raises(UserError, match="found no such folder"):
        read_run(tmp_path / "absent")


def test_damaged_files_are_named_and_left_out(tmp_path):
    folder = write_run(tmp_path / "run")
    record = json.loads((folder / "report.json").read_text())
    record["confusion"] = [[1, 2, 3], [4, 5, 6]]
    record["examples"][0]["panels"]["image"] = "https://example.org/picture.png"
    record["scores"]["class_iou"]["sky"] = HOSTILE
    record["scores"]["images"] = HOSTILE
    record["palette"] = [["red"], [1, 2, "3"], None]
    (folder / "report.json").write_text(json.dumps(record))
    (folder / "config.json").write_text('{"variant": "a')
    text = run_page(folder)
    found = Page(text)
    assert "config.json: it is not JSON, or is cut short" in found.words
    assert "its confusion matrix is left out" in found.words
    assert "example.org" not in text
    assert found.rows()["sky"] == ["–", "0.0"]
    (folder / "report.json").write_text("{")
    assert "Nothing is scored yet." in Page(run_page(folder)).words


def test_scores_of_an_older_version(tmp_path):
    folder = write_run(tmp_path / "run", evaluated=False)
    scores = {"step": 30, "split": "validation", "class_iou": {"road": 0.5, "car": None}, "mean_iou": {"all": 0.5}}
    (folder / "eval.json").write_text(json.dumps(scores))
    (folder / "eval_test.json").write_text(json.dumps(scores | {"step": 20, "class_iou": {"road": 0.25}}))
    rows = Page(run_page(folder)).rows()
    assert rows["IoU in %"] == ["validation", "test", "Dice, validation"]
    assert rows["road"] == ["50.0", "25.0", "–"]
    assert rows["car"] == ["–", "–", "–"]


def test_a_later_evaluation_keeps_the_images_per_step(tmp_path):
    folder = write_run(tmp_path / "run")
    record, scores = record_of(images=1)
    record.write(folder, scores | {"step": 30})
    found = json.loads((folder / "report.json").read_text())
    assert (found["images_per_step"], found["scores"]["step"]) == (8, 30)
    assert [example["name"] for example in found["examples"]] == ["town_0"]


def test_time_is_that_of_the_measured_steps(tmp_path):
    folder = write_run(tmp_path / "run")
    lines = [{"step": 10, "images_per_second": 8.0}, {"step": 20, "images_per_second": None}]
    lines.append({"step": 30, "images_per_second": 2.0})
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    run = read_run(folder)
    assert training_seconds(run) == 10 * 8 / 8 + 10 * 8 / 2
    assert mean_speed(run) == 160 / 50


def test_runs_side_by_side(tmp_path):
    first = write_run(tmp_path / "first", "joint", settings={"seed": 1})
    second = write_run(tmp_path / "second", "ass", steps=80, settings={"seed": 2})
    third = write_run(tmp_path / "third", "oracle", evaluated=False, settings={"seed": 2})
    text = page([read_run(folder) for folder in (first, second, third)])
    found = Page(text)
    # Dice by image: of road (1 + 14/15 + 12/14 + 10/13) / 4, of sky 0.
    assert found.tables[0][1:] == [
        ["joint", "40.6", "44.5", "81.2", "40", "4.0", "1:20"],
        ["ass", "40.6", "44.5", "81.2", "40", "4.0", "2:40"],
        ["oracle", "–", "–", "–", "40", "4.0", "–"],
    ]
    rows = found.rows()
    assert rows["road"] == ["81.2", "81.2"]
    assert rows["seed"] == ["1", "2", "2"]
    assert rows["steps"] == ["40", "80", "40"]
    assert "loss.global_weight" not in rows
    assert found.labels.count("oracle") == 3  # Curves of the loss, the mIoU and the speed.
    assert "3 runs side by side" in found.words
    # Scores first.
    titles = re.findall(r"<h3>(.*?)</h3>", text)
    assert titles == [
        "IoU by class in %",
        "Dice by class in %",
        "validation: mIoU all",
        "loss: global",
        "images per second",
    ]


def test_runs_of_one_variant_are_told_apart_by_folder(tmp_path):
    folders = [write_run(tmp_path / name, evaluated=False) for name in ("one", "two")]
    rows = Page(page([read_run(folder) for folder in folders])).rows()
    assert {str(folder) for folder in folders} <= rows.keys()


def test_ladder(tmp_path):
    (tmp_path / "ladder.json").write_text(json.dumps(LADDER))
    assert find_ladder(tmp_path) == find_ladder(tmp_path / "ladder.json") == tmp_path / "ladder.json"
    assert find_ladder(tmp_path / "other") is None
    found = Page(page([], [read_ladder(tmp_path / "ladder.json")]))
    assert found.tables[0][1:] == [["joint", "37.5", "17.7", "50.0", "25.0"], ["ass", "62.5", "–", "62.5", "–"]]
    assert found.tables[1][1:] == [["ass − joint", "+12.5", "–", "+12.5", "–", "1 of 1"]]
    assert found.labels == ["seed 0", "seed 1"]


def test_empty_ladder(tmp_path):
    (tmp_path / "ladder.json").write_text(json.dumps({"variants": {}, "seeds": [], "subsets": [], "differences": []}))
    assert Page(page([], [read_ladder(tmp_path / "ladder.json")])).tables[0] == [["variant", "mean", "deviation"]]


def test_nothing_from_files_gets_into_the_code(tmp_path):
    """Also not into the JSON of the figures, nor by names that no text file can hold."""
    names = (HOSTILE, '"><img src=x onerror=alert(2)>', "$$\\frac{1}{2}$$")
    folder = write_run(tmp_path / 'a"><b>&\udcff', f"ass{HOSTILE}", names=names, settings={HOSTILE: HOSTILE})
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 9, f"loss/{HOSTILE}": 1.0, HOSTILE: 2.0}))
    ladder = LADDER | {"variants": {HOSTILE: LADDER["variants"]["joint"]}, "seeds": [HOSTILE], "subsets": [HOSTILE]}
    (tmp_path / "ladder.json").write_text(json.dumps(ladder))
    ladders = [read_ladder(tmp_path / "ladder.json")]
    runs = [read_run(folder), read_run(write_run(tmp_path / "other", HOSTILE, names=names, evaluated=False))]
    for text in (page(runs[:1], ladders), page(runs, ladders)):
        found = Page(text)
        assert HOSTILE not in text
        assert HOSTILE in found.words
        assert HOSTILE in found.rows()
        assert found.elements.isdisjoint({"link", "iframe", "object", "a"})
        assert all(link.startswith("data:image/") for link in found.links)
        text.encode()
        figures = re.findall(r'<script type="application/json" id="item-\d+">(.*?)</script>', text)
        assert len(figures) == len(found.data)
        assert not any("<" in item for item in figures)
        assert any(HOSTILE in json.dumps(item) for item in found.data.values())


def test_policy_allows_the_scripts_of_the_page_alone(tmp_path):
    text = run_page(write_run(tmp_path / "run", evaluated=False))
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1].replace("&#39;", "'")
    assert policy.startswith("default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'sha256-")
    assert policy.count("sha256-") == text.count("<script>")
    assert re.findall(r"https?://(?!www\.w3\.org)", text.partition("/* BEGIN bokeh")[0]) == []


def test_a_long_run_fits_the_limit(tmp_path):
    """150,000 steps, a report every 50 steps, 20 metrics and the scores of 19 classes every 500 steps."""
    folder = write_run(tmp_path / "run")
    names = [f"loss/metric_{number}" for number in range(20)]
    of_classes = [f"validation{kind}_IoU/class_{number}" for kind in ("", "_average") for number in range(19)]
    draw = np.random.default_rng(0).random
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(50, 150_001, 50):
            found = dict(zip(names, draw(len(names)).tolist(), strict=True))
            if step % 500 == 0:
                found |= zip(of_classes, draw(len(of_classes)).tolist(), strict=True)
            file.write(json.dumps({"step": step} | found) + "\n")
    text = run_page(folder)
    assert len(text.encode()) < LIMIT
    # The curves are there, and thinned out.
    assert 350_000 < sum(len(json.dumps(item)) for item in Page(text).data.values()) < 500_000
    assert "Curves are thinned out to 1,500 points" in Page(text).words
