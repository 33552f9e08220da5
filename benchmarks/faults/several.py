"""Faults of a run of two processes on this machine: one is killed, stopped or late, or their number changes."""

import math
import shutil
import signal
import socket
import time

from ass_jax.runtime.workdir import PREDICTIONS
from benchmarks.faults.children import INTERVAL, Child, Place
from benchmarks.faults.runs import Result, Setting

_STEPS = 40  # In each step, the processes wait for each other many times.
_LATE = 8  # Seconds.
_TOLERANCE = 1e-5  # Of IoU.
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


def delay_one(setting: Setting) -> Result:
    """Starts one of two processes late, and holds one still in the middle of the run."""
    place, clean = setting.place, _clean_run(setting.place)
    done, same = 0, 0
    for number in range(setting.count):
        name, which = _fresh(place, f"one_late_{number}"), number % 2
        pair = _wait_for_step(_start(place, name, late=which), setting.draw.randrange(1, _STEPS // 2))
        pair[1 - which].send(signal.SIGSTOP)
        time.sleep(_LATE)
        pair[1 - which].send(signal.SIGCONT)
        done += [child.wait() for child in pair] == [0, 0]
        same += place.state(name) == place.state(clean) and place.scores(name) == place.scores(clean)
    text = (
        f"one started {_LATE} s late, the other held still for {_LATE} s: {done} of {setting.count} finished, {same} "
        "final states and scores identical"
    )
    return text, done == same == setting.count


def change_number(setting: Setting) -> Result:
    """Ends two processes with SIGTERM and goes on with one of two devices, and the other way round."""
    place, clean = setting.place, _clean_run(setting.place)
    continued, same, difference = 0, 0, 0.0
    for number in range(setting.count):
        name = _fresh(place, f"other_number_{number}")

        def begin(processes: int, name: str = name) -> list[Child]:
            return _start(place, name) if processes == 2 else [place.start(name, f"--config.steps={_STEPS}", devices=2)]

        first = 1 + number % 2
        children = _wait_for_step(begin(first), setting.draw.randrange(1, _STEPS // 2))
        children[0].send(signal.SIGTERM)
        stopped = {child.wait() for child in children} == {143}
        children = begin(3 - first)
        ended = {child.wait() for child in children} == {0}
        continued += stopped and ended and children[0].resumed_at() > 0
        same += place.state(name) == place.state(clean)
        difference = max(difference, _difference(place.scores(name), place.scores(clean)))
    text = (
        f"{continued} of {setting.count} went on; {same} final states identical, IoU of classes differs by at most "
        f"{difference:.1e}"
    )
    return text, continued == setting.count and difference <= _TOLERANCE


def score_uneven(setting: Setting) -> Result:
    """Scores a run's five images with two processes, of which one has three and the other two, and with one."""
    place, clean = setting.place, _clean_run(setting.place)
    found, codes = [], set()
    for processes in (1, 2):
        name = _fresh(place, f"scored_by_{processes}")
        shutil.copytree(place.folder / clean, place.folder / name)
        shutil.rmtree(place.folder / name / PREDICTIONS, ignore_errors=True)
        (place.folder / name / "eval.json").unlink()
        children = _start(place, name, "--mode=eval") if processes == 2 else [place.start(name, "--mode=eval")]
        codes.update(child.wait() for child in children)
        files = (place.folder / name / PREDICTIONS).rglob("*.png")
        found.append((place.scores(name), {file.name: file.read_bytes() for file in files}))
    (scores, pictures), (other_scores, other_pictures) = found
    difference = _difference(scores, other_scores)
    same = sum(other_pictures.get(name) == content for name, content in pictures.items())
    text = (
        f"{len(other_pictures)} of {len(pictures)} predictions written by two processes, {same} identical to those of "
        f"one; IoU of classes differs by at most {difference:.1e}"
    )
    good = codes == {0} and pictures.keys() == other_pictures.keys() and same == len(pictures) > 0
    return text, good and difference <= _TOLERANCE


def _difference(scores: dict, others: dict) -> float:
    """Returns the largest difference of the IoU of a class; infinite if one alone has a score."""
    differences = [0.0]
    for name, value in scores["class_iou"].items():
        other = others["class_iou"][name]
        if value is None or other is None:
            differences.append(0.0 if value is other else math.inf)
        else:
            differences.append(abs(value - other))
    return max(differences)


def _clean_run(place: Place) -> str:
    """Returns the name of an undisturbed run of two processes; it is trained once."""
    name = "clean_two"
    if not (place.folder / name / "eval.json").exists():
        pair = _start(place, _fresh(place, name))
        if [child.wait() for child in pair] != [0, 0]:
            raise RuntimeError("The undisturbed run failed:\n" + "\n".join(child.text for child in pair))
    return name


def _start(place: Place, name: str, *others: str, late: int | None = None) -> list[Child]:
    """Starts both processes, the one of index `late` some seconds after the other."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    settings = [f"--config.steps={_STEPS}", f"--config.distributed.coordinator=127.0.0.1:{port}"]
    settings.append("--config.distributed.processes=2")
    pair = {}
    for index in sorted(range(2), key=lambda index: index == late):
        if index == late:
            time.sleep(_LATE)
        pair[index] = place.start(name, *settings, f"--config.distributed.index={index}", *others)
    return [pair[0], pair[1]]


def _wait_for_step(pair: list[Child], number: int) -> list[Child]:
    """Waits until process 0, the only one that reports, has finished a step above `number`."""
    if not pair[0].wait_for_step(number):
        raise RuntimeError("A run ended by itself:\n" + "\n".join(child.text for child in pair))
    return pair


def _fresh(place: Place, name: str) -> str:
    shutil.rmtree(place.folder / name, ignore_errors=True)
    return name
