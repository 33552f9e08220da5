"""A killed preparation resumes where it stopped and makes the same files."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from configs import base
from data.preparation import records, shards
from data.preparation.location import locate_split
from data.reading.split_builder import open_split_builder
from tests.helpers import trees

ROOT = Path(__file__).parents[3]
PAIRS, PER_SHARD = 22, 3
PROGRAM = """
import multiprocessing, os, signal, sys
from configs import base
from data.preparation import shards
from data.preparation.location import locate_split
from data.reading import split_builder

directory, root, killed_at, processes = sys.argv[1:]
shards.PAIRS_PER_SHARD = {per_shard}
serialize, count = split_builder._serialize, 0

def counting(record):
    global count
    count += 1
    if count == int(killed_at):
        print(*[child.pid for child in multiprocessing.active_children()], flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    return serialize(record)

split_builder._serialize = counting
config = base.default_config().data
config.update(directory=directory, source="gta5", source_root=root, source_size=(26, 48))
split_builder.open_split_builder(locate_split(config, "source_train"), config, int(processes))
"""


def data_config(directory, root):
    config = base.default_config().data
    config.update(directory=str(directory), source="gta5", source_root=str(root), source_size=(26, 48))
    return config


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "PAIRS_PER_SHARD", PER_SHARD)
    tree = trees.write_gta5(tmp_path / "tree", PAIRS)
    tree.label_files[1].write_bytes(b"")  # A rejected file must not be forgotten either.
    return tree


def is_running(pid):
    """Returns whether a process is alive; a zombie is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def killed_preparation(directory, root, killed_at, processes):
    """Runs a preparation that kills itself; returns the process ids of its workers."""
    program = PROGRAM.format(per_shard=PER_SHARD)
    arguments = [sys.executable, "-c", program, str(directory), str(root), str(killed_at), str(processes)]
    result = subprocess.run(arguments, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert result.returncode == -signal.SIGKILL, result.stderr
    return [int(pid) for pid in result.stdout.split()]


def open_split(directory, root, processes=1):
    config = data_config(directory, root)
    builder = open_split_builder(locate_split(config, "source_train"), config, processes)
    return Path(builder.data_path)


@pytest.mark.parametrize(("killed_at", "processes"), [(11, 2), (1, 1), (PAIRS - 1, 1)])
def test_killed_preparation_resumes(tree, killed_at, processes, tmp_path, monkeypatch):
    workers = killed_preparation(tmp_path / "killed", tree.root, killed_at, processes)
    assert len(workers) == (processes if processes > 1 else 0)
    finished = {path.name: path.stat() for path in tmp_path.rglob("gta5-train*")}
    # Every pair but the second gives a record, and the last record was not written.
    assert len(finished) == killed_at // PER_SHARD
    assert not list((tmp_path / "killed").rglob("dataset_info.json"))

    made, make = [], records.make_records
    monkeypatch.setattr(records, "make_records", lambda pair, form: made.append(pair.name) or make(pair, form))
    folder = open_split(tmp_path / "killed", tree.root)
    assert set(made) == set(tree.names[len(finished) * PER_SHARD :])  # Some twice: the size is estimated first.
    for name, before in finished.items():
        after = (folder / name).stat()
        assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    straight = open_split(tmp_path / "straight", tree.root)
    contents = [{path.name: path.read_bytes() for path in each.iterdir()} for each in (folder, straight)]
    assert contents[0] == contents[1]
    assert b"00002.png: damaged" in contents[0]["rejected.txt"]

    deadline = time.monotonic() + 10
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(is_running, workers))


def test_several_processes_make_the_same_files(tree, tmp_path):
    two = open_split(tmp_path / "two", tree.root, processes=2)
    one = open_split(tmp_path / "one", tree.root)
    contents = [{path.name: path.read_bytes() for path in each.iterdir()} for each in (one, two)]
    assert contents[0] == contents[1]
