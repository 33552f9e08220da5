"""Labels that show each class in a colour: read exactly, other colours counted, files with loss refused."""

import numpy as np
import pytest
from PIL import Image

from configs import base
from data import pipeline
from data.classes import IGNORED, class_table, custom_colours, custom_ids
from data.datasets import registry
from data.raw import image_files
from data.raw.faults import BadFileError
from tests.helpers import trees
from tests.helpers.data_check import run_check

ROAD, SKY, VOID = (128, 64, 128), (70, 130, 180), (1, 2, 3)
UNKNOWN = 255


def shown(ids, colours=(ROAD, SKY, VOID)):
    """Returns the colours of ids, uint8 [Y, X, 3]."""
    return np.array(colours, np.uint8)[ids]


IDS = np.array([[0, 0, 1, 1], [1, 2, 0, 0], [1, 1, 1, 2]])
EXPECTED = np.where(IDS == 2, UNKNOWN, IDS)


@pytest.fixture
def read(tmp_path):
    """Returns a function that saves an image and reads it as a label of two colours."""

    def save_and_read(image, kind="PNG", colours=(ROAD, SKY), **options):
        image.save(tmp_path / "label", kind, **options)
        return image_files.read_colours(tmp_path / "label", colours, UNKNOWN)

    return save_and_read


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF"])
def test_colours_are_read_exactly(read, kind):
    found = read(Image.fromarray(shown(IDS)), kind)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, EXPECTED)
    nearly = shown(IDS) + np.array([0, 0, 1], np.uint8)
    nearly[0, 0] = ROAD
    np.testing.assert_array_equal(read(Image.fromarray(nearly), kind), np.where(np.arange(12).reshape(3, 4), 255, 0))


def test_palettes_are_looked_up_and_transparency_is_dropped(read):
    image = Image.fromarray(IDS.astype(np.uint8) + 3, "L")
    image.putpalette([9, 9, 9] * 3 + [*ROAD, *SKY, *VOID])
    np.testing.assert_array_equal(read(image), EXPECTED)
    image = Image.fromarray(shown(IDS)).convert("RGBA")
    image.putalpha(7)
    np.testing.assert_array_equal(read(image), EXPECTED)


def test_grey_values_are_colours(read):
    grey = Image.fromarray(np.array([[0, 200, 7]], np.uint8))
    np.testing.assert_array_equal(read(grey, colours=((200, 200, 200), (0, 0, 0))), [[1, 0, UNKNOWN]])


def test_more_than_255_colours_are_read(tmp_path):
    colours = [(number // 256, number % 256, 5) for number in range(1000)]
    Image.fromarray(shown([[0, 999, 300]], colours)).save(tmp_path / "label.png")
    found = image_files.read_colours(tmp_path / "label.png", colours, 65535)
    assert (found.dtype, found.tolist()) == (np.uint16, [[0, 999, 300]])


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {}), ("TIFF", {"compression": "jpeg"})])
def test_compression_with_loss_is_refused(read, kind, options):
    with pytest.raises(BadFileError, match=f"found {kind}: compression with loss changes colours") as caught:
        read(Image.fromarray(shown(IDS)), kind, **options)
    assert caught.value.fault.kind == "lossy label"


def test_16_bits_are_refused(tmp_path):
    (tmp_path / "label.png").write_bytes(trees.png_bytes(shown(IDS).astype(np.uint16)))
    with pytest.raises(BadFileError, match="8 bits a channel, found PNG, colour of 16 bits"):
        image_files.read_colours(tmp_path / "label.png", (ROAD, SKY), UNKNOWN)


def test_labels_without_a_known_colour_say_what_they_hold(read):
    with pytest.raises(
        BadFileError, match=r"such as \(128, 64, 128\), found \(1, 2, 3\), \(70, 130, 180\)\."
    ) as caught:
        read(Image.fromarray(shown(np.array([[2, 2, 1]]))), colours=(ROAD, (0, 0, 0)))
    assert caught.value.fault.kind == "all ignored"


def test_unknown_colours_are_counted(tmp_path):
    Image.fromarray(shown(IDS)).save(tmp_path / "label.png")
    assert image_files.unknown_colours(tmp_path / "label.png", (ROAD, SKY)) == {VOID: 2}
    assert image_files.unknown_colours(tmp_path / "label.png", (ROAD,)) == {VOID: 2, SKY: 6}


def own(**settings):
    """Settings of own data with two classes in both domains."""
    config = base.default_config()
    config.data.update(source="custom", target="custom", classes="custom")
    config.data.custom.update(names=("road", "sky"), palette=(ROAD, SKY), source_encoding="colours", **settings)
    config.data.custom.update(target_encoding="colours")
    return config


def test_colours_are_those_of_a_table_or_of_the_palette():
    custom = own(source_ids=((VOID, "sky"), (ROAD, "road"), (SKY, "sky"))).data.custom
    assert custom_colours(custom, "source") == (VOID, ROAD, SKY)
    assert custom_ids(custom, "source") == {0: "sky", 1: "road", 2: "sky"}
    assert custom_colours(custom, "target") == (ROAD, SKY)
    assert custom_ids(custom, "target") == {0: "road", 1: "sky"}
    custom.target_encoding = "indices"
    custom.target_ids = ((7, "road"),)
    assert custom_colours(custom, "target") == ()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"source_ids": ((7, "road"),)},
            r"expected colours such as .* since .*source_encoding is 'colours', found 7\.",
        ),
        ({"source_ids": (((1, 2, 256), "road"),)}, r"found \(1, 2, 256\)"),
        ({"source_ids": ((ROAD, "rode"),)}, "unknown class 'rode'"),
        ({"source_ids": ((ROAD, "road"), (ROAD, "sky"))}, r"expected different colours, found \(128, 64, 128\)"),
        ({"palette": (ROAD, ROAD)}, r"data.custom.palette: expected different colours, found \(128, 64, 128\)"),
        ({"source_encoding": "indices", "source_ids": ((ROAD, "road"),)}, "colours need .*source_encoding = 'colours'"),
    ],
)
def test_mistakes_in_the_table_of_colours_are_explained(settings, expected):
    config = own()
    config.data.custom.update(settings)
    with pytest.raises(ValueError, match=expected):
        registry.find_spec(config.data, "source")


@pytest.fixture
def streets(tmp_path):
    """Own data in both domains: labels in the colours of the palette, a bar of another colour, one as palette PNG."""
    config = own(source_images="photos", source_labels="masks", target_images="photos", target_labels="masks")
    config.data.custom.update(validation_images="photos", validation_labels="masks")
    config.data.update(directory=str(tmp_path / "prepared"), labelled_count=-1, readers=2)
    config.data.update(source_size=(24, 40), target_size=(24, 40), rare_class_temperature=0.0)
    ids = []
    for domain in ("source", "target"):
        config.data[f"{domain}_root"] = str(tmp_path / domain)
        tree = trees.write_custom(tmp_path / domain, count=2)
        ids = [np.where(label == label[12, 20], 1, 0) for label in tree.labels]
        for place, (file, of_file) in enumerate(zip(tree.label_files, ids, strict=True)):
            of_file[: place + 1, :5] = 2
            image = Image.fromarray(of_file.astype(np.uint8), "L")
            image.putpalette([*ROAD, *SKY, *VOID])
            (image if place else image.convert("RGB")).save(file)
    return config, ids


def test_prepared_labels_hold_classes(streets):
    config, ids = streets
    batches = list(pipeline.evaluation_batches(config))
    np.testing.assert_array_equal([batch["label"][0] for batch in batches], np.where(np.array(ids) == 2, IGNORED, ids))
    source = next(pipeline.training_batches(config))["source"]["label"][0]
    assert {0, 1, IGNORED} == set(np.unique(source))
    assert registry.scored_classes(config).raw_ids is None
    assert class_table("custom", config.data.custom).palette.tolist() == [list(ROAD), list(SKY)]


def test_check_names_unknown_colours(streets, capsys):
    works, text = run_check(streets[0], capsys)
    assert works, text
    assert "  colour   share of pixels   labels   class\n" in text
    assert "  (128, 64, 128)  " in text
    assert "others             0.78%        2   ignored (colours without a class, see below)\n" in text
    assert "which are not in data.custom.source_ids or, where it is empty, data.custom.palette:\n" in text
    assert "    (1, 2, 3): 15 pixels in 2 labels\n" in text


def test_check_refuses_jpeg_and_says_why(streets, capsys, tmp_path):
    config, _ = streets
    file = tmp_path / "source" / "masks" / "photo 0.png"
    Image.open(file).convert("RGB").save(file.with_suffix(".jpg"))
    file.unlink()
    config.data.rejected_limit = 0
    works, text = run_check(config, capsys)
    assert not works
    assert f"{file.with_suffix('.jpg')}: lossy label: expected the exact colours" in text


def test_check_says_how_many_colours_smoothing_made(streets, capsys, tmp_path):
    file = tmp_path / "source" / "masks" / "photo 0.png"
    image = Image.open(file).convert("RGB")
    image.resize((80, 48), Image.Resampling.BICUBIC).resize((40, 24), Image.Resampling.BICUBIC).save(file)
    text = run_check(streets[0], capsys)[1]
    assert " more or others; so many are a sign of labels that were resized" in text
