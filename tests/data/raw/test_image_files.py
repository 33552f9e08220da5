import io

import numpy as np
import pytest
from PIL import Image

from data.classes import IGNORED, class_table, train_ids
from data.datasets.registry import SPECS
from data.raw import image_files
from data.raw.faults import KINDS, BadFileError
from data.raw.pairs import read_pair
from tests.helpers import file_faults, trees
from tests.helpers.miniature_specs import miniature_spec

SIZES = {"gta5": (1052, 1914), "synthia": (960, 1280), "cityscapes": (1024, 2048), "custom": (480, 640)}


@pytest.mark.parametrize("size", ["small", "real"])
@pytest.mark.parametrize("data_set", trees.WRITERS)
def test_every_raw_id_is_read_back(data_set, size, tmp_path):
    options = {"size": SIZES[data_set]} if size == "real" else {}
    tree = trees.WRITERS[data_set](tmp_path, count=1, **options)
    spec, split = miniature_spec(data_set)
    found = spec.find(tmp_path, split)
    assert found.faults == []
    read = read_pair(found.pairs[0], spec.labels)
    np.testing.assert_array_equal(read.image, tree.images[0])
    np.testing.assert_array_equal(read.label, tree.labels[0])
    assert set(np.unique(read.label)) >= trees.known_ids(data_set)
    np.testing.assert_array_equal(read.counts, np.bincount(tree.labels[0].ravel(), minlength=256))


@pytest.mark.parametrize("data_set", ["gta5", "synthia", "cityscapes"])
def test_train_ids_match_the_published_map(data_set, tmp_path):
    shared = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13}
    shared |= {27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
    synthia = {3: 0, 4: 1, 2: 2, 21: 3, 5: 4, 7: 5, 15: 6, 9: 7, 6: 8, 1: 10, 10: 11, 17: 12, 8: 13, 19: 15}
    expected = (synthia | {12: 17, 11: 18}) if data_set == "synthia" else shared
    tree = trees.WRITERS[data_set](tmp_path, count=1)
    spec, split = miniature_spec(data_set)
    raw = read_pair(spec.find(tmp_path, split).pairs[0], spec.labels).label
    found = train_ids(SPECS[data_set].labels.raw_ids, class_table("cityscapes19"))[raw]
    by_hand = np.vectorize(lambda raw_id: expected.get(raw_id, IGNORED))(tree.labels[0])
    np.testing.assert_array_equal(found, by_hand)


def test_car_and_licence_plate_share_a_colour_but_not_an_id(tmp_path):
    tree = trees.write_gta5(tmp_path, count=1)
    image = Image.open(tree.label_files[0])
    palette = np.array(image.getpalette()).reshape(-1, 3)
    assert image.mode == "P"
    assert palette[26].tolist() == palette[34].tolist()
    label = image_files.read_label(tree.label_files[0], "indices")
    assert {26, 34} <= set(np.unique(label))


def test_16_bit_labels_keep_their_high_bytes(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (37, 53, 3), np.uint16)
    (tmp_path / "a.png").write_bytes(trees.png_bytes(values))
    np.testing.assert_array_equal(image_files.read_label(tmp_path / "a.png", "first of three"), values[..., 0])


def test_16_bit_labels_match_tensorflow(tmp_path):
    import tensorflow as tf

    values = np.random.default_rng(1).integers(0, 65536, (960, 1280, 3), np.uint16)
    values[::2] //= 3000  # Runs of equal values, so that the encoder uses its filters.
    content = tf.io.encode_png(values).numpy()
    (tmp_path / "a.png").write_bytes(content)
    label = image_files.read_label(tmp_path / "a.png", "first of three")
    np.testing.assert_array_equal(label, tf.io.decode_png(content, dtype=tf.uint16)[..., 0])


@pytest.mark.parametrize("values", [256, 65536])
def test_own_labels_may_have_16_bits(values, tmp_path):
    label = np.random.default_rng(0).integers(0, values, (9, 11)).astype(np.uint16)
    (tmp_path / "a.png").write_bytes(trees.png_bytes(label))
    found = image_files.read_label(tmp_path / "a.png", "any indices")
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, label)


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("RGB", "JPEG"), ("LA", "PNG")]
)
def test_other_images_become_rgb(mode, kind, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    image.save(tmp_path / "a", kind)
    found = image_files.read_image(tmp_path / "a")
    assert found.shape == (12, 20, 3)
    assert found.dtype == np.uint8
    if mode == "RGBA":
        np.testing.assert_array_equal(found, pixels)
    if mode in ("L", "LA"):
        grey = np.asarray(Image.fromarray(pixels).convert("L"))
        np.testing.assert_array_equal(found, np.stack([grey] * 3, -1))


def test_labels_may_have_one_bit(tmp_path):
    mask = np.random.default_rng(0).random((8, 9)) < 0.5
    Image.fromarray(mask).save(tmp_path / "a.png")
    np.testing.assert_array_equal(image_files.read_label(tmp_path / "a.png", "any indices"), mask)


def test_unknown_encoding_lists_the_valid_ones(tmp_path):
    with pytest.raises(ValueError, match=r"'runs'.*indices, first of three, any indices"):
        image_files.read_label(tmp_path / "a.png", "runs")


def test_at_least_twenty_faults():
    assert len(file_faults.FAULTS) >= 20


@pytest.mark.parametrize(
    ("name", "data_set"),
    [(name, data_set) for name, plant in file_faults.FAULTS.items() for data_set in plant.data_sets],
)
def test_planted_faults_are_named_with_their_file(name, data_set, tmp_path):
    trees.WRITERS[data_set](tmp_path, count=3)
    expected = file_faults.plant(name, trees.WRITERS[data_set](tmp_path, count=3), 1)
    spec, split = miniature_spec(data_set)
    found = spec.find(tmp_path, split)
    faults, read = list(found.faults), []
    for pair in found.pairs:
        try:
            read.append(read_pair(pair, spec.labels))
        except BadFileError as error:
            faults.append(error.fault)
    assert (expected.kind, expected.file) in [fault[:2] for fault in faults]
    lost = file_faults.FAULTS[name].pairs_lost
    assert len(read) == (0 if lost is None else 3 - lost)
    for fault in faults:
        assert fault.kind in KINDS
        assert str(fault).startswith(f"{fault.file}: ")


def test_images_of_own_data_need_no_labels(tmp_path):
    tree = trees.write_custom(tmp_path)
    tree.label_files[2].unlink()
    spec, split = miniature_spec("custom", "target")
    found = spec.find(tmp_path, split)
    assert found.faults == []
    assert [pair.label is not None for pair in found.pairs] == [True, True, False, True]
    read = read_pair(found.pairs[2], spec.labels)
    assert (read.label == IGNORED).all()
    assert read.label.shape == tree.labels[2].shape
    assert not read.counts.any()


def test_damage_that_pillow_accepts_is_found(tmp_path):
    """Pillow alone does not verify the checksums of image data; damaged pixels must not pass silently."""
    buffer = io.BytesIO()
    Image.fromarray(trees.scene("gta5", 0, (64, 96))[0]).save(buffer, "PNG")
    content = bytearray(buffer.getvalue())
    content[len(content) // 2] ^= 0x55
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(BadFileError, match="damaged"):
        image_files.read_image(tmp_path / "a.png")
