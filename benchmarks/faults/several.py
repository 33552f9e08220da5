"""Faults of a run of two processes on this machine: one of them is killed or stopped."""

import shutil
import signal
import socket
import time

from benchmarks.faults.children import INTERVAL, Child, Place
from benchmarks.faults.runs import Result, Setting

_STEPS = 40  # In each step, the processes wait for each other many times.
_LIMIT = 60  # Seconds within which a process must end after the other one has.
# Printed by `ass_jax.runtime.distributed` or, if it is faster, by JAX.
_MESSAGES = ("another process has ended", "another task died")


def kill_one(setting: Setting) -> Result:
    """Kills one of two processes at random moments, then starts both again."""
    place, clean = setting.place, _clean_run(setting.place)
    seconds, codes, noticed, lost, same = [], set(), 0, [], 0
    for number in range(setting.count):
        name, which = _fresh(place, f"one_killed_{number}"), number % 2
        pair = _wait_for_step(_start(place, name), setting.draw.randrange(INTERVAL, _STEPS // 2))
        pair[which].kill()
        begun = time.monotonic()
        codes.add(pair[1 - which].wait())
        seconds.append(time.monotonic() - begun)
        noticed += any(words in pair[1 - which].text for words in _MESSAGES)
        logged = place.logged_step(name)
        again = _start(place, name)
        done = [child.wait() for child in again] == [0, 0]
        lost.append(logged - again[0].resumed_at())
        same += done and place.state(name) == place.state(clean) and place.scores(name) == place.scores(clean)
    text = (
        f"the other one ended by itself in {noticed} of {setting.count}, after {min(seconds):.1f} to "
        f"{max(seconds):.1f} s, codes {', '.join(map(str, sorted(codes)))}; most work lost: {max(lost)} steps "
        f"(interval {INTERVAL}); {same} of {setting.count} final states and scores identical"
    )
    good = noticed == same == setting.count and max(seconds) <= _LIMIT and max(lost) <= INTERVAL
    return text, good and 0 not in codes


def stop_both(setting: Setting) -> Result:
    """Sends SIGTERM to one of two processes, or to both, then starts both again."""
    place, clean = setting.place, _clean_run(setting.place)
    seconds, lost, stopped, same = [], 0, 0, 0
    for number in range(setting.count):
        name, asked = _fresh(place, f"both_stopped_{number}"), ((0,), (1,), (0, 1))[number % 3]
        pair = _wait_for_step(_start(place, name), setting.draw.randrange(1, _STEPS // 2))
        begun = time.monotonic()
        for index in asked:
            pair[index].send(signal.SIGTERM)
        stopped += [child.wait() for child in pair] == [143, 143]
        seconds.append(time.monotonic() - begun)
        lost += place.logged_step(name) - place.state(name)[0]
        done = [child.wait() for child in _start(place, name)] == [0, 0]
        same += done and place.state(name) == place.state(clean) and place.scores(name) == place.scores(clean)
    text = (
        f"{stopped} of {setting.count} with code 143 from both; slowest {max(seconds):.1f} s; {lost} steps lost; "
        f"{same} of {setting.count} final states and scores identical"
    )
    return text, stopped == same == setting.count and not lost


def _clean_run(place: Place) -> str:
    """Returns the name of an undisturbed run of two processes; it is trained once."""
    name = "clean_two"
    if not (place.folder / name / "eval.json").exists():
        pair = _start(place, _fresh(place, name))
        if [child.wait() for child in pair] != [0, 0]:
            raise RuntimeError("The undisturbed run failed:\n" + "\n".join(child.text for child in pair))
    return name


def _start(place: Place, name: str) -> list[Child]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    settings = [f"--config.steps={_STEPS}", f"--config.distributed.coordinator=127.0.0.1:{port}"]
    settings.append("--config.distributed.processes=2")
    return [place.start(name, *settings, f"--config.distributed.index={index}") for index in range(2)]


def _wait_for_step(pair: list[Child], number: int) -> list[Child]:
    """Waits until process 0, the only one that reports, has finished a step above `number`."""
    if not pair[0].wait_for_step(number):
        raise RuntimeError("A run ended by itself:\n" + "\n".join(child.text for child in pair))
    return pair


def _fresh(place: Place, name: str) -> str:
    shutil.rmtree(place.folder / name, ignore_errors=True)
    return name
