"""Array files: their contents, and a one-line error for each that cannot be used."""

import os
import pickle
import re
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from ml_collections import ConfigDict

from ass_jax.inference.predictor import open_predictor
from ass_jax.weights import torch_files
from ass_jax.weights.files import WeightFileError, read_arrays, write_arrays

ARRAYS = {
    "conv.weight": np.arange(2 * 3 * 3 * 3, dtype=np.float32).reshape(2, 3, 3, 3),
    "conv.half": np.array([0.5, -2], np.float16),
    "counter": np.array(7, np.int64),
}
# Written by PyTorch 2.13: ARRAYS, a Parameter, a view with strides, and noise; "old" as before PyTorch 1.6.
STATE_DICTS = {name: Path(__file__).parents[1] / "golden" / f"{name}.pth" for name in ("state_dict", "state_dict_old")}


def in_state_dicts():
    weight = ARRAYS["conv.weight"]
    noise = np.random.default_rng(0).random(500)
    return ARRAYS | {"parameter": weight[0], "strided": weight.transpose(3, 1, 2, 0)[1:], "noise": noise}


@pytest.fixture
def torch():
    return pytest.importorskip("torch", minversion="2.10")


class Marker:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def save(path, arrays=ARRAYS):
    """Writes arrays in the format that the path's ending names."""
    if path.suffix == ".safetensors":
        safetensors.numpy.save_file(arrays, path)
    elif path.suffix == ".npz":
        np.savez_compressed(path, **arrays)
    else:
        torch = pytest.importorskip("torch", minversion="2.10")
        torch.save(OrderedDict((name, torch.from_numpy(array)) for name, array in arrays.items()), path)
    return path


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert found[name].tobytes() == array.tobytes(), name


def refusal(path):
    """Returns the error for a refused file; checks that it names the file and is one line."""
    with pytest.raises(WeightFileError) as error:
        read_arrays(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.npz", "weights.pth", "weights.PT"])
def test_arrays_come_back_bit_for_bit(tmp_path, name):
    found, metadata = read_arrays(save(tmp_path / name))
    assert_same(found, ARRAYS)
    assert metadata == {}


@pytest.mark.parametrize("name", STATE_DICTS)
def test_state_dicts_without_pytorch(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert_same(read_arrays(STATE_DICTS[name])[0], in_state_dicts())


def test_own_files_keep_their_metadata_and_replace_whole(tmp_path):
    path = tmp_path / "folder" / "weights.safetensors"
    transposed = ARRAYS["conv.weight"].transpose(2, 3, 1, 0)
    for _ in range(2):
        write_arrays(path, {"kernel": transposed}, {"model": "{}"})
    found, metadata = read_arrays(path)
    np.testing.assert_array_equal(found["kernel"], transposed)
    assert metadata == {"model": "{}"}
    with pytest.raises(WeightFileError, match=r"weights\.npz: expected a name that ends in \.safetensors"):
        write_arrays(tmp_path / "weights.npz", {"kernel": transposed}, {})
    with pytest.raises(safetensors.SafetensorError, match="object"):
        write_arrays(path, {"kernel": transposed, "nonsense": np.array(None)}, {})
    assert_same(read_arrays(path)[0], {"kernel": np.ascontiguousarray(transposed)})
    assert [file.name for file in path.parent.iterdir()] == ["weights.safetensors"]


def test_bfloat16(tmp_path):
    values = np.array([1.5, -3], ml_dtypes.bfloat16)
    safetensors.numpy.save_file({"weight": values}, tmp_path / "weights.safetensors")
    found = read_arrays(tmp_path / "weights.safetensors")[0]["weight"]
    np.testing.assert_array_equal(found.astype(np.float32), [1.5, -3])


def test_tensors_of_pytorch(tmp_path, torch):
    weight = torch.arange(6.0).reshape(2, 3)
    tensors = {
        "brain": torch.tensor([1.5, -3], dtype=torch.bfloat16),
        "half": torch.tensor([1.5], dtype=torch.float16),
        "parameter": torch.nn.Parameter(weight),
        "strided": weight.T,
        "shared": weight[1],
    }
    for legacy in (False, True):
        torch.save(tensors, tmp_path / "weights.pth", _use_new_zipfile_serialization=not legacy)
        found, _ = read_arrays(tmp_path / "weights.pth")
        assert [found[name].dtype for name in tensors] == [np.float32, np.float16] + 3 * [np.float32]
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(found[name], tensor.detach().float().numpy())


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict", "teacher"])
def test_state_dicts_inside_checkpoints(tmp_path, torch, wrapper):
    torch.save({"epoch": 3, wrapper: {"weight": torch.ones(2)}, "optimizer": {}}, tmp_path / "weights.pth")
    assert_same(read_arrays(tmp_path / "weights.pth")[0], {"weight": np.ones(2, np.float32)})
    torch.save({"model": {wrapper: {"weight": torch.ones(2)}}}, tmp_path / "weights.pth")
    assert_same(read_arrays(tmp_path / "weights.pth")[0], {"weight": np.ones(2, np.float32)})


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (lambda torch: [torch.ones(2)], "expected a state dict of tensors, found list"),
        (lambda torch: {"epoch": 3, "net": {"weight": torch.ones(2)}}, "under state_dict, model_state_dict, model, te"),
        (lambda torch: {"epoch": 3, "net": {"weight": torch.ones(2)}}, "found epoch, net"),
        (lambda torch: {"weight": torch.ones(2), "epoch": 3}, "expected only tensors, found int 'epoch'"),
        (
            lambda torch: {"weight": torch.eye(2).to_sparse()},
            "expected only plain tensors, found torch._utils._rebuild_sparse_tensor",
        ),
        (
            lambda torch: {"weight": torch.ones(2).to(torch.float8_e4m3fn)},
            "expected only plain tensors, found torch._utils._rebuild_tensor_v3",
        ),
    ],
)
def test_contents_other_than_plain_tensors_are_refused(tmp_path, torch, content, expected):
    torch.save(content(torch), tmp_path / "weights.pth")
    assert expected in refusal(tmp_path / "weights.pth")


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.npz", "state_dict.pth", "state_dict_old.pth"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "other bytes", "one byte less", "middle"])
def test_damaged_files(tmp_path, name, damage):
    path = tmp_path / name
    if path.stem in STATE_DICTS:
        path.write_bytes(STATE_DICTS[path.stem].read_bytes())
    else:
        save(path, in_state_dicts())
    whole = path.read_bytes()
    half = len(whole) // 2
    path.write_bytes(
        {
            "truncated": whole[:half],
            "empty": b"",
            "other bytes": b"<!doctype html>" + 100 * b"\n not found",
            "one byte less": whole[:-1],
            "middle": whole[:half] + bytes(255 - byte for byte in whole[half : half + 64]) + whole[half + 64 :],
        }[damage]
    )
    if damage == "middle" and name in ("weights.safetensors", "state_dict_old.pth"):
        assert read_arrays(path)  # These formats have no checksums over the values.
        return
    kinds = {".pth": "damaged, or not a state dict", ".npz": "not an .npz", ".safetensors": "not a .safetensors"}
    others = {"empty": "the file is empty", "other bytes": "found a web page"}
    assert others.get(damage, kinds[path.suffix]) in refusal(path)


def test_renamed_files(tmp_path):
    """A file of one format with the ending of another is refused."""
    for true in (".safetensors", ".npz"):
        for claimed in {".safetensors", ".npz"} - {true}:
            path = save(tmp_path / f"weights{true}")
            refusal(path.rename(path.with_suffix(claimed)))
    np.save(tmp_path / "array.npy", np.ones(3))
    assert "damaged, or not an .npz" in refusal((tmp_path / "array.npy").rename(tmp_path / "array.npz"))


def test_files_renamed_to_and_from_pytorch(tmp_path, torch):
    for true, claimed in ((".npz", ".pth"), (".safetensors", ".pth"), (".pth", ".npz"), (".pth", ".safetensors")):
        path = save(tmp_path / f"weights{true}")
        refusal(path.rename(path.with_suffix(claimed)))


def test_npz_without_arrays_or_with_other_files_is_refused(tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path)
    assert "expected arrays, found none" in refusal(path)
    np.savez(path, weight=np.ones(2))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("readme.txt", "hello")
    assert "found another file in it: 'readme.txt'" in refusal(path)


def test_paths_without_a_weight_file_are_refused(tmp_path):
    assert "there is no such file" in refusal(tmp_path / "weights.pth")
    assert "there is no such file" in refusal(tmp_path / "weights")
    (tmp_path / "folder.npz").mkdir()
    assert refusal(tmp_path / "folder.npz").endswith("expected a file, found a folder.")
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "folder.npz" / name).touch()
    assert refusal(tmp_path / "folder.npz").endswith("found a folder. Name a file in it: model.safetensors.")
    (tmp_path / "pointer.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "found a pointer of Git LFS" in refusal(tmp_path / "pointer.safetensors")
    (tmp_path / "weights.bz2").touch()
    expected = "unknown kind of weight file. Expected one of .safetensors, .npz, .h5, .pth"
    assert expected in refusal(tmp_path / "weights.bz2")


def test_h5(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        for name, array in ARRAYS.items():
            file[f"block/{name}"] = array
    assert_same(read_arrays(path)[0], {f"block/{name}": array for name, array in ARRAYS.items()})
    path.write_bytes(path.read_bytes()[:100])
    assert "damaged, or not an .h5 file" in refusal(path)


def test_without_h5py(tmp_path, monkeypatch):
    (tmp_path / "weights.h5").write_bytes(b"\x89HDF")
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert "need h5py: `pip install h5py`" in refusal(tmp_path / "weights.h5")


def test_nothing_in_an_npz_is_run(tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "weights.npz"
    np.savez(path, weight=np.array([Marker(marker)], dtype=object))
    text = refusal(path)
    assert "found Python objects, which could run code and are not read" in text
    assert "pickle" not in text  # NumPy's own message says how to read them all the same.
    path.write_bytes(pickle.dumps({"weight": Marker(marker)}))
    refusal(path)
    assert not marker.exists()
    pickle.loads(path.read_bytes())
    assert marker.exists()  # Plain unpickling does run it.


def test_a_tensor_that_reaches_over_its_storage():
    """Without the check, the array would show other memory of the process."""
    storage = torch_files._Storage("0", np.dtype(np.float32), 6)
    views = (1, (2, 3), (3, 1)), (0, (7,), (1,)), (-1, (2,), (1,)), (5, (2,), (-1,)), (7, (), ())
    for offset, shape, strides in views:
        with pytest.raises(IndexError, match="over the end"):
            torch_files._view(torch_files._Tensor(storage, offset, shape, strides), np.zeros(6, np.float32))


def test_the_byte_order_of_another_machine(tmp_path):
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(STATE_DICTS["state_dict"]) as source, zipfile.ZipFile(path, "w") as archive:
        for name in source.namelist():
            archive.writestr(name, b"big" if name.endswith("byteorder") else source.read(name))
    assert "expected the byte order of this machine, little, found big" in refusal(path)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_nothing_in_a_pth_is_run(tmp_path, torch, form):
    marker, path = tmp_path / "marker", tmp_path / "weights.pth"
    content = {"weight": torch.ones(2), "more": Marker(marker)}
    if form == "pickle":
        path.write_bytes(pickle.dumps({"more": Marker(marker)}))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    assert re.search(r"expected only plain tensors, found \S+, which is not run", refusal(path))
    assert not marker.exists()


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    assert refusal(tmp_path / "pipe.pth").endswith("expected a regular file, found a named pipe, a device or a socket.")
    (tmp_path / "circle.pth").symlink_to(tmp_path / "circle.pth")
    assert refusal(tmp_path / "circle.pth").endswith("expected a file, found a symbolic link that leads to none.")
    os.mkfifo(tmp_path / "pipe.jaxexport")
    with pytest.raises(WeightFileError, match="found a named pipe"):
        open_predictor(tmp_path / "pipe.jaxexport", ConfigDict(), None)


@pytest.mark.parametrize("wrapper", ["net", "generator", "model_state", "model_G"])
def test_unknown_wrappers_are_named(tmp_path, torch, wrapper):
    content = {wrapper: {name: torch.from_numpy(array) for name, array in ARRAYS.items()}, "iteration": 7}
    torch.save(content, tmp_path / "model.pth")
    expected = "expected a state dict of tensors, itself or under state_dict, model_state_dict, model, teacher, found "
    assert refusal(tmp_path / "model.pth").endswith(f"{expected}{wrapper}, iteration.")
