"""Trains runs in separate processes, several at a time, each on its share of the processor's cores."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from ass_jax.runtime.console import format_seconds
from ass_jax.runtime.workdir import COMPILATION_CACHE
from benchmarks.common import machine
from benchmarks.common.runs import JOB, LOG, Run


def environment_of_jobs(jobs: int) -> dict[str, str]:
    """Returns the environment of runs of which `jobs` train at a time.

    A single job has the machine and any accelerator to itself. Several jobs compute on the processor, in one thread
    each: the number of threads that share a sum changes its last bits, so the result must not depend on which cores
    are idle.
    """
    if jobs == 1:
        return dict(os.environ)
    xla_flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip()
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla_flags}


def interrupt_on_signals() -> None:
    """Makes signals to this process end its runs as well."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # As under nohup.
            signal.signal(number, signal.default_int_handler)


def train_missing(runs: Sequence[Run], command: Sequence[str], jobs: int) -> list[Run]:
    """Trains the runs that have not finished, prints a line for each, and returns those that failed.

    Args:
      runs: see `train_all`.
      command: see `train_all`.
      jobs: see `train_all`.
    """
    left = [run for run in runs if not run.scores()]
    print(f"{len(runs)} runs, {len(runs) - len(left)} finished earlier.", flush=True)
    if not left:
        return []
    programs = {"JAX_COMPILATION_CACHE_DIR": str((left[0].folder.parent / COMPILATION_CACHE).resolve())}
    environment = programs | environment_of_jobs(jobs)
    facts = machine.describe(environment)
    print(f"{machine.describe_in_words(facts)}; {jobs} at a time. Logs: {left[0].folder.parent}/*/{LOG}", flush=True)
    begun, failed = time.monotonic(), []
    ended = train_all(left, command=command, jobs=jobs, environment=environment, facts=facts)
    for number, (run, problem) in enumerate(ended, 1):
        if problem:
            failed.append(run)
            result = f"FAILED, {problem}"
        else:
            result = f"mIoU {_score(run)}, {format_seconds(run.job()['seconds'])}"
        rest = (time.monotonic() - begun) / number * (len(left) - number)
        print(f"{number:3}/{len(left)}  {run}: {result}  (about {format_seconds(rest)} left)", flush=True)
        if problem:
            print(
                "\n".join([f"      The end of {run.folder / LOG}:", *(f"      | {line}" for line in tail(run))]),
                flush=True,
            )
    if failed:
        print(f"{len(failed)} runs failed: {', '.join(map(str, failed))}.", file=sys.stderr)
    return failed


def train_all(
    runs: Sequence[Run], *, command: Sequence[str], jobs: int, environment: dict[str, str], facts: dict
) -> Iterator[tuple[Run, str]]:
    """Trains the runs and yields each one when it ends, with an empty text or what went wrong.

    Leaving the iteration early, also by an exception, ends the running processes.

    Args:
      runs: in the order in which they start.
      command: program that is called with the arguments of a run.
      jobs: runs at a time.
      environment: see `environment_of_jobs`.
      facts: of the machine, to store with every run.
    """
    shares = _shares(machine.usable_cores(), jobs)
    note = {"jobs": jobs, "cores": len(shares[0]), "machine": facts}
    free = queue.SimpleQueue()
    for share in shares:
        free.put(share)
    processes = _Processes(environment)
    with ThreadPoolExecutor(jobs, initializer=lambda: _pin(free.get())) as executor:
        futures = {executor.submit(_train, run, command, processes, note): run for run in runs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            executor.shutdown(wait=False, cancel_futures=True)
            processes.stop()


def tail(run: Run, count: int = 15) -> list[str]:
    """Returns the last lines of a run's log, `count` of them."""
    return (run.folder / LOG).read_text(errors="replace").splitlines()[-count:]


def _score(run: Run) -> str:
    score = next(iter(run.scores()["mean_iou"].values()))
    return "–" if score is None else f"{100 * score:.1f} %"


class _Processes:
    """The running processes; after `stop`, none is left and none starts."""

    def __init__(self, environment: dict[str, str]):
        self._environment, self._lock = environment, threading.Lock()
        self._live, self._stopped = set(), False

    def call(self, arguments: Sequence[str], log: int) -> int:
        """Runs a program to its end and returns its exit code."""
        with self._lock:
            if self._stopped:
                raise InterruptedError
            # In a new session: Ctrl-C reaches only this program, which then stops every process once.
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
            self._live.add(process)
        code = process.wait()
        with self._lock:
            self._live.remove(process)
        return code

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            for process in self._live:
                process.terminate()


def _train(run: Run, command: Sequence[str], processes: _Processes, note: dict) -> str:
    """Trains one run and stores its time, including earlier attempts that it resumes."""
    run.folder.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    try:
        with (run.folder / LOG).open("ab") as log:
            code = processes.call([*command, *run.arguments], log.fileno())
    finally:
        seconds = run.job().get("seconds", 0.0) + time.monotonic() - begun
        (run.folder / JOB).write_text(json.dumps({"seconds": seconds, **note}, indent=2) + "\n")
    if code:
        return f"exit code {code}"
    return "" if run.scores() else f"no scores of step {run.config.steps}"


def _shares(cores: Sequence[int], jobs: int) -> list[list[int]]:
    """Divides the cores evenly; if there are more jobs than cores, several share one."""
    size = max(1, len(cores) // jobs)
    starts = [job * size % len(cores) for job in range(jobs)]
    return [list(cores[start : start + size]) for start in starts]


def _pin(cores: Sequence[int]) -> None:
    """Restricts the calling thread, and the processes that it starts, to the given cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
