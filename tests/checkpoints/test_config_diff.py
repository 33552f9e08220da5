"""Differences between the settings of a checkpoint and of the run that resumes from it."""

import json

import pytest

from ass_jax.checkpoints import config_diff
from configs import base, toy


def kept(config, labelled=None):
    return config.to_dict() | {"labelled": labelled}


def as_json(value):
    return json.loads(json.dumps(value))


def test_tuples_equal_the_lists_of_json():
    assert config_diff.training_differences(as_json(kept(toy.get_config())), kept(toy.get_config())) == []


def test_harmless_keys_exist():
    tops = {key.split(".")[0] for key in config_diff.HARMLESS} - {"labelled"}
    config = base.default_config()
    assert tops <= set(config)
    for key in config_diff.HARMLESS:
        if key.startswith("data."):
            assert key.removeprefix("data.") in config.data


def test_keys_that_matter_to_scores_exist_and_are_found():
    config = base.default_config()
    everything = config.to_dict()
    for key in config_diff.SCORING:
        *groups, last = key.split(".")
        group = everything
        for name in groups:
            group = group[name]
        assert last in group
    changed = toy.get_config()
    changed.update(variant="joint", seed=5)
    changed.loss.semantic_weight = 0.5
    changed.optimizer.learning_rate = 0.5
    changed.evaluation.update(every=1, flip=True, batch=3)
    changed.data.target_size = (32, 64)
    found = config_diff.scoring_differences(as_json(kept(toy.get_config(), {"list": "one"})), changed.to_dict())
    assert config_diff.format_differences(found).splitlines() == [
        "",
        "  data.target_size: checkpoint [64, 128], now [32, 64]",
        "  evaluation.flip: checkpoint false, now true",
        '  variant: checkpoint "ass", now "joint"',
    ]


def test_harmless_keys_do_not_count():
    config = toy.get_config()
    there = as_json(kept(config, {"list": "one", "sha256": "0a"}))
    config.steps *= 2
    config.log_every += 1
    config.resume_with_changes = True
    config.evaluation.update(every=7, batch=3)
    config.checkpoint.update(every=7, keep=1)
    config.data.update(directory="elsewhere", readers=2, prefetch=1, decoded_memory=0)
    config.data.update(source_root="moved", target_root="moved", trust_raw_ids=True)
    assert config_diff.training_differences(there, kept(config, {"list": "other words", "sha256": "0a"})) == []


def test_differences_are_listed_and_refused_unless_allowed(capsys):
    config = toy.get_config()
    there = as_json(kept(config, {"list": "one", "sha256": "0a"}))
    del there["seed"]
    there["gone"] = 1
    config.optimizer.learning_rate = 0.5
    config.data.source_size = (32, 64)
    expected = """The settings differ from those of checkpoint 7 in here:
  data.source_size: checkpoint [64, 128], now [32, 64]
  gone: checkpoint 1, now absent
  labelled.sha256: checkpoint "0a", now "0b"
  optimizer.learning_rate: checkpoint 0.06, now 0.5
  seed: checkpoint absent, now 0
"""
    here = kept(config, {"list": "one", "sha256": "0b"})
    with pytest.raises(config_diff.ChangedError) as error:
        config_diff.expect_same_configuration("here", 7, there, here, allow_changes=False)
    assert str(error.value).startswith(expected)
    assert "--config.resume_with_changes" in str(error.value)
    config_diff.expect_same_configuration("here", 7, there, here, allow_changes=True)
    assert capsys.readouterr().out.startswith(expected)
