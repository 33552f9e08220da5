"""A second start reuses its compiled programs; no fault of the cache folder ends a run."""

import json
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import jax
import pytest

from ass_jax.runtime import compilation
from ass_jax.runtime.workdir import CHECKPOINTS, COMPILATION_CACHE

ROOT = Path(__file__).parents[2]
# Trains a small network to step 4 and prints which programs were found in the cache and which were not.
PROGRAM = """
import functools, json, logging, sys
from pathlib import Path

from ass_jax.models import deeplab
from ass_jax.runtime import compilation
from tests.helpers import small_runs

class Listener(logging.Handler):
    def emit(self, record):
        if record.getMessage().lower().startswith("persistent compilation cache "):
            told.append(record.getMessage().lower().split("'")[0].split()[3] + " " + record.args[0])

told = []
logging.getLogger("jax._src.compiler").setLevel(logging.DEBUG)
logging.getLogger("jax._src.compiler").addHandler(Listener())
deeplab.BACKBONES["resnet_tiny"] = functools.partial(deeplab._resnet, stage_sizes=(1, 1, 1, 1), width=2, stem_width=4)
workdir = Path(sys.argv[1])
compilation.use_compilation_cache(workdir)
config = small_runs.configuration(**{"steps": 4, "checkpoint.every": 4, "evaluation.every": 4, "teacher.decay": 0.0})
small_runs.run(config, workdir)
print(json.dumps(told))
"""


def run(program, workdir):
    """Runs a program without a chosen cache folder."""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    command = [sys.executable, "-c", program, str(workdir)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def train(workdir):
    result = run(PROGRAM, workdir)
    assert result.returncode == 0, result.stderr
    *output, told = result.stdout.splitlines()
    return "\n".join(output), json.loads(told), result.stderr


def checksums(workdir, step):
    return json.loads((workdir / CHECKPOINTS / str(step) / "checksums" / "metadata").read_text())


def test_second_start_compiles_no_step_and_resumes_bit_exactly(tmp_path):
    steps = ("jit_train_step", "jit_scores_step", "jit_evaluation_step")
    _, told, _ = train(tmp_path)
    assert all(f"miss {step}" in told for step in steps)
    straight = checksums(tmp_path, 4)
    # As if the run had been killed after step 2, while a program was being written.
    shutil.rmtree(tmp_path / CHECKPOINTS / "4")
    torn = tmp_path / COMPILATION_CACHE / "jit_other-0123-cache"
    torn.write_bytes(zlib.compress(b"program" * 100)[:9])
    output, told, errors = train(tmp_path)
    assert "Goes on from step 2" in output
    assert all(f"hit {step}" in told for step in steps)
    assert not any(f"miss {step}" in told for step in steps)
    assert checksums(tmp_path, 4) == straight
    assert not torn.exists()
    assert "Error" not in errors


@pytest.fixture
def chosen():
    """Starts without a cache folder and restores JAX's settings afterwards."""
    names = [f"jax_persistent_cache_min_{name}" for name in ("compile_time_secs", "entry_size_bytes")]
    before = {name: getattr(jax.config, name) for name in ("jax_compilation_cache_dir", *names)}
    jax.config.update("jax_compilation_cache_dir", None)
    yield lambda: jax.config.jax_compilation_cache_dir
    for name, value in before.items():
        jax.config.update(name, value)


def test_folder_lies_in_the_working_directory(tmp_path, chosen, monkeypatch):
    monkeypatch.chdir(tmp_path)
    compilation.use_compilation_cache(Path())
    assert chosen() == str(tmp_path / COMPILATION_CACHE)


def test_folder_that_the_user_chose_stays(tmp_path, chosen):
    jax.config.update("jax_compilation_cache_dir", "mine")
    compilation.use_compilation_cache(tmp_path)
    assert chosen() == "mine"
    assert not (tmp_path / COMPILATION_CACHE).exists()


def test_run_does_without_a_folder_that_cannot_be_made(tmp_path, chosen):
    (tmp_path / COMPILATION_CACHE).write_text("a file")
    compilation.use_compilation_cache(tmp_path)
    assert chosen() is None


def test_only_torn_programs_are_removed(tmp_path, chosen):
    folder = tmp_path / COMPILATION_CACHE
    folder.mkdir()
    whole = zlib.compress(bytes(range(256)))
    contents = {"whole": whole, "torn": whole[:-5], "empty": b"", "of_zstandard": b"\x28\xb5\x2f\xfd rest"}
    for name, data in contents.items():
        (folder / f"{name}-cache").write_bytes(data)
    compilation.use_compilation_cache(tmp_path)
    assert sorted(file.name for file in folder.iterdir()) == ["of_zstandard-cache", "whole-cache"]


def test_full_disk_does_not_end_the_program(tmp_path):
    program = """
import resource, sys
from pathlib import Path
import jax
from ass_jax.runtime import compilation
compilation._LEAST_COMPILE_SECONDS = 0.0
compilation.use_compilation_cache(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (9, 9))
print(jax.jit(lambda x: x + 1)(2))
"""
    result = run(program, tmp_path)
    assert (result.returncode, result.stdout) == (0, "3\n"), result.stderr
    assert "Error writing persistent compilation cache" in result.stderr
