import json
import os
import sys
import time

import pytest

from benchmarks.common.machine import usable_cores
from benchmarks.common.runs import plan
from benchmarks.ladder import jobs


@pytest.fixture
def runs(tmp_path, request, monkeypatch):
    monkeypatch.chdir(request.config.rootpath)
    return plan("configs/toy.py", ["joint", "ass"], [0, 1], [], tmp_path)


def train(runs, program, count=2):
    command = (sys.executable, "-c", program)
    return jobs.train_all(runs, command=command, jobs=count, environment=dict(os.environ), facts={"cores": 2})


def test_one_job_keeps_the_environment(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    assert jobs.environment_of_jobs(1) == dict(os.environ)


def test_parallel_jobs_use_one_thread_on_the_cpu(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--mine=1")
    environment = jobs.environment_of_jobs(2)
    assert environment["XLA_FLAGS"] == "--mine=1 --xla_cpu_multi_thread_eigen=false"
    assert environment["JAX_PLATFORMS"] == "cpu"


@pytest.mark.parametrize(
    ("cores", "count", "expected"),
    [
        ([0, 1, 2, 3], 2, [[0, 1], [2, 3]]),
        ([4, 6], 2, [[4], [6]]),
        ([0, 1, 2, 3, 4], 2, [[0, 1], [2, 3]]),
        ([0, 1], 3, [[0], [1], [0]]),
        ([0, 1], 1, [[0, 1]]),
    ],
)
def test_shares_of_the_cores(cores, count, expected):
    assert jobs._shares(cores, count) == expected


# Stands in for a training run; prints the cores that it may use.
CORES = "from benchmarks.common.machine import usable_cores; print(*usable_cores())"


def cores_of(run):
    return [int(core) for core in (run.folder / "log.txt").read_text().split()]


def test_run_is_pinned_to_its_share_and_the_caller_is_not(runs):
    cores = usable_cores()
    can_pin = hasattr(os, "sched_setaffinity")
    list(train(runs[:2], CORES))
    assert all(len(cores_of(run)) == (max(1, len(cores) // 2) if can_pin else len(cores)) for run in runs[:2])
    assert usable_cores() == cores


def test_run_has_all_cores_if_the_system_cannot_pin(runs, monkeypatch):
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    list(train(runs[:2], CORES))
    assert [cores_of(run) for run in runs[:2]] == [usable_cores()] * 2


def test_time_of_attempts_is_added(runs):
    run = runs[0]
    run.folder.mkdir()
    (run.folder / "job.json").write_text(json.dumps({"seconds": 100.0}))
    assert list(train([run], "")) == [(run, f"no scores of step {run.config.steps}")]
    assert 100 < run.job()["seconds"] < 110
    assert run.job()["machine"] == {"cores": 2}
    assert run.job()["jobs"] == 2


def test_leaving_early_ends_the_processes_and_starts_no_more(runs):
    program = "import sys, time\nif 'ass' in sys.argv[1]: time.sleep(60)"
    begun = time.monotonic()
    for run, problem in train(runs, program):
        assert (run.variant, problem) == ("joint", "no scores of step 1500")
        break
    assert time.monotonic() - begun < 20
    assert not (runs[3].folder / "log.txt").exists() or runs[3].job()["seconds"] < 20
