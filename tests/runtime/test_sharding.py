"""Checks how batches are divided among four devices."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from absl import logging

from ass_jax.runtime.sharding import (
    by_image,
    global_batch,
    local_images,
    local_places,
    make_mesh,
    on_mesh,
    pad_images,
    replicated,
)


@pytest.mark.parametrize(("sizes", "devices"), [([4, 8, 4], 4), ([6, 4], 2), ([3, 4], 1), ([3], 3), ([8, 0], 4)])
def test_mesh_takes_as_many_devices_as_divide_every_stream(sizes, devices, caplog):
    logging.get_absl_logger().addHandler(caplog.handler)
    try:
        mesh = make_mesh(iter(sizes))
    finally:
        logging.get_absl_logger().removeHandler(caplog.handler)
    assert dict(mesh.shape) == {"data": devices}
    assert list(mesh.devices) == jax.devices()[:devices]
    if devices == 4:
        assert not caplog.records
    else:
        assert caplog.records[0].levelname == "WARNING"
        assert f"{sizes} cannot be divided among 4 devices" in caplog.text
        assert caplog.text.rstrip().endswith(f"using {devices} of them.")


@pytest.mark.parametrize(("sizes", "count"), [([8, 16], 8), ([3], 1), ([6, 12], 2), ([12, 4], 4), ([5, 8], 1)])
def test_mesh_on_tpus_divides_the_chips_as_well(sizes, count, monkeypatch):
    chips = [SimpleNamespace(platform="tpu", id=number) for number in range(8)]
    monkeypatch.setattr(jax, "make_mesh", lambda shape, names, *, axis_types, devices: (shape, devices))
    assert make_mesh(sizes, chips) == ((count,), chips[:count])


def test_mesh_of_several_processes_must_take_all_devices(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert make_mesh([4]).size == 4
    with pytest.raises(ValueError, match=r"\[4, 2\] cannot be divided among 4 devices"):
        make_mesh([4, 2])


def test_batches_are_divided_by_image_and_come_back():
    mesh = make_mesh([4, 8])
    batch = {
        "source": {"image": np.random.default_rng(0).integers(0, 256, (4, 3, 5, 3), np.uint8)},
        "unlabelled": {"image": np.arange(8 * 6, dtype=np.int32).reshape(8, 6)},
    }
    divided = global_batch(batch, mesh)
    for stream, examples in batch.items():
        array, share = divided[stream]["image"], len(examples["image"]) // 4
        assert array.shape == examples["image"].shape
        assert array.dtype == examples["image"].dtype
        assert array.sharding.is_equivalent_to(by_image(mesh), array.ndim)
        for number, device in enumerate(mesh.devices):
            (shard,) = (shard for shard in array.addressable_shards if shard.device == device)
            np.testing.assert_array_equal(shard.data, examples["image"][number * share : (number + 1) * share])
        np.testing.assert_array_equal(local_images(array), examples["image"])
    one = make_mesh([1])
    np.testing.assert_array_equal(
        local_images(global_batch(batch, one)["unlabelled"]["image"]), batch["unlabelled"]["image"]
    )


def test_restored_leaves_are_whole_on_every_device():
    mesh = make_mesh([4])
    tree = on_mesh({"kernel": np.zeros((3, 2), np.float32), "step": np.int32(0)}, mesh)
    assert tree["kernel"] == jax.ShapeDtypeStruct((3, 2), np.float32, sharding=replicated(mesh))
    assert tree["step"] == jax.ShapeDtypeStruct((), np.int32, sharding=replicated(mesh))
    array = jax.device_put(np.arange(3), replicated(mesh))
    assert [shard.data.shape for shard in array.addressable_shards] == [(3,)] * 4


def test_padding_adds_ignored_images():
    random = np.random.default_rng(0)
    batch = {
        "image": random.integers(0, 256, (5, 2, 3, 3), np.uint8),
        "label": random.integers(0, 19, (5, 4, 6), np.uint8),
        "valid": np.array([True, True, True, True, False]),
    }
    # With several processes, a mesh also has devices of others: here as many again.
    meshes = {count: SimpleNamespace(local_devices=list(range(count)), size=2 * count) for count in (1, 2, 3, 4, 5, 8)}
    assert pad_images(batch, meshes[1], 255) is batch
    assert pad_images(batch, meshes[5], 255) is batch
    assert len(pad_images(batch, make_mesh([4]), 255)["valid"]) == 8
    for count, total in ((2, 6), (4, 8), (8, 8), (3, 6)):
        padded = pad_images(batch, meshes[count], 255)
        assert padded.keys() == batch.keys()
        for key, array in padded.items():
            assert array.shape == (total, *batch[key].shape[1:])
            assert array.dtype == batch[key].dtype
            np.testing.assert_array_equal(array[:5], batch[key])
        assert np.all(padded["label"][5:] == 255)
        assert np.all(padded["image"][5:] == 0)
        assert not padded["valid"][5:].any()


def test_places_are_those_of_the_local_images():
    mesh = make_mesh([8])
    array = global_batch({"image": np.arange(8)}, mesh)["image"]
    np.testing.assert_array_equal(np.asarray(array)[local_places(array)], local_images(array))
    assert local_places(array).tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
