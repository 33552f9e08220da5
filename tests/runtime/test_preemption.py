"""The first signal is noted, and the second one ends the process at once."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ass_jax.runtime import preemption

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_is_noted_and_the_handlers_come_back(number, code, capfd):
    before = signal.getsignal(number)
    with preemption.catch_signals() as request:
        items = request.cut_short(lambda: iter(range(5)))()
        assert next(items) == 0
        assert request.signal is None
        os.kill(os.getpid(), number)
        assert request.signal == number
        with pytest.raises(preemption.CutShortError):
            next(items)
    assert signal.getsignal(number) == before
    assert "Once more to leave at once" in capfd.readouterr().err
    error = preemption.StoppedError(7, request.signal)
    assert error.exit_code == code
    assert "after step 7, which is saved" in str(error)


def test_preemption_counts_as_sigterm():
    assert preemption.StoppedError(7, None).exit_code == 143


def test_other_threads_and_runs_of_several_processes_leave_signals_alone():
    before = signal.getsignal(signal.SIGTERM)
    found = []

    def enter():
        with preemption.catch_signals():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    with preemption.catch_signals(install=False):
        found.append(signal.getsignal(signal.SIGTERM))
    assert found == [before, before]


def test_second_signal_ends_the_process_at_once():
    program = """
import time
from ass_jax.runtime import preemption
with preemption.catch_signals():
    print("ready", flush=True)
    while True:
        time.sleep(1)
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        process.terminate()
        assert "finishing the step" in process.stderr.readline() + process.stderr.readline()
        assert process.poll() is None
        begun = time.monotonic()
        process.terminate()
        assert process.wait(timeout=20) == 143
        assert time.monotonic() - begun < 5
