"""Two processes of one run under faults: neither hangs, both print why they end, and a restart continues exactly."""

import json
import re
import resource
import shutil
import signal
import time

import pytest

from ass_jax.checkpoints.integrity import read_checksums
from ass_jax.runtime import distributed
from ass_jax.runtime.workdir import CHECKPOINTS
from tests.helpers.several_processes import SETTINGS, Pair

STEPS = 100
INTERVAL = SETTINGS["checkpoint.every"]
BETWEEN_SAVES = INTERVAL // 2
SMALL_DISK = 200_000  # Largest file in bytes: a checkpoint's files are larger, the log is not.


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """Returns the working directory of an undisturbed run."""
    workdir = tmp_path_factory.mktemp("clean") / "run"
    with Pair([workdir], STEPS) as pair:
        codes, texts = pair.wait()
    assert codes == [0, 0], texts
    return workdir


def steps_of(workdir):
    return sorted(int(path.name) for path in (workdir / CHECKPOINTS).iterdir() if path.name.isdigit())


def wait_for_checkpoint(workdir, before):
    """Waits until a checkpoint after step `before` is complete: it is written while training continues."""
    ends = time.monotonic() + 60
    while not [step for step in steps_of(workdir) if step > before]:
        assert time.monotonic() < ends
        time.sleep(0.05)


def last_logged(workdir):
    return json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])["step"]


def start_of(text):
    found = re.search(r"Goes on from step (\d+) of", text)
    return int(found[1]) if found else 0


def kill(pair, index):
    pair.kill(index)


def terminate(pair, *indices):
    pair.send(signal.SIGTERM, *indices)


def fill_disk(pair, index):
    resource.prlimit(pair.children[index].pid, resource.RLIMIT_FSIZE, (SMALL_DISK, SMALL_DISK))


def assert_lost(code, text):
    """Checks that the process noticed the loss of the other one, by itself or through JAX, which then ends it."""
    if code == distributed.EXIT_CODE_OF_LOST_PROCESS:
        assert "most likely because another process has ended" in text
        assert "Start all of them again: they go on from the last checkpoint" in text
    else:
        assert code == -signal.SIGABRT
        assert "most likely indicates that another task died" in text


def test_run_interrupted_by_many_faults_reaches_the_state_of_a_clean_run(clean, tmp_path):
    before = 0
    faults = [(kill, 0), (kill, 1), (terminate, 0), (terminate, 1), (terminate, 0, 1), (fill_disk, 0)]
    for fault, *indices in faults:
        with Pair([tmp_path / "run"], STEPS, pause=0.1) as pair:
            pair.wait_for(f"\nstep {before + BETWEEN_SAVES + 2}/")
            wait_for_checkpoint(tmp_path / "run", before)
            begun = time.monotonic()
            fault(pair, *indices)
            codes, texts = pair.wait()
            assert time.monotonic() - begun < 60
        case = f"{fault.__name__} {indices}: {codes} {texts}"
        assert start_of(texts[0]) == before, case
        logged, kept = last_logged(tmp_path / "run"), steps_of(tmp_path / "run")[-1]
        if fault is terminate:
            assert codes == [143, 143], case
            assert kept == logged, case  # No step is lost.
            assert all(f"Stopped by SIGTERM after step {kept}, which is saved." in text for text in texts), case
        else:
            assert codes[indices[0]] == {kill: -signal.SIGKILL, fill_disk: 2}[fault], case
            assert_lost(codes[1 - indices[0]], texts[1 - indices[0]])
            assert ("Make room on the disk" in texts[0]) == (fault is fill_disk), case
            assert "Make room on the disk" not in texts[1], case
            assert before < kept <= logged <= kept + INTERVAL, case
        before = kept
    with Pair([tmp_path / "run"], STEPS) as pair:
        codes, texts = pair.wait()
    assert codes == [0, 0], texts
    assert start_of(texts[0]) == before
    checksums = read_checksums(tmp_path / "run" / CHECKPOINTS, STEPS)
    assert len(checksums) == 2  # The step and the weights.
    assert checksums == read_checksums(clean / CHECKPOINTS, STEPS)


def test_damaged_checkpoints_are_moved_and_both_processes_end_if_all_are(clean, tmp_path):
    newest, every = tmp_path / "newest", tmp_path / "every"
    shutil.copytree(clean, newest)
    shutil.copytree(clean, every)
    cut_short(newest, STEPS)
    for step in steps_of(every):
        cut_short(every, step)
    with Pair([newest, every], STEPS) as pair:
        codes, texts = pair.wait()
    assert codes == [2, 2], texts

    assert "".join(texts).count(f"Checkpoint {STEPS} in") == 1
    assert f"is damaged; not used, moved to damaged/{STEPS}" in texts[0]
    assert start_of(texts[0]) == STEPS - BETWEEN_SAVES
    assert [path.name for path in (newest / CHECKPOINTS / "damaged").iterdir()] == [str(STEPS)]
    there = read_checksums(newest / CHECKPOINTS, STEPS)
    assert there == read_checksums(clean / CHECKPOINTS, STEPS)

    assert all(text.count(f"Every checkpoint in {every / CHECKPOINTS} is damaged") == 1 for text in texts)
    assert steps_of(every) == steps_of(clean)


def cut_short(workdir, step):
    """Cuts the last bytes off all array files of a checkpoint."""
    for path in (workdir / CHECKPOINTS / str(step) / "state").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:-3])
