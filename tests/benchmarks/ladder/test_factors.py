"""The comparison of factors: which runs it plans, which scores it reads, and its intervals."""

import json

import pytest

from benchmarks.ladder import factors
from configs._validate import validate


@pytest.fixture(autouse=True)
def in_project(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


@pytest.mark.parametrize("bed", factors.BEDS)
@pytest.mark.parametrize("phase", ["choose", "judge"])
def test_every_trial_is_a_valid_configuration(bed, phase, tmp_path):
    for name in factors.TRIALS:
        run = factors.planned_runs(name, factors.BEDS[bed], phase, 8, [100], tmp_path, [])[0]
        validate(run.config)
        chosen = phase == "choose"
        assert run.config.data.labelled_count == 8 + run.config.data.held_out
        assert (run.config.data.held_out > 0) == (chosen and bed == "day_to_dusk")
        assert (run.config.data.toy.seed == 100) == (chosen and "toy" in (run.config.data.target,))
        assert (run.config.data.toy.label_shift == 1.0) == (bed == "label_shift")


def test_interval_by_hand():
    """Differences 1, 2 and 3: mean 2, deviation 1, error 0.577; Student's t of 2 degrees of freedom is 4.303."""
    found = factors.interval([0.01, 0.02, 0.03])
    assert found["mean"] == pytest.approx(0.02)
    assert found["error"] == pytest.approx(0.005774, rel=1e-3)
    assert found["low"] == pytest.approx(0.02 - 4.3027 * 0.0057735, rel=1e-3)
    assert found["high"] == pytest.approx(0.02 + 4.3027 * 0.0057735, rel=1e-3)
    assert factors.interval([0.01]) is None


def test_gains_are_paired_and_held_out_scores_count(tmp_path):
    """Seed 2 of the baseline has not finished; held-out images are read where there are some."""
    scores = {"adaptsegnet": {1: 0.40, 2: None, 3: 0.44}, "ass": {1: 0.43, 2: 0.50, 3: 0.45}}
    planned = {}
    for name, of_seed in scores.items():
        runs = factors.planned_runs(name, factors.BEDS["streets"], "choose", 8, list(of_seed), tmp_path / name, [])
        for run in runs:
            if of_seed[run.seed] is not None:
                run.folder.mkdir(parents=True)
                content = {"step": run.config.steps, "mean_iou": {"toy": 0.9}}
                content["held_out"] = {"mean_iou": {"toy": of_seed[run.seed]}}
                (run.folder / "eval.json").write_text(json.dumps(content))
        planned[name, 8] = runs
    found = factors.summarise(planned, "streets", "choose", [1, 2, 3])
    by_trial = {row["trial"]: row for row in found["rows"]}
    assert by_trial["adaptsegnet"]["scores"] == scores["adaptsegnet"]
    assert by_trial["ass"]["mean"] == pytest.approx(0.46)
    assert by_trial["ass"]["gain"]["mean"] == pytest.approx(0.02)  # (0.03 + 0.01) / 2.
    assert by_trial["ass"]["gain"]["count"] == 2
    assert by_trial["adaptsegnet"]["gain"] is None
    assert "| `ass` | 8 | 3 | 46.0 | +2.0 ± 1.0 | -10.7 to +14.7 |" in factors.table(found)
