"""Several real processes on this machine against one process with as many devices."""

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from ass_jax.checkpoints import integrity
from ass_jax.runtime import distributed
from configs import base
from tests.helpers import quick_compilation

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "main.py", "--config=configs/toy.py:joint,smoke", "--config.steps=3")


def start(workdir, data, devices, *arguments):
    environment = quick_compilation.environment(JAX_NUM_CPU_DEVICES=str(devices))
    command = [*COMMAND, f"--workdir={workdir}", f"--config.data.directory={data}", *arguments]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **output)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def training_metrics(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if name != "images_per_second"}
        for line in lines
        if "loss/segmentation_source" in line
    ]


def test_two_processes_train_as_one_with_two_devices(tmp_path):
    one = start(tmp_path / "one", tmp_path / "data", 2)
    output, _ = one.communicate(timeout=300)
    assert one.returncode == 0, output
    run = [f"--config.distributed.coordinator=127.0.0.1:{free_port()}", "--config.distributed.processes=2"]
    both = [start(tmp_path / "two", tmp_path / "data", 1, *run, f"--config.distributed.index={i}") for i in range(2)]
    outputs = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert "2 processes, 2 devices." in outputs[0]
    assert "step 3/3" in outputs[0]
    assert "step 3/3" not in outputs[1]
    expected, found = training_metrics(tmp_path / "one"), training_metrics(tmp_path / "two")
    assert len(expected) == len(found) == 3
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            np.testing.assert_allclose(value, theirs[name], rtol=1e-5, err_msg=name)
    expected, found = (json.loads((tmp_path / name / "eval.json").read_text()) for name in ("one", "two"))
    assert found["class_iou"] == pytest.approx(expected["class_iou"], rel=1e-5)
    assert (found["images"], found["images_left_out"]) == (expected["images"], 0)
    for name, scores in found["class_by_image"].items():
        for kind in ("images", "dice", "iou"):
            assert scores[kind] == pytest.approx(expected["class_by_image"][name][kind], rel=1e-5)


def test_one_process_needs_no_settings():
    distributed.join(base.default_config().distributed)
    distributed.say("nothing was joined")


def saving_failed_by(cause):
    with integrity.saving("runs"):
        raise cause


def reading_failed_by(cause):
    with integrity.reading():
        raise cause


LOSSES = (
    ValueError("UNKNOWN: Gloo AllGather failed: Connection closed by peer"),
    TimeoutError("Timed out while waiting for async_write_complete barrier."),
    jax.errors.JaxRuntimeError("INTERNAL: Barrier failed because: task is set to ERROR\nmore"),
)


@pytest.mark.parametrize("cause", LOSSES)
@pytest.mark.parametrize("fail", [saving_failed_by, reading_failed_by])
def test_a_lost_process_is_no_full_disk_and_no_damage(monkeypatch, fail, cause):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    first = re.escape(str(cause).partition("\n")[0])
    with (
        pytest.raises(distributed.LostError, match=rf"Process 0 of 2: .*has ended \({first}\)\. Start all") as error,
        distributed.lost_processes(),
    ):
        fail(cause)
    assert error.value.exit_code == 75
    monkeypatch.undo()
    with pytest.raises((integrity.SaveError, integrity.DamagedError)), distributed.lost_processes():
        fail(cause)


@pytest.mark.parametrize(
    ("fail", "cause", "expected"),
    [
        (saving_failed_by, OSError(28, "No space left on device"), integrity.SaveError),
        (reading_failed_by, ValueError("OUT_OF_RANGE: Error reading"), integrity.DamagedError),
        (saving_failed_by, jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"), integrity.SaveError),
    ],
)
def test_a_fault_of_this_process_is_told_as_such(monkeypatch, fail, cause, expected):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(expected), distributed.lost_processes():
        fail(cause)


def test_a_process_that_fails_waits_for_nobody():
    met = []
    meet = distributed.unless_failing(lambda **arguments: met.append(arguments))
    meet(key="a", timeout_ms=1)
    try:
        raise OSError
    except OSError:
        meet(key="b", timeout_ms=1)
    meet(key="c", timeout_ms=1)
    assert met == [{"key": "a", "timeout_ms": 1}, {"key": "c", "timeout_ms": 1}]


def test_in_any_of_one_process_is_its_own():
    assert distributed.in_any(True) is True
    assert distributed.in_any(False) is False
