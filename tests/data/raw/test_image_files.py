import io

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from ass_jax.inference.image_files import read_image
from data.classes import IGNORED, class_table, train_ids
from data.datasets.registry import SPECS
from data.raw import image_files
from data.raw.faults import KINDS, BadFileError
from data.raw.label_rules import LabelRules
from data.raw.pairs import Pair, read_pair
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


def turned(tmp_path, orientation):
    """Writes a JPEG of 12x20 pixels, left half red, with an EXIF orientation; returns the file and its pixels."""
    pixels = np.zeros((12, 20, 3), np.uint8)
    pixels[:, :10] = 255, 0, 0
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = tmp_path / f"{orientation}.jpg"
    Image.fromarray(pixels).save(file, exif=exif, quality=95)
    return file, pixels


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda pixels: pixels),
        (2, lambda pixels: pixels[:, ::-1]),
        (3, lambda pixels: pixels[::-1, ::-1]),
        (6, lambda pixels: np.rot90(pixels, -1)),
        (8, np.rot90),
    ],
)
def test_images_are_turned_as_viewers_show_them(tmp_path, orientation, turn):
    file, pixels = turned(tmp_path, orientation)
    found, expected = image_files.read_image(file), turn(pixels)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() < 8  # JPEG blurs the border.
    np.testing.assert_array_equal(found, read_image(file))  # Of predictions.
    assert image_files.is_turned(file) == (orientation in (6, 8))


def upright(array, orientation):
    """Returns pixels as Pillow turns them."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", exif=exif)
    return np.asarray(ImageOps.exif_transpose(Image.open(buffer)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_labels_are_turned_as_viewers_show_them(tmp_path, orientation, kind):
    label = np.array([[0, 1, 1], [0, 2, 3]], np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = tmp_path / "label"
    Image.fromarray(label).save(file, kind, exif=exif)
    np.testing.assert_array_equal(image_files.read_label(file, "any indices"), upright(label, orientation))
    Image.fromarray(np.where(label == 1, 255, 0).astype(np.uint8)).save(file, kind, exif=exif)
    expected = np.where(upright(label, orientation) == 1, 255, 0)
    np.testing.assert_array_equal(image_files.read_label(file, "binary"), expected)
    colours = ((0, 0, 9), (9, 9, 9), (1, 2, 3), (3, 2, 1))
    Image.fromarray(np.array(colours, np.uint8)[label]).save(file, kind, exif=exif)
    np.testing.assert_array_equal(image_files.read_colours(file, colours, 255), upright(label, orientation))


def test_a_photograph_and_its_mask_are_turned_alike(tmp_path):
    image, pixels = turned(tmp_path, 3)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    mask = tmp_path / "mask.jpg"
    Image.fromarray(pixels[..., 0]).save(mask, exif=exif, quality=95)
    read = read_pair(Pair("a", image, mask, (1, 1), (0, 0)), LabelRules("binary", {0: "rest", 255: "red"}, None))
    np.testing.assert_array_equal(read.label, np.where(read.image[..., 0] >= 128, 255, 0))
    assert (read.label[:, 10:] == 255).all()
    assert (read.label[:, :10] == 0).all()


def test_a_label_that_fits_the_stored_pixels_of_a_turned_image_is_explained(tmp_path):
    file, _ = turned(tmp_path, 6)
    rules = LabelRules("any indices", {1: "road"}, None)
    labels = {}
    for name, size in (("upright", (20, 12)), ("stored", (12, 20)), ("other", (13, 20))):
        labels[name] = tmp_path / f"{name}.png"
        Image.fromarray(np.ones(size, np.uint8)).save(labels[name])
    assert read_pair(Pair("a", file, labels["upright"], (1, 1), (0, 0)), rules).label.shape == (20, 12)
    with pytest.raises(BadFileError, match=r"12x20 pixels, its label 20x12.* EXIF orientation.* turn the label"):
        read_pair(Pair("a", file, labels["stored"], (1, 1), (0, 0)), rules)
    with pytest.raises(BadFileError) as error:
        read_pair(Pair("a", file, labels["other"], (1, 1), (0, 0)), rules)
    assert "EXIF" not in str(error.value)


@pytest.mark.parametrize(("dtype", "ending"), [(np.uint16, "png"), (np.uint16, "tif"), (np.int32, "tif")])
def test_own_labels_may_have_16_or_32_bits(tmp_path, dtype, ending):
    label = np.array([[0, 7, 300], [65535, 1, 2]], dtype)
    file = tmp_path / f"label.{ending}"
    Image.fromarray(label).save(file)
    found = image_files.read_label(file, "any indices")
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, label)


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (np.array([[70_000, 1]], np.int32), "raw ids of 0 to 65535, found 1 to 70000"),
        (np.array([[-1, 1]], np.int32), "raw ids of 0 to 65535, found -1 to 1"),
        (np.array([[0.5, 1.0]], np.float32), "whole numbers of 8, 16 or 32 bits"),
        (np.full((2, 3, 3), 7, np.uint8), "Its channels are equal: saved as grey"),
        (np.arange(18, dtype=np.uint8).reshape((2, 3, 3)), "Get the label of raw ids"),
    ],
)
def test_own_labels_that_cannot_be_used_are_explained(tmp_path, label, expected):
    file = tmp_path / "label.tif"
    Image.fromarray(label).save(file)
    with pytest.raises(BadFileError, match=expected) as error:
        image_files.read_label(file, "any indices")
    assert ("channels are equal" in str(error.value)) == ("equal" in expected)
