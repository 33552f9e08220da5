import json

import pytest
from PIL import Image

from benchmarks.common.runs import plan
from benchmarks.ladder.plot import save_plot
from benchmarks.ladder.report import markdown, refresh_readme, short_table
from benchmarks.ladder.statistics import summarise

# Scores by variant, then seed. Means: joint 0.50, ass 0.53, oracle 0.80.
SCORES = {"joint": (0.48, 0.50, 0.52), "ass": (0.50, 0.54, 0.55), "oracle": (0.80, 0.80, 0.80)}


@pytest.fixture
def runs(tmp_path, request, monkeypatch):
    monkeypatch.chdir(request.config.rootpath)
    return plan("configs/toy.py", [*SCORES], [0, 1, 2], [], tmp_path)


@pytest.fixture
def summary(runs, finish):
    for run in runs:
        finish(run, SCORES[run.variant][run.seed])
    return summarise(runs, "configs/toy.py", "THE COMMAND", [])


def test_mean_and_sample_deviation(summary):
    joint = summary["variants"]["joint"]
    # The squares of -0.02, 0 and 0.02 sum to 0.0008; over n - 1 = 2: 0.0004.
    assert joint["mean_iou"]["toy"] == pytest.approx({"mean": 0.50, "deviation": 0.02, "count": 3})
    assert joint["class_iou"]["road"] == pytest.approx({"mean": 0.50, "deviation": 0.02, "count": 3})
    assert joint["class_iou"]["car"] == {"mean": None, "deviation": None, "count": 0}
    assert joint["share_of_oracle"] == pytest.approx(0.625)


def test_differences_are_taken_seed_by_seed(summary):
    (difference,) = summary["differences"]
    assert (difference["of"], difference["against"]) == ("ass", "joint")
    assert difference["by_seed"] == pytest.approx({0: 0.02, 1: 0.04, 2: 0.03})
    assert difference["mean"] == pytest.approx(0.03)
    assert difference["deviation"] == pytest.approx(0.01)
    assert difference["error"] == pytest.approx(0.01 / 3**0.5)
    assert difference["positive"] == 3
    assert difference["class_iou"] == pytest.approx({"road": 0.03})


def test_report_shows_the_numbers(summary):
    text = markdown(summary)
    for line in (
        "| `joint` | 50.0 ± 2.0 | 48.0, 50.0, 52.0 | 62 % |",
        "| `oracle` | 80.0 ± 0.0 | 80.0, 80.0, 80.0 | 100 % |",
        "| `ass` − `joint` | +3.0 ± 1.0 | 0.6 | +2.0, +4.0, +3.0 | 3 of 3 |",
        "| `ass` | 53.0 | – |",
        "| `ass` − `joint` | +3.0 |",
        "| `ass` | 4 | 2 | 2 | 8 | 0.03 | 0.1 | – |",
        "| `oracle` | – | 6 | – | all | – | – | – |",
        "from 9 finished runs of 9",
        "`THE COMMAND`",
        "after step 1,500",
        "once in 8 ladders",
        "Generated images: 400 source, 150 target and 100 validation images of 64×128 pixels, scenes of seed 0",
        "python main.py --config=configs/toy.py:VARIANT --config.seed=SEED --config.data.labelled_seed=SEED --workdir",
        "- abacus, 2 core(s), 1 GiB of memory, wood; Python 3; jax 1.0; devices of JAX: cpu; 2 runs at a time",
    ):
        assert line in text, text
    for absent in ("Missing", "Settings changed", "teacher's mIoU", "Teacher: ", "Dice", "crops"):
        assert absent not in text


def test_runs_with_a_teacher_add_its_column(tmp_path, request, monkeypatch, finish):
    monkeypatch.chdir(request.config.rootpath)
    runs = plan("configs/toy.py", ["ass", "teacher", "ass_plus"], [0, 1], [], tmp_path)
    for run in runs:
        plus = run.variant != "ass"
        finish(run, 0.6 if plus else 0.5, average=0.62 + 0.02 * run.seed if plus else None)
    summary = summarise(runs, "configs/toy.py", "", [])
    assert summary["variants"]["ass_plus"]["average"] == pytest.approx(
        {"mean": 0.63, "deviation": 0.02**0.5 * 0.1, "count": 2}
    )
    text = markdown(summary)
    for line in (
        "| variant | mIoU toy | teacher's mIoU toy | seed 0, 1 | share of oracle |",
        "| `ass` | 50.0 ± 0.0 | – | 50.0, 50.0 | – |",
        "| `ass_plus` | 60.0 ± 0.0 | 63.0 ± 1.4 | 60.0, 60.0 | – |",
        "| `ass_plus` − `ass` | +10.0 ± 0.0 | 0.0 | +10.0, +10.0 | 2 of 2 |",
        "| `ass_plus` − `teacher` | +0.0 ± 0.0 | 0.0 | +0.0, +0.0 | 0 of 2 |",
        "| `teacher` | 4 | 2 | 2 | 8 | – | – | 1.0 |",
        "| `ass_plus` | 4 | 2 | 2 | 8 | 0.03 | 0.1 | 1.0 |",
        "Teacher: decay 0.99, cut regions, threshold 0.8, jitter 0.2, blur; labelled images drawn at rare-class "
        "temperature 0.01.",
    ):
        assert line in text, text
    assert "source + 8 labelled target images + global + semantic + teacher | 60.0" in short_table(summary)
    save_plot(summary, tmp_path / "ladder.png")


def test_rows_with_the_same_number_of_labelled_images_are_compared(tmp_path, request, monkeypatch, finish):
    monkeypatch.chdir(request.config.rootpath)
    scores = {"source_only": 0.3, "joint,4": 0.4, "joint,16": 0.5, "ass,4": 0.5, "ass,16": 0.525}
    runs = plan("configs/toy.py", [*scores], [0, 1], [], tmp_path)
    for run in runs:
        finish(run, scores[run.variant])
    summary = summarise(runs, "configs/toy.py", "", [])
    assert [(pair["of"], pair["against"]) for pair in summary["differences"]] == [
        ("ass,4", "joint,4"),
        ("ass,16", "joint,16"),
    ]
    text = markdown(summary)
    assert "| `ass,16` − `joint,16` | +2.5 ± 0.0 |" in text
    assert "| `joint,4` | 4 | 2 | – | 4 | – | – | – |" in text
    assert "| `joint,16` | source + 16 labelled target images | 50.0 ± 0.0 |" in short_table(summary)
    save_plot(summary, tmp_path / "ladder.png")


def test_scores_of_the_foreground_are_shown_where_there_is_a_background(tmp_path, request, monkeypatch, finish):
    monkeypatch.chdir(request.config.rootpath)
    runs = plan("configs/vessels.py", ["joint", "oracle"], [0, 1], [], tmp_path)
    for run in runs:
        dice = 0.7 + 0.02 * run.seed
        others = {"class_dice": {"background": 0.99, "vessel": dice}, "dice_by_image": dice - 0.1}
        finish(run, 0.5, others=others | {"sensitivity": 0.8, "specificity": None})
    summary = summarise(runs, "configs/vessels.py", "", [])
    # The sample deviation of two numbers is their difference over the square root of 2.
    dice = summary["variants"]["joint"]["foreground"]["Dice"]
    assert dice == pytest.approx({"mean": 0.71, "deviation": 0.02 / 2**0.5, "count": 2})
    text = markdown(summary)
    for line in (
        "seed 0, 1 | share of oracle | Dice | Dice by image | sensitivity | specificity |",
        "| `joint` | 50.0 ± 0.0 | 50.0, 50.0 | 100 % | 71.0 ± 1.4 | 61.0 ± 1.4 | 80.0 ± 0.0 | – |",
        "crops of ",
    ):
        assert line in text, text


def test_only_generated_domains_are_described(tmp_path, request, monkeypatch, finish):
    monkeypatch.chdir(request.config.rootpath)
    (run,) = plan("configs/streets_to_camvid.py", ["ass"], [0], ["--config.data.target_root=/mine"], tmp_path)
    finish(run, 0.5)
    text = markdown(summarise([run], "configs/streets_to_camvid.py", "", []))
    assert "Data: toy → camvid, scored on test, classes camvid9." in text
    assert "Generated images: 600 source images of 144×192 pixels" in text
    assert "/mine" not in text


def test_negative_difference_has_a_minus_sign(runs, finish):
    for run in runs:
        finish(run, {"joint": 0.6, "ass": 0.5875, "oracle": 0.8}[run.variant])
    text = markdown(summarise(runs, "configs/toy.py", "", []))
    assert "| `ass` − `joint` | −1.2 ± 0.0 | 0.0 | −1.2, −1.2, −1.2 | 0 of 3 |" in text


def test_unfinished_runs_are_named_and_left_out_of_the_differences(runs, finish):
    for run in runs:
        if str(run) not in ("ass seed 1", "oracle seed 0", "oracle seed 1", "oracle seed 2"):
            finish(run, SCORES[run.variant][run.seed])
    summary = summarise(runs, "configs/toy.py", "", ["--config.steps=1000"])
    assert summary["differences"][0]["by_seed"] == pytest.approx({0: 0.02, 2: 0.03})
    text = markdown(summary)
    assert "**Missing: oracle seed 0, ass seed 1, oracle seed 1, oracle seed 2.**" in text
    assert "from 5 finished runs of 9" in text
    assert "| `ass` | 52.5 ± 3.5 | 50.0, –, 55.0 | – |" in text
    assert "| `oracle` | – | –, –, – | – |\n" in text
    assert "`--config.steps=1000`" in text
    assert "Missing: oracle seed 0" in short_table(summary)


def test_one_seed_has_no_spread(tmp_path, request, monkeypatch, finish):
    monkeypatch.chdir(request.config.rootpath)
    runs = plan("configs/toy.py", ["joint", "ass"], [4], [], tmp_path)
    for run in runs:
        finish(run, 0.5)
    text = markdown(summarise(runs, "configs/toy.py", "", []))
    assert "| `ass` | 50.0 | 50.0 | – |" in text
    assert "One seed" in text


def test_report_needs_a_finished_run(runs):
    with pytest.raises(ValueError, match="No run has finished"):
        summarise(runs, "configs/toy.py", "", [])


def test_summary_is_json_without_paths(summary, tmp_path):
    assert str(tmp_path) not in json.dumps(summary, allow_nan=False)


def test_readme_is_refreshed_between_the_marks(summary, tmp_path):
    file = tmp_path / "README.md"
    file.write_text("before\n<!-- ladder -->\nold \\1\n<!-- /ladder -->\nafter\n")
    for _ in range(2):
        assert refresh_readme(file, short_table(summary))
    lines = file.read_text().splitlines()
    assert lines[:2] == ["before", "<!-- ladder -->"]
    assert lines[-2:] == ["<!-- /ladder -->", "after"]
    assert "| `ass` | source + 8 labelled target images + global + semantic | 53.0 ± 2.6 |" in lines
    assert "old" not in file.read_text()


def test_readme_without_marks_is_left_alone(tmp_path):
    (tmp_path / "README.md").write_text("text\n")
    assert not refresh_readme(tmp_path / "README.md", "table")
    assert not refresh_readme(tmp_path / "none.md", "table")
    assert (tmp_path / "README.md").read_text() == "text\n"


def test_plot_is_a_picture(summary, tmp_path):
    save_plot(summary, tmp_path / "ladder.png")
    with Image.open(tmp_path / "ladder.png") as picture:
        assert min(picture.size) > 300
        assert len(picture.convert("RGB").getcolors(100_000)) > 10
