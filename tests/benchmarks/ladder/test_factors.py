"""The comparison of factors: which runs it plans, which scores it reads, and its intervals."""

import json

import pytest

from benchmarks.ladder import factors, trials
from configs._validate import validate


@pytest.fixture(autouse=True)
def in_project(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


EVERY = [f"ass+{factor}" for factor in trials.FACTORS]
EVERY += ["ass_plus+global=0", "adaptsegnet+global=0.1", "ass+labelled+binary+semantic=0.3"]


@pytest.mark.parametrize("bed", trials.BEDS)
@pytest.mark.parametrize("phase", ["choose", "judge"])
def test_every_factor_is_a_valid_configuration(bed, phase, tmp_path):
    for name in [*EVERY, trials.BEDS[bed].baseline, trials.BEDS[bed].baseline_plus]:
        run = factors.planned_runs(name, trials.BEDS[bed], phase, 8, [100], tmp_path, [])[0]
        validate(run.config)
        chosen = phase == "choose"
        assert run.config.data.labelled_count == 8 + run.config.data.held_out
        assert (run.config.data.held_out > 0) == (chosen and bed == "day_to_dusk")
        assert (run.config.data.toy.seed == 100) == (chosen and "toy" in (run.config.data.target,))
        assert (run.config.data.toy.label_shift == 1.0) == (bed == "label_shift")


def test_names_of_trials():
    assert trials.parse_trial("ass") == ("ass", ())
    settings = ("loss.semantic_unlabelled=False", "loss.semantic_weight=0.3", "loss.global_weight=0.0")
    assert trials.parse_trial("ass+labelled+semantic=0.3+global=0") == ("ass", settings)
    assert trials.baseline_of("ass+labelled", "label_shift") == "adaptsegnet+global=0.0003"
    assert trials.baseline_of("ass_plus+labelled", "streets") == "adaptsegnet_plus"
    for wrong, said in {
        "as": "variant 'as'",
        "ass+studnt": "factor 'studnt'",
        "ass+right=2": "factor 'right=2'",
    }.items():
        with pytest.raises(ValueError, match=f"unknown {said} in trial .*; valid: "):
            trials.parse_trial(wrong)


def test_interval_by_hand():
    """Differences 1, 2 and 3: mean 2, deviation 1, error 0.577; Student's t of 2 degrees of freedom is 4.303."""
    found = factors.interval([0.01, 0.02, 0.03])
    assert found["mean"] == pytest.approx(0.02)
    assert found["error"] == pytest.approx(0.005774, rel=1e-3)
    assert found["low"] == pytest.approx(0.02 - 4.3027 * 0.0057735, rel=1e-3)
    assert found["high"] == pytest.approx(0.02 + 4.3027 * 0.0057735, rel=1e-3)
    assert factors.interval([0.01]) is None


def finish(run, score, losses=(), held_out=None):
    """Writes what a finished run leaves; `losses` of its semantic discriminator after the first and second half."""
    run.folder.mkdir(parents=True)
    content = {"step": run.config.steps, "mean_iou": {"toy": score}}
    if held_out is not None:
        content["held_out"] = {"mean_iou": {"toy": held_out}}
    (run.folder / "eval.json").write_text(json.dumps(content))
    steps = (run.config.steps // 2, run.config.steps)
    lines = [{"step": step, "loss/semantic_discriminator": loss} for step, loss in zip(steps, losses, strict=False)]
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_result_of_a_run(tmp_path):
    one, two = factors.planned_runs("ass", trials.BEDS["streets"], "choose", 8, [1, 2], tmp_path, [])
    assert factors.result_of(one) is None
    finish(one, 0.5, losses=(0.9, 0.25))
    assert factors.result_of(one) == {"score": 0.5, "seconds": None, "losses": {"semantic": 0.25}}
    finish(two, 0.5, held_out=0.4)
    assert factors.result_of(two) == {"score": 0.4, "seconds": None, "losses": {}}


def test_gains_are_paired(tmp_path):
    """Seed 2 of the baseline is missing. What a file lists is read again as it was written."""
    scores = {"adaptsegnet": {1: 0.40, 3: 0.44}, "ass": {1: 0.43, 2: 0.50, 3: 0.45}}
    rows = {
        (name, 8): {seed: {"score": score, "seconds": 1.0, "losses": {"semantic": 0.7}} for seed, score in of.items()}
        for name, of in scores.items()
    }
    found = factors.summarise(rows, "streets", "choose")
    by_trial = {row["trial"]: row for row in found["rows"]}
    assert by_trial["ass"]["mean"] == pytest.approx(0.46)
    assert by_trial["ass"]["gain"]["mean"] == pytest.approx(0.02)  # (0.03 + 0.01) / 2.
    assert by_trial["ass"]["gain"]["count"] == 2
    assert by_trial["adaptsegnet"]["gain"] is None
    assert "| `ass` | 8 | 3 | 46.0 | +2.0 ± 1.0 | -10.7 to +14.7 | – / 0.70! |" in factors.table(found)
    (tmp_path / "factors.json").write_text(json.dumps(found))
    assert factors.read_rows(tmp_path / "factors.json") == rows


def test_only_what_is_missing_is_trained(tmp_path, monkeypatch, capsys):
    """Neither runs in the working directory nor those of a file are trained again; both are in the new file."""
    output, started = tmp_path / "results", []
    result = {"score": 0.4, "seconds": 1.0, "losses": {}}
    listed = factors.summarise({("adaptsegnet", 8): {1: result}, ("joint", 8): {7: result}}, "streets", "choose")
    output.mkdir()
    (output / "factors.json").write_text(json.dumps(listed))

    def train(runs, command, jobs):
        started.extend(map(str, runs))
        for run in runs:
            finish(run, 0.5)
        return []

    monkeypatch.setattr(factors, "train_missing", train)
    arguments = ["--bed=streets", "--phase=choose", "--trials=adaptsegnet,ass", f"--workdir={tmp_path / 'runs'}"]
    assert factors.main([*arguments, f"--output={output}", "--seeds=1,2"]) == 0
    assert started == ["ass seed 1", "adaptsegnet seed 2", "ass seed 2"]
    rows = factors.read_rows(output / "factors.json")
    assert {name: list(seeds) for (name, _), seeds in rows.items()} == {
        "adaptsegnet": [1, 2],
        "ass": [1, 2],
        "joint": [7],
    }
    assert rows["ass", 8][1]["score"] == 0.5
    assert "| `ass` | 8 | 2 | 50.0 | " in capsys.readouterr().out


def test_unknown_trial_is_named(capsys):
    with pytest.raises(SystemExit, match="2"):
        factors.main(["--bed=streets", "--phase=judge", "--trials=ass+labeled"])
    assert "unknown factor 'labeled'" in capsys.readouterr().err
