"""A training step that computes something wrong does not train."""

import functools
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from ass_jax import ops
from ass_jax.runtime import compilation
from ass_jax.training import verification
from ass_jax.training.verification import DifferentError, verify_configuration
from configs import base
from tests.helpers import small_runs

ROOT = Path(__file__).parents[2]
OPTIONS = dict(compilation._STEP_OPTIONS_ON_CPU)
SIZES = {"source": (2, 33, 47, True), "labelled": (1, 33, 47, True), "unlabelled": (1, 33, 47, False)}


@pytest.fixture(autouse=True)
def small_backbone(monkeypatch):
    small_runs.shrink(monkeypatch)


def configuration(words="ass", **settings):
    config = base.get_config(f"{words},smoke")
    config.verify = "auto"
    config.data.source_size = config.data.target_size = SIZES["source"][1:3]
    config.update_from_flattened_dict(settings)
    return config


@pytest.fixture
def wrong_pool(monkeypatch):
    """Max pooling whose gradient is a little too small."""
    fast = ops._pooling.max_pool

    @functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
    def pool(x, side, padding):
        return fast(x, side, padding)

    def forward(x, side, padding):
        return jax.vjp(lambda x: fast(x, side, padding), x)

    pool.defvjp(forward, lambda side, padding, transpose, gradient: (0.95 * transpose(gradient)[0],))
    monkeypatch.setattr(ops, "max_pool", ops._either(pool, ops._reference.max_pool))


def test_a_right_step_agrees(monkeypatch):
    monkeypatch.setattr(compilation, "_STEP_OPTIONS_ON_CPU", OPTIONS)  # Those of a training.
    assert 0 < verify_configuration(configuration("ass_plus"), 5, SIZES) < 1e-3


def test_of_bfloat16_the_plain_step_says_what_rounding_does(monkeypatch):
    monkeypatch.setattr(compilation, "_STEP_OPTIONS_ON_CPU", OPTIONS)
    config = configuration("target_only", **{"model.dtype": "bfloat16"})
    assert 1e-3 < verify_configuration(config, 5, {"labelled": SIZES["labelled"]}) < 1


def test_a_wrong_gradient_is_told_with_sizes_and_remedies(wrong_pool):
    with pytest.raises(DifferentError) as caught:
        verify_configuration(configuration("target_only"), 5, {"labelled": SIZES["labelled"]})
    message = str(caught.value)
    for part in ("labelled 1x33x47x3", "stem/kernel", "ASS_JAX_OPS=reference", "verify=never"):
        assert part in message


def test_a_training_begins_with_it(tmp_path, capsys):
    config = small_runs.configuration("joint", verify="auto", steps=1)
    small_runs.run(config, tmp_path)
    assert "The first step agrees with plain operations: " in capsys.readouterr().out
    config.steps = 2
    small_runs.run(config, tmp_path)  # Goes on, and so has no first step.
    assert "The first step agrees" not in capsys.readouterr().out


def test_a_wrong_step_trains_nothing(tmp_path, wrong_pool):
    with pytest.raises(DifferentError, match="first training step differs"):
        small_runs.run(small_runs.configuration("joint", verify="auto", steps=1), tmp_path)
    assert not list((tmp_path / "checkpoints").glob("[0-9]*"))
    report, *_ = small_runs.run(small_runs.configuration("joint", steps=1), tmp_path)
    assert report["step"] == 1


def test_who_is_compared(monkeypatch):
    sizes = {"labelled": SIZES["labelled"]}
    assert verify_configuration(configuration("target_only", verify="never"), 5, sizes) is None
    large = configuration("target_only", **{"model.backbone": "resnet50"})
    assert verify_configuration(large, 5, sizes) is None
    monkeypatch.setattr(verification, "verify_step", lambda *_: 0.5)
    assert verify_configuration(configuration("target_only", verify="always"), 5, sizes) == 0.5
    with ops.form("reference"):  # There is nothing to compare.
        assert verify_configuration(configuration("target_only", verify="always"), 5, sizes) is None


def test_an_unknown_choice_is_refused():
    flags = ["--config=configs/toy.py", "--config.verify=often", "--mode=check"]
    result = subprocess.run([sys.executable, "main.py", *flags], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert "verify is 'often'; expected one of auto, always, never." in result.stderr
