"""Hostile checkpoints and configurations: nothing in them is run, and no name in them leads out of their folder."""

import contextlib
import json
import pickle
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest

from ass_jax.checkpoints.integrity import DamagedError
from ass_jax.checkpoints.manager import Checkpoints
from ass_jax.weights.trained_model import open_run
from tests.weights.test_files import Marker
from tests.weights.test_trained_model import run  # noqa: F401 (a fixture)

STATE = {"params": {"segmenter": {"kernel": jnp.ones(300)}}, "batch_stats": {}, "step": jnp.int32(1)}
DANGEROUS = ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "marshal.loads")
ODD_NAMES = ("²", "７", "007", "-1", "+3", "1e3", "..", "...", "3 ", "\x1b[31m4")
_watched: list[str] = []
sys.addaudithook(lambda event, _: _watched.append(event) if event in DANGEROUS else None)  # Hooks cannot be removed.


@pytest.fixture
def saved(tmp_path):
    with Checkpoints(tmp_path / "run") as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, STATE, {"mIoU": 0.5}, {"seed": step})
    return tmp_path / "run"


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_reading_a_checkpoint_unpickles_and_starts_nothing(saved):
    with Checkpoints(saved, read_only=True) as checkpoints:
        _watched.clear()
        checkpoints.restore(STATE, 2)
        checkpoints.configuration(2)
        checkpoints.metrics(2)
        assert _watched == []
    pickle.loads(pickle.dumps(Path()))
    assert _watched == ["pickle.find_class"]  # The watch itself works.


def test_pickles_in_place_of_checkpoint_files_are_not_run(saved, tmp_path):
    marker = tmp_path / "marker"
    for file in files_of(saved / "2"):
        sound = file.read_bytes()
        file.write_bytes(pickle.dumps(Marker(marker)))
        with Checkpoints(saved, read_only=True) as checkpoints:
            step = checkpoints.latest_intact_step()
            assert step in (1, 2)
            with contextlib.suppress(DamagedError):
                checkpoints.restore(STATE, 2)
            assert int(checkpoints.restore(STATE, step)["step"]) == 1
        file.write_bytes(sound)
        assert not marker.exists(), file


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_names_that_are_no_steps_are_left_alone(saved, tmp_path, kind):
    elsewhere = tmp_path / "elsewhere"
    with Checkpoints(elsewhere) as checkpoints:
        checkpoints.save(9, STATE, None, {})
    names = [name for name in ODD_NAMES if name != ".."]
    for name in names:
        (saved / name).symlink_to(elsewhere / "9") if kind == "link" else (saved / name).mkdir()
    with Checkpoints(saved, keep_latest=1) as checkpoints:
        assert checkpoints.latest_intact_step() == 2
        checkpoints.save(3, STATE, {"mIoU": 0.9}, {})
    assert {path.name for path in saved.iterdir()} == {"3", *names}


@pytest.mark.parametrize("target", ["elsewhere/9", "elsewhere", "nowhere", "."])
def test_links_in_place_of_steps_never_delete_their_targets(saved, tmp_path, target):
    with Checkpoints(tmp_path / "elsewhere") as checkpoints:
        checkpoints.save(9, STATE, None, {})
    (tmp_path / "elsewhere" / "note.txt").write_text("mine")
    before = {path: path.read_bytes() for path in files_of(tmp_path / "elsewhere")}
    (saved / "3").symlink_to(tmp_path / target)
    with Checkpoints(saved, keep_latest=1) as checkpoints:
        assert checkpoints.latest_intact_step() == (3 if target == "elsewhere/9" else 2)
        for step in (4, 5):
            checkpoints.save(step, STATE, {"mIoU": 0.9}, {})
            checkpoints.wait()
        assert checkpoints.latest_intact_step() == 5
    assert {path: path.read_bytes() for path in files_of(tmp_path / "elsewhere")} == before


@pytest.mark.parametrize(
    "backbone",
    ["os.system", "__import__('os').system('true')", "../../etc/passwd", "!!python/object/apply:os.system ['true']"],
)
def test_settings_of_a_run_are_data(run, backbone):  # noqa: F811
    file = run[0] / "config.json"
    sound = file.read_text()
    hostile = json.loads(sound)
    hostile["model"]["backbone"] = backbone
    _watched.clear()
    try:
        file.write_text(json.dumps(hostile))
        with pytest.raises(ValueError, match=r"config\.json: model\.backbone is .*; expected one of resnet50"):
            open_run(run[0])
        file.write_text(json.dumps(hostile | {"__class__": {"__reduce__": ["os.system", "true"]}}))
        with pytest.raises(ValueError, match=r"config\.json: it has keys that no configuration has"):
            open_run(run[0])
    finally:
        file.write_text(sound)
    assert _watched == []
