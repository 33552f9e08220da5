import json

import pytest

from benchmarks.common.runs import load_config, plan
from configs._variants import VARIANTS

TOY = "configs/toy.py"


@pytest.fixture(autouse=True)
def in_root(request, monkeypatch):
    monkeypatch.chdir(request.config.rootpath)


def one(tmp_path, variant="ass", overrides=()):
    return plan(TOY, [variant], [7], overrides, tmp_path)[0]


def test_all_variants_of_a_seed_come_before_the_next_seed(tmp_path):
    runs = plan(TOY, ["joint", "ass"], [0, 1], [], tmp_path)
    assert [(run.variant, run.seed) for run in runs] == [("joint", 0), ("ass", 0), ("joint", 1), ("ass", 1)]
    assert len({run.folder for run in runs}) == 4


def test_command_line_of_a_run(tmp_path):
    run = one(tmp_path, overrides=["--config.steps=5"])
    assert run.arguments == (
        "--config=configs/toy.py:ass",
        "--config.seed=7",
        "--config.data.labelled_seed=7",
        "--config.steps=5",
        f"--workdir={tmp_path}/ass_seed7",
    )
    assert (run.config.seed, run.config.data.labelled_seed, run.config.steps) == (7, 7, 5)


def test_number_of_labelled_images_follows_the_variant(tmp_path):
    run = one(tmp_path, "joint,3")
    assert run.arguments[0] == "--config=configs/toy.py:joint,3"
    assert (run.config.variant, run.config.data.labelled_count) == ("joint", 3)
    assert (run.folder.name, str(run)) == ("joint_3_seed7", "joint,3 seed 7")


def test_extra_words_follow_the_variant(tmp_path):
    run = plan(f"{TOY}:smoke", ["joint"], [0], [], tmp_path)[0]
    assert run.arguments[0] == "--config=configs/toy.py:joint,smoke"
    assert run.config.steps == 6


def test_override_does_not_switch_on_what_a_variant_leaves_out(tmp_path):
    overrides = ["--config.loss.semantic_weight=0.5", "--config.data.labelled_count=16", "--config.teacher.decay=0.9"]
    runs = {run.variant: run for run in plan(TOY, list(VARIANTS), [0], overrides, tmp_path)}
    weights = {name: run.config.loss.semantic_weight for name, run in runs.items()}
    semantic = {"semantic", "ass", "ass_plus", "ass_all"}
    assert {name for name, weight in weights.items() if weight == 0.5} == semantic
    assert {name for name, weight in weights.items() if weight == 0} == set(VARIANTS) - semantic
    decays = {name: run.config.teacher.decay for name, run in runs.items()}
    assert {name for name, decay in decays.items() if decay == 0.9} == {
        "target_teacher",
        "teacher",
        "adaptsegnet_plus",
        "ass_plus",
    }
    assert {decay for decay in decays.values() if decay != 0.9} == {0.0}
    assert "--config.loss.semantic_weight=0.5" not in runs["joint"].arguments
    assert runs["joint"].config.data.labelled_count == 16
    assert runs["oracle"].config.data.labelled_count == -1


def test_override_that_makes_the_comparison_unfair_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="labelled images a step"):
        plan(TOY, ["source_only", "ass"], [0], ["--config.data.batch.source=8"], tmp_path)


@pytest.mark.parametrize(
    ("config", "override", "message"),
    [
        ("configs/tyo.py", "--config.steps=5", "no configuration file 'configs/tyo.py'"),
        (f"{TOY}:smok", "--config.steps=5", "smok"),
        (TOY, "--config.stebs=5", "stebs"),
        (TOY, "--config.steps=many", "many"),
        (TOY, "--config.data.readers=0", "data.readers is 0"),
    ],
)
def test_wrong_setting_is_a_value_error(tmp_path, config, override, message):
    with pytest.raises(ValueError, match=message):
        plan(config, ["ass"], [0], [override], tmp_path)


def test_scores_count_only_after_the_last_step(tmp_path, finish):
    run = one(tmp_path)
    assert run.scores() is None
    finish(run, 0.5)
    assert run.scores()["mean_iou"] == {"toy": 0.5}
    for text in (json.dumps({"step": run.config.steps - 1}), '{"step": 10'):
        (run.folder / "eval.json").write_text(text)
        assert run.scores() is None


def test_folder_with_other_settings_is_a_conflict(tmp_path, finish):
    run = one(tmp_path)
    assert run.conflict() == ""
    finish(run, 0.5)
    assert run.conflict() == ""
    found = json.loads(run.config.to_json())
    found["data"].update(directory="elsewhere", source_root="there", target_root="there")
    (run.folder / "config.json").write_text(json.dumps(found))
    assert run.conflict() == ""
    found["loss"]["global_weight"] = 0.25
    (run.folder / "config.json").write_text(json.dumps(found))
    assert run.conflict() == f"{run.folder}: loss.global_weight 0.25 there, 0.03 here."
    (run.folder / "config.json").unlink()
    assert "without config.json" in run.conflict()


def test_configuration_follows_the_command_line():
    config = load_config(f"{TOY}:joint", ["--config.data.source_size=(32, 64)", "--config.augment.flip"])
    assert (config.variant, config.data.source_size, config.augment.flip) == ("joint", (32, 64), True)
