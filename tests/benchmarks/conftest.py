"""Runs with invented scores."""

import json

import pytest


@pytest.fixture
def finish():
    """Returns a function that writes the files of a finished training run."""

    def finish(run, score, average=None, others=None, **classes):
        run.folder.mkdir(parents=True)
        (run.folder / "config.json").write_text(run.config.to_json())
        scores = {
            "variant": run.variant,
            "step": run.config.steps,
            "class_iou": {"road": score, "car": None} | classes,
            "mean_iou": {"toy": score},
        }
        scores |= others or {}
        if average is not None:
            scores["average"] = {"mean_iou": {"toy": average}}
        (run.folder / "eval.json").write_text(json.dumps(scores))
        facts = {"cpu": "abacus", "cores": 2, "memory_gib": 1, "system": "wood", "python": "3", "devices": "cpu"}
        job = {"seconds": 60.0, "jobs": 2, "cores": 1, "machine": facts | {"packages": {"jax": "1.0"}}}
        (run.folder / "job.json").write_text(json.dumps(job))

    return finish
