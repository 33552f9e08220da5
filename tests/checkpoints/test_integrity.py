"""Damaged checkpoints are noticed, named and moved aside; the newest intact one is used."""

import random
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from ass_jax.checkpoints.integrity import DamagedError
from ass_jax.checkpoints.manager import Checkpoints
from configs.user_error import UserError

STATE = {
    "params": {"segmenter": {"kernel": jnp.linspace(0, 1, 3000)}, "other": {"bias": jnp.ones(7, jnp.bfloat16)}},
    "batch_stats": {"mean": jnp.arange(5.0)},
    "step": jnp.int32(3),
}
SEGMENTER = {"params": STATE["params"]["segmenter"], "batch_stats": STATE["batch_stats"]}


@pytest.fixture
def saved(tmp_path):
    """Three checkpoints; their states differ in the leaf `step`."""
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, STATE | {"step": jnp.int32(step)}, {"mIoU": 1 / step}, {"seed": step})
    return tmp_path


def truncate(folder):
    for path in (folder / "state").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:-50])


def remove_arrays(folder):
    for data in [path for path in (folder / "state").rglob("d") if path.is_dir()]:
        shutil.rmtree(data)


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def change_metrics(folder):
    (folder / "metrics" / "metrics").write_text('{"mIoU": 1.0}')


DAMAGES = {
    "truncated": truncate,
    "arrays gone": remove_arrays,
    "state gone": lambda folder: shutil.rmtree(folder / "state"),
    "metadata gone": lambda folder: (folder / "state" / "_METADATA").unlink(),
    "checksums gone": lambda folder: shutil.rmtree(folder / "checksums"),
    "empty": empty,
    "metrics changed": change_metrics,
    "metrics cut short": lambda folder: (folder / "metrics" / "metrics").write_text('{"mIoU"'),
    "configuration changed": lambda folder: (folder / "configuration" / "metadata").write_text('{"seed": 4}'),
    "not unicode": lambda folder: (folder / "configuration" / "metadata").write_bytes(b'{"seed": "\xff"}'),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_checkpoint_is_named_moved_aside_and_replaced_by_the_one_before(saved, kind, caplog):
    DAMAGES[kind](saved / "3")
    with Checkpoints(saved, read_only=True) as reader:
        assert reader.latest_intact_step() == 2
        assert int(reader.restore(STATE)["step"]) == 2
        with pytest.raises(UserError, match="3"):
            reader.restore(STATE, 3)
    assert (saved / "3").exists()
    assert "Checkpoint 3" in caplog.text
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.latest_intact_step() == 2
        assert int(checkpoints.restore(STATE)["step"]) == 2
        assert not (saved / "3").exists()
        assert (saved / "damaged" / "3").exists()
        assert "moved to damaged/3" in caplog.text
        checkpoints.save(3, STATE, {"mIoU": 0.5}, {})
        assert checkpoints.latest_intact_step() == 3
    empty(saved / "3")
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.latest_intact_step() == 2
    assert sorted(path.name for path in (saved / "damaged").iterdir()) == ["3", "3_2"]


def test_one_flipped_bit_is_never_silently_wrong(saved, caplog):
    draw = random.Random(0)
    files = [path for path in (saved / "3").rglob("*") if path.is_file() and path.stat().st_size]
    sizes = [path.stat().st_size for path in files]
    caught = 0
    for _ in range(25):
        (path,) = draw.choices(files, sizes)
        sound = path.read_bytes()
        flipped = bytearray(sound)
        flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        with Checkpoints(saved, read_only=True) as reader:
            step = reader.latest_intact_step()
            found = reader.restore(STATE)
        assert int(found["step"]) == step
        np.testing.assert_array_equal(found["params"]["segmenter"]["kernel"], STATE["params"]["segmenter"]["kernel"])
        caught += step == 2
        path.write_bytes(sound)
    assert caught >= 10  # The other flips hit bytes that are never read.


def test_segmenter_restored_alone_is_verified(saved):
    path = saved / "3" / "checksums" / "metadata"
    text = path.read_text()
    place = text.index("crc32", text.index("segmenter")) + 6
    path.write_text(text[:place] + ("0" if text[place] != "0" else "1") + text[place + 1 :])
    with (
        Checkpoints(saved, read_only=True) as reader,
        pytest.raises(DamagedError, match=r"Checkpoint 3 .*\n.*segmenter/kernel: expected float32\[3000\] crc32"),
    ):
        reader.restore_segmenter(SEGMENTER, 3)


@pytest.mark.parametrize("source", [True, False])
def test_damaged_checksums_name_the_checkpoint(saved, source):
    (saved / "3" / "checksums" / "metadata").write_text("{")
    with (
        Checkpoints(saved, read_only=True) as reader,
        pytest.raises(DamagedError, match=r"Checkpoint 3 in .* is damaged: (?!.*is damaged)"),
    ):
        reader.restore_segmenter(SEGMENTER, 3, source=source)


@pytest.mark.parametrize("kind", ["empty", "truncated"])
@pytest.mark.parametrize("read_only", [True, False])
def test_error_if_all_checkpoints_are_damaged_and_none_is_moved(saved, kind, read_only):
    for step in (1, 2, 3):
        DAMAGES[kind](saved / str(step))

    def read():
        with Checkpoints(saved, read_only=read_only) as checkpoints:
            checkpoints.latest_intact_step()

    for _ in range(2):
        with pytest.raises(
            DamagedError, match=r"Every checkpoint in .*\n  1: .*\n  2: .*\n  3: .*\nNothing was changed"
        ):
            read()
    assert sorted(path.name for path in saved.iterdir()) == ["1", "2", "3"]
