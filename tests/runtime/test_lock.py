"""Only one training runs in a working directory; the lock of a dead process is taken over."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ass_jax.runtime import lock
from ass_jax.runtime.workdir import LOCK

ROOT = Path(__file__).parents[2]
HOLD = """
import pathlib, sys, time
from ass_jax.runtime import lock
try:
    with lock.training_lock(pathlib.Path(sys.argv[1])):
        print("mine", flush=True)
        time.sleep(float(sys.argv[2]))
except lock.LockedError as error:
    print(error, flush=True)
    sys.exit(2)
"""


def hold(workdir, seconds):
    command = [sys.executable, "-c", HOLD, str(workdir), str(seconds)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_second_process_is_refused_and_told_the_owner(tmp_path):
    first = hold(tmp_path / "new", 60)
    assert first.stdout.readline() == "mine\n"
    with pytest.raises(lock.LockedError, match=rf"in use.*process {first.pid} on .*, since .*remove .*training\.lock"):
        lock.training_lock(tmp_path / "new").__enter__()
    assert [path.name for path in (tmp_path / "new").iterdir()] == [LOCK]
    first.kill()
    first.wait()


def test_lock_of_a_killed_process_is_taken_over_and_given_back(tmp_path, caplog):
    first = hold(tmp_path, 60)
    first.stdout.readline()
    first.kill()
    for reaped in (False, True):  # Until it is waited for, it is a zombie and still listed.
        if reaped:
            first.wait()
        else:
            time.sleep(0.5)
        text = (tmp_path / LOCK).read_text()
        with lock.training_lock(tmp_path):
            assert f"gone: process {first.pid} on" in caplog.text
            assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()
            with pytest.raises(lock.LockedError):
                lock.training_lock(tmp_path).__enter__()
        assert list(tmp_path.iterdir()) == []
        (tmp_path / LOCK).write_text(text)


@pytest.mark.parametrize(("age", "taken"), [(10, False), (1000, True)])
def test_lock_of_another_host_is_taken_over_after_a_long_silence(tmp_path, age, taken):
    file = tmp_path / LOCK
    file.write_text(json.dumps({"host": "elsewhere", "process": 1, "started": "1", "since": "then"}))
    os.utime(file, (time.time() - age,) * 2)
    if taken:
        with lock.training_lock(tmp_path):
            pass
    else:
        with pytest.raises(lock.LockedError, match="process 1 on elsewhere, since then"):
            lock.training_lock(tmp_path).__enter__()
    assert file.exists() != taken


def test_reused_process_id_does_not_count(tmp_path):
    with lock.training_lock(tmp_path):
        found = json.loads((tmp_path / LOCK).read_text())
    (tmp_path / LOCK).write_text(json.dumps(found | {"started": "1"}))
    with lock.training_lock(tmp_path):
        pass


def test_unreadable_lock_is_respected(tmp_path):
    (tmp_path / LOCK).write_text("{")
    with pytest.raises(lock.LockedError, match="names no owner"):
        lock.training_lock(tmp_path).__enter__()


def test_owner_touches_its_lock_and_keeps_that_of_another(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_TOUCH_SECONDS", 0.01)
    with lock.training_lock(tmp_path):
        os.utime(tmp_path / LOCK, (0, 0))
        deadline = time.monotonic() + 10
        while not (touched := (tmp_path / LOCK).stat().st_mtime > 0) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert touched
        (tmp_path / LOCK).write_text('{"host": "elsewhere"}')
    assert (tmp_path / LOCK).exists()


def test_one_of_many_takes_over_a_stale_lock(tmp_path):
    (tmp_path / LOCK).write_text(
        json.dumps({"host": socket.gethostname(), "process": 2**22 + 1, "started": "1", "since": "then"})
    )
    processes = [hold(tmp_path, 8) for _ in range(4)]
    codes = [process.wait(timeout=60) for process in processes]
    assert sorted(codes) == [0, 2, 2, 2]
