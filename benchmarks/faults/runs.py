"""Faults of whole runs: each function provokes one and returns the measured figure and whether it is good."""

import random
import resource
import shutil
import signal
import time
from pathlib import Path
from typing import NamedTuple

from ass_jax.checkpoints.integrity import DamagedError
from ass_jax.checkpoints.manager import Checkpoints
from benchmarks.faults.children import INTERVAL, Place

_TRACE = "Traceback"


class Setting(NamedTuple):
    """How a row is measured.

    Attributes:
      place: folder of the runs.
      draw: source of random moments.
      count: number of repetitions.
    """

    place: Place
    draw: random.Random
    count: int


Result = tuple[str, bool]


def clean_run(place: Place, steps: int = 60) -> str:
    """Returns the name of an undisturbed run; it is trained once."""
    name = f"clean_{steps}"
    if not (place.folder / name / "eval.json").exists():
        shutil.rmtree(place.folder / name, ignore_errors=True)
        child = place.start(name, f"--config.steps={steps}")
        if child.wait():
            raise RuntimeError(f"The undisturbed run failed:\n{child.text}")
    return name


def stop_and_resume(setting: Setting) -> Result:
    """Stops runs after a random step and resumes them."""
    place, clean = setting.place, clean_run(setting.place)
    same, stops = 0, []
    for number in range(setting.count):
        name = _fresh(place, f"stopped_{number}")
        child = place.start(name)
        child.wait_for_step(setting.draw.randrange(1, 50))
        child.send(signal.SIGTERM)
        child.wait()
        stops.append(place.state(name)[0])
        place.start(name).wait()
        same += place.state(name) == place.state(clean) and place.scores(name) == place.scores(clean)
    text = f"{same} of {setting.count} identical in state and scores, stopped at steps {', '.join(map(str, stops))}"
    return text, same == setting.count


def kill_at_random(setting: Setting) -> Result:
    """Kills runs at random moments, including saves, and restarts them until they are done."""
    place, steps = setting.place, 60
    clean = clean_run(place, steps)
    lost, whole, runs, child = [], 0, 0, None
    name = None
    while len(lost) < setting.count:
        if name is None:
            name, runs, before = _fresh(place, f"killed_{runs}"), runs + 1, 0
        child = place.start(name)
        child.wait_for("compiled in")
        time.sleep(setting.draw.uniform(0, 3))
        child.kill()
        if _TRACE in child.text or child.resumed_at() < before:
            return f"broke after {len(lost)} kills: {child.text[-300:]}", False
        before = child.resumed_at()
        reached = place.logged_step(name) if (place.folder / name / "metrics.jsonl").exists() else 0
        steps_there = sorted(int(path.name) for path in place.checkpoints(name).iterdir() if path.name.isdigit())
        lost.append(max(0, reached - max(steps_there, default=0)))
        if reached >= steps - INTERVAL or len(lost) == setting.count:
            code = place.start(name).wait()
            whole += code == 0 and place.state(name) == place.state(clean)
            name = None
    text = (
        f"{len(lost)} of {setting.count} restarted; {whole} of {runs} final states identical; most work lost: "
        f"{max(lost)} steps (checkpoint.every {INTERVAL}; a save begins every {INTERVAL // 2})"
    )
    return text, whole == runs and max(lost) <= INTERVAL


def stop_by_signal(setting: Setting) -> Result:
    """Sends SIGTERM during training, many times."""
    place, name = setting.place, _fresh(setting.place, "terminated")
    seconds, lost, codes = [], [], []
    for _ in range(setting.count):
        child = place.start(name, "--config.steps=1000")
        child.wait_for("compiled in")
        child.wait_for_step()
        time.sleep(setting.draw.uniform(0, 2))
        begun = time.monotonic()
        child.send(signal.SIGTERM)
        codes.append(child.wait())
        seconds.append(time.monotonic() - begun)
        lost.append(place.logged_step(name) - place.state(name)[0])
    good = codes.count(143)
    text = f"{good} of {setting.count} with code 143; slowest {max(seconds):.1f} s; {sum(lost)} steps lost"
    return text, good == setting.count and max(seconds) <= 10 and not any(lost)


def damage_newest(setting: Setting) -> Result:
    """Damages the newest checkpoint: cuts files short, removes them, flips a bit; then resumes."""
    place, clean = setting.place, clean_run(setting.place)
    sound = place.state(clean)
    noticed = harmless = wrong = 0
    for number in range(setting.count):
        name = _copy(place, clean, "damaged")
        _damage(place.checkpoints(name) / str(sound[0]), ("cut", "remove", "flip")[number % 3], setting.draw)
        step, digest = place.state(name)
        if step != sound[0]:
            noticed += 1
        elif digest == sound[1]:
            harmless += 1  # Unused bytes.
        else:
            wrong += 1
    name = _copy(place, clean, "damaged")
    _damage(place.checkpoints(name) / str(sound[0]), "remove", setting.draw)
    child = place.start(name)
    code = child.wait()
    again = code == 0 and f"moved to damaged/{sound[0]}" in child.text and place.state(name) == sound
    text = f"{setting.count} damages: {noticed} detected, {harmless} without effect, {wrong} silently wrong; "
    return text + f"resumed to the same state: {'yes' if again else 'no'}", not wrong and again


def damage_all(setting: Setting) -> Result:
    """Damages every checkpoint."""
    place, clean = setting.place, clean_run(setting.place)
    name = _copy(place, clean, "all_damaged")
    for folder in place.checkpoints(name).iterdir():
        _damage(folder, "remove", setting.draw)
    child = place.start(name)
    code = child.wait()
    messages = child.text.count("Every checkpoint in")
    return f"{messages} message, exit code {code}", messages == 1 and code != 0 and _TRACE not in child.text


def fill_disk(setting: Setting) -> Result:
    """Limits files to 1 MiB once a run has a checkpoint, as on a full disk; then removes the limit."""
    place, clean = setting.place, clean_run(setting.place)
    name = _fresh(place, "full")
    child = place.start(name)
    child.wait_for_step(INTERVAL + 5)
    resource.prlimit(child.id, resource.RLIMIT_FSIZE, (2**20, 2**20))
    limited = place.logged_step(name)
    code = child.wait()
    more, saved = place.logged_step(name) - limited, place.state(name)[0]
    resumed = place.start(name).wait() == 0 and place.state(name) == place.state(clean)
    text = f"exit code {code} after {more} more steps (interval {INTERVAL}); step {saved} survives; "
    text += f"resumed to the same state: {'yes' if resumed else 'no'}"
    return text, code != 0 and "could not be written" in child.text and more <= INTERVAL and resumed


def rank_randomly(setting: Setting) -> Result:
    """Saves random sequences of scores, some NaN or missing, and checks which checkpoints remain."""
    import jax.numpy as jnp

    right = 0
    for _ in range(setting.count):
        directory = setting.place.folder / "ranked"
        shutil.rmtree(directory, ignore_errors=True)
        keep = setting.draw.randint(1, 3)
        scores = [setting.draw.choice([float("nan"), None, setting.draw.random()]) for _ in range(5)]
        with Checkpoints(directory, keep_latest=keep) as checkpoints:
            for step, score in enumerate(scores, start=1):
                checkpoints.save(step, {"step": jnp.int32(step)}, {"mIoU": score}, {})
        ranks = {step: -1.0 if score is None or score != score else score for step, score in enumerate(scores, 1)}
        best = max(ranks, key=lambda step: (ranks[step], step))
        right += {int(path.name) for path in directory.iterdir()} == {*list(ranks)[-keep:], best}
    return f"{right} of {setting.count} random sequences right", right == setting.count


def two_processes(setting: Setting) -> Result:
    """Starts a second run in a working directory in use; then kills the first one and starts again."""
    place = setting.place
    refused = finished = taken = 0
    for number in range(setting.count):
        name = _fresh(place, f"shared_{number}")
        first = place.start(name, "--config.steps=200")
        first.wait_for_step()
        second = place.start(name, "--config.steps=200")
        code = second.wait()
        refused += code == 2 and f"process {first.id}" in second.text and first.is_running
        if number < setting.count - 1:
            finished += first.wait() == 0
            continue
        first.kill()
        third = place.start(name)
        taken += third.wait() == 0 and "Took over" in third.text
    text = f"{refused} of {setting.count} second runs stopped and named the process; "
    text += f"the first finished {finished} of {setting.count - 1}; "
    everything = (setting.count, setting.count - 1, 1)
    return text + f"stale lock taken over: {taken} of 1", (refused, finished, taken) == everything


def change_settings(setting: Setting) -> Result:
    """Resumes and evaluates with other settings, harmful and harmless ones."""
    place, clean = setting.place, clean_run(setting.place)
    name, longer = _copy(place, clean, "changed"), "--config.steps=62"
    rate = "--config.optimizer.learning_rate=0.5"
    refused = place.start(name, longer, rate)
    outcomes = {
        "refused": refused.wait() == 2 and "optimizer.learning_rate: checkpoint 0.06, now 0.5" in refused.text,
        "evaluated": place.start(name, rate, "--mode=eval").wait() == 0,
        "allowed": place.start(name, longer, rate, "--config.resume_with_changes").wait() == 0,
        "harmless ones": place.start(name, "--config.steps=63", rate, "--config.data.readers=1").wait() == 0,
    }
    return ", ".join(f"{word}: {'yes' if holds else 'no'}" for word, holds in outcomes.items()), all(outcomes.values())


def _fresh(place: Place, name: str) -> str:
    shutil.rmtree(place.folder / name, ignore_errors=True)
    return name


def _copy(place: Place, source: str, name: str) -> str:
    shutil.copytree(place.folder / source, place.folder / _fresh(place, name))
    return name


def _damage(folder: Path, kind: str, draw: random.Random) -> None:
    """Damages a checkpoint at a random position; "remove" deletes whole items."""
    if kind == "remove":
        item = draw.choice(["state", "checksums", "configuration", "metrics"])
        shutil.rmtree(folder / item, ignore_errors=True)
        return
    files = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]
    (path,) = draw.choices(files, [path.stat().st_size for path in files])
    content = bytearray(path.read_bytes())
    place = draw.randrange(len(content))
    if kind == "cut":
        path.write_bytes(content[:place])
    else:
        content[place] ^= 1 << draw.randrange(8)
        path.write_bytes(content)


def is_sound(directory: Path) -> bool:
    """Returns whether the newest checkpoint of a directory is sound."""
    with Checkpoints(directory, read_only=True) as checkpoints:
        newest = checkpoints.latest_step()
        try:
            return checkpoints.latest_intact_step() == newest
        except DamagedError:
            return False
