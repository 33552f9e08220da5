"""Checks the errors for checkpoints that are missing, do not fit or cannot be written, and the files they leave."""

import resource
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from ass_jax.checkpoints.manager import Checkpoints
from configs.user_error import UserError
from tests.helpers.small_states import CONFIGURATION, assert_identical, make_state, steps_on_disk


def test_error_of_a_missing_checkpoint_names_folder_and_steps(tmp_path):
    state = make_state()
    missing = tmp_path / "absent"
    with Checkpoints(missing, read_only=True) as checkpoints:
        assert checkpoints.latest_step() is None
        assert checkpoints.best_step() is None
        for call in (lambda: checkpoints.restore(state), checkpoints.configuration, checkpoints.metrics):
            with pytest.raises(UserError, match=f"No checkpoint in {missing}; steps there: none"):
                call()
        with pytest.raises(ValueError, match="open for reading only"):
            checkpoints.save(1, state, None, {})
    assert not missing.exists()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(4, state, None, CONFIGURATION)
        with pytest.raises(UserError, match=f"No checkpoint of step 5 in {tmp_path}; steps there: 4"):
            checkpoints.restore_segmenter(state.segmenter, step=5)


def test_state_that_does_not_fit_is_named(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(4, make_state(), None, CONFIGURATION)
        wider = make_state(width=6)
        with pytest.raises(ValueError, match=r"Checkpoint 4 in .* leaves that differ: 3\.") as error:
            checkpoints.restore(wider)
        assert "params/segmenter/backbone/kernel: expected float32[3, 6], found float32[3, 4]" in str(error.value)
        with pytest.raises(ValueError, match=r"params/segmenter/backbone/kernel: expected float32\[3, 6\]"):
            checkpoints.restore_segmenter(wider.segmenter)
        with pytest.raises(ValueError, match=r"step: expected float32\[\], found int32\[\]"):
            checkpoints.restore(make_state().replace(step=jnp.float32(0)))
        with pytest.raises(ValueError, match=r"average/params/classifier/bias: expected none, found bfloat16\[2\]"):
            checkpoints.restore(make_state(with_average=False))
        with pytest.raises(
            ValueError, match=r"\n  average/batch_stats/backbone/mean: expected none(.*\n){5}  and 7 more$"
        ):
            checkpoints.restore({"step": jnp.int32(0)})


def test_save_rejects_what_it_cannot_keep(tmp_path):
    state = {"step": jnp.int32(0)}
    with pytest.raises(ValueError, match="at least 1 latest checkpoint to keep, found 0"):
        Checkpoints(tmp_path, keep_latest=0)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, state, None, {})
        for step in (4, 5):
            with pytest.raises(ValueError, match=f"Cannot save step {step}: .* already has step 5"):
                checkpoints.save(step, state, None, {})
        with pytest.raises(TypeError):
            checkpoints.save(6, state, {"mIoU": {"19": 0.5}}, {})
        with pytest.raises(TypeError):
            checkpoints.save(6, state, None, {"path": object()})
    assert steps_on_disk(tmp_path) == [5]


def test_leftovers_of_killed_runs_are_cleared_by_writers_only(tmp_path):
    state = {"step": jnp.int32(0)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, None, {})
    half, torn = tmp_path / "2.orbax-checkpoint-tmp", tmp_path / "deleted" / "1"
    (half / "state").mkdir(parents=True)
    torn.mkdir(parents=True)
    (torn / "file").touch()
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.latest_step() == 1
    assert half.exists()
    assert torn.exists()
    with Checkpoints(tmp_path, keep_latest=1) as checkpoints:
        assert checkpoints.latest_step() == 1
        checkpoints.save(2, state, None, {})
    assert steps_on_disk(tmp_path) == [2]


@pytest.fixture
def file_size_limit():
    """Makes writes of large files fail, as on a full disk; works for root too."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (65536, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("surfaces_in", ["save", "wait", "restore", "close"])
def test_failed_background_write_surfaces_and_damages_nothing(tmp_path, file_size_limit, surfaces_in):
    state = {"kernel": jax.random.normal(jax.random.key(0), (100_000,))}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state, None, {})
    checkpoints.wait()
    file_size_limit()
    checkpoints.save(2, state, None, {})
    call = {
        "save": lambda: checkpoints.save(3, state, None, {}),
        "wait": checkpoints.wait,
        "restore": lambda: checkpoints.restore(state),
        "close": checkpoints.close,
    }[surfaces_in]
    with pytest.raises(Exception, match="File too large"):
        call()
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert checkpoints.latest_step() == 1
    checkpoints.close()
    with Checkpoints(tmp_path) as checkpoints:
        assert_identical(checkpoints.restore(state), state)
        checkpoints.save(2, state, None, {})
    assert steps_on_disk(tmp_path) == [1, 2]


def test_error_of_the_body_is_not_hidden_by_a_failed_write(tmp_path, file_size_limit):
    state = {"kernel": jax.random.normal(jax.random.key(0), (100_000,))}

    def fail():
        with Checkpoints(tmp_path) as checkpoints:
            file_size_limit()
            checkpoints.save(1, state, None, {})
            raise KeyError("body")

    with pytest.raises(KeyError, match="body") as error:
        fail()
    assert "File too large" in error.value.__notes__[0]


def test_lost_directory_ends_the_process_at_once(tmp_path):
    """A thread that still waits for the directory would keep the process alive for minutes."""
    program = """
import pathlib, shutil, sys
import jax.numpy as jnp
from ass_jax.checkpoints.manager import Checkpoints
directory = pathlib.Path(sys.argv[1])
with Checkpoints(directory) as checkpoints:
    checkpoints.save(1, {"step": jnp.int32(1)}, None, {})
    checkpoints.wait()
    shutil.rmtree(directory)
    directory.touch()
    checkpoints.save(2, {"step": jnp.int32(2)}, None, {})
"""
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "run"], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 1
    assert "NotADirectoryError" in result.stderr.splitlines()[-1]
