"""Labels of images of every size and kind, and of folders with files that cannot be read."""

from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from ass_jax.inference import predictor as predict
from ass_jax.inference.predictor import (
    Predictor,
    ProgramPredictor,
    find_images,
    open_predictor,
    output_names,
    predict_files,
    read_image,
)
from ass_jax.inference.views import prediction_step
from ass_jax.models.preprocess import normalise
from ass_jax.ops import resize_bilinear
from ass_jax.weights.export import state_dict, write
from ass_jax.weights.files import WeightFileError
from ass_jax.weights.trained_model import Trained
from configs import base
from tests.weights.test_export import NAMES, PALETTE, SIZE, trained

CLASSES = SimpleNamespace(names=NAMES, palette=PALETTE)


def configuration():
    config = base.get_config()
    config.data.target_size = SIZE
    config.model.update(backbone="resnet_tiny", pixel_deviation=(64.0,) * 3)
    return config


@pytest.fixture(scope="module")
def model():
    return trained()


@pytest.fixture(scope="module")
def predictor(model):
    return Predictor(model)


def picture(height, width):
    coarse = np.random.default_rng(1).integers(0, 256, (-(-height // 8), -(-width // 8), 3), np.uint8)
    return coarse.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]


def test_equals_evaluation_at_the_size_of_training(model, predictor):
    image = picture(*SIZE)
    labels, confidence = predictor.with_confidence(image)
    evaluated = prediction_step(model.variables, image[None], networks=model.networks, config=model.config, size=SIZE)
    np.testing.assert_array_equal(labels, evaluated[0])
    assert len(np.unique(labels)) > 1
    np.testing.assert_array_equal(predictor(image), labels)
    _, logits = model.networks.segmenter.apply(model.variables, normalise(image[None], model.config), train=False)
    probabilities = jax.nn.softmax(resize_bilinear(logits, SIZE))[0]
    np.testing.assert_allclose(confidence, probabilities.max(axis=-1), atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (33, 47), (600, 90)])
def test_any_size(model, predictor, size):
    image = picture(*size)
    labels, confidence = predictor.with_confidence(image)
    assert (labels.shape, labels.dtype, confidence.dtype) == (size, np.uint8, np.float32)
    assert (confidence >= 1 / 3).all()
    assert (confidence <= 1).all()
    resized = np.asarray(Image.fromarray(image).resize(SIZE[::-1], Image.Resampling.BILINEAR))
    evaluated = prediction_step(model.variables, resized[None], networks=model.networks, config=model.config, size=size)
    np.testing.assert_array_equal(labels, evaluated[0])


def test_very_wide_images_are_labelled_in_pieces(predictor, monkeypatch):
    image = picture(40, 200)
    labels, confidence = predictor.with_confidence(image)
    monkeypatch.setattr(predict, "_PIXELS", 7 * 200)
    found = predictor.with_confidence(image)
    np.testing.assert_array_equal(found[0], labels)
    np.testing.assert_allclose(found[1], confidence, atol=1e-6)


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (np.zeros((4, 4), np.uint8), r"uint8 \[4, 4\]"),
        (np.zeros((4, 4, 4), np.uint8), r"uint8 \[4, 4, 4\]"),
        (np.zeros((4, 4, 3), np.float32), r"float32 \[4, 4, 3\]"),
        (np.zeros((0, 4, 3), np.uint8), r"uint8 \[0, 4, 3\]"),
    ],
)
def test_other_arrays_are_refused(predictor, image, found):
    with pytest.raises(ValueError, match=rf"Expected an image uint8 \[Y, X, 3\], found {found}\."):
        predictor(image)


@pytest.mark.parametrize(
    ("mode", "ending"),
    [
        ("1", "png"),
        ("L", "png"),
        ("LA", "png"),
        ("P", "gif"),
        ("RGBA", "png"),
        ("CMYK", "jpg"),
        ("YCbCr", "jpg"),
        ("RGB", "webp"),
        ("RGB", "tif"),
        ("RGB", "bmp"),
    ],
)
def test_images_of_every_mode_become_rgb(tmp_path, mode, ending):
    path = tmp_path / f"image.{ending}"
    Image.new("RGB", (7, 5), (255, 255, 255)).convert(mode).save(path)
    found = read_image(path)
    assert (found.shape, found.dtype) == ((5, 7, 3), np.uint8)
    assert found.min() >= 250


@pytest.mark.parametrize(
    ("pixels", "ending", "expected"),
    [
        (np.array([[0, 257, 65535]], np.uint16), "png", [0, 1, 255]),
        (np.array([[0, 32768, 65535]], np.uint16), "tif", [0, 128, 255]),
        (np.array([[0.0, 0.5, 1.0]], np.float32), "tif", [0, 128, 255]),
        (np.array([[0, 65535, 100_000]], np.int32), "tif", [0, 255, 255]),
    ],
)
def test_deeper_grey_images_are_scaled(tmp_path, pixels, ending, expected):
    path = tmp_path / f"image.{ending}"
    Image.fromarray(pixels).save(path)
    np.testing.assert_array_equal(read_image(path)[0], np.repeat(np.array(expected)[:, None], 3, axis=1))


def test_palette_images_show_their_colours(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image.putpalette(PALETTE.tobytes())
    image.save(tmp_path / "image.png")
    np.testing.assert_array_equal(read_image(tmp_path / "image.png")[0], PALETTE)


@pytest.mark.parametrize(("orientation", "corner"), [(1, (0, 0)), (3, (1, 2)), (6, (0, 1)), (8, (2, 0))])
def test_cameras_that_lay_on_their_side(tmp_path, orientation, corner):
    """The bright block of the stored picture's first corner lies where the camera's note says."""
    stored = np.zeros((32, 48, 3), np.uint8)
    stored[:16, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "image.jpg", exif=exif, quality=95)
    found = read_image(tmp_path / "image.jpg")
    blocks = found.reshape(found.shape[0] // 16, 16, found.shape[1] // 16, 16, 3).mean(axis=(1, 3, 4))
    assert blocks.shape == ((2, 3) if orientation in (1, 3) else (3, 2))
    assert np.unravel_index(blocks.argmax(), blocks.shape) == corner


def unreadable(folder):
    """Writes files with the endings of images that are none."""
    whole = folder / "whole.png"
    Image.fromarray(picture(50, 60)).save(whole)
    content = whole.read_bytes()
    whole.unlink()
    files = {"cut.png": content[:300], "empty.jpg": b"", "text.png": b"hello", "page.tif": b"II*\0\xff\xff\xff\xff"}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in files]


def test_unreadable_images(tmp_path):
    for path in unreadable(tmp_path):
        with pytest.raises(ValueError, match=rf"^{path}: cannot be read as an image \(.+\)\.$"):
            read_image(path)


def test_files_that_cannot_be_read_do_not_stop_the_others(tmp_path, predictor, capsys, monkeypatch):
    broken = unreadable(tmp_path)
    images = {"a.png": picture(20, 30), "z.png": picture(*SIZE)}
    for name, image in images.items():
        Image.fromarray(image).save(tmp_path / name)
    monkeypatch.setattr(predict, "_TELL_EVERY", 0.0)
    output = tmp_path / "new" / "output"
    failures = predict_files(predictor, find_images(str(tmp_path)), output, confidence=True)
    assert [line.partition(": ")[0] for line in failures] == sorted(map(str, broken))
    assert {path.name for path in output.iterdir()} == {
        f"{name}{suffix}.png" for name in "az" for suffix in ("", "_overlay", "_confidence")
    }
    progress = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in progress] == [f"{number}/6" for number in range(1, 7)]
    assert progress[-1].endswith("left")
    for name, image in images.items():
        labels, confidence = predictor.with_confidence(image)
        stem = name.removesuffix(".png")
        with Image.open(output / f"{stem}.png") as written:
            assert written.mode == "P"
            np.testing.assert_array_equal(np.asarray(written), labels)
        overlay = np.asarray(Image.open(output / f"{stem}_overlay.png"))
        np.testing.assert_allclose(overlay, (image.astype(float) + PALETTE[labels]) / 2, atol=1)
        grey = np.asarray(Image.open(output / f"{stem}_confidence.png"))
        np.testing.assert_array_equal(grey, np.round(255 * confidence))


def test_without_confidence_and_with_a_last_failure_progress_ends(tmp_path, predictor, capsys):
    Image.fromarray(picture(8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").touch()
    failures = predict_files(predictor, [tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "out")
    assert len(failures) == 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.png", "a_overlay.png"}
    assert capsys.readouterr().out.splitlines()[-1].startswith("2/2 images")


def test_results_do_not_replace_images(tmp_path, predictor):
    Image.fromarray(picture(8, 8)).save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(ValueError, match=r"a\.png would be replaced by a result\. Choose another output folder"):
        predict_files(predictor, [tmp_path / "a.png"], tmp_path)
    assert (tmp_path / "a.png").read_bytes() == before


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ([], []),
        (["in/a.jpg", "in/b.png"], ["a", "b"]),
        (["in/a.jpg", "in/a.png", "in/b.png"], ["a.jpg", "a.png", "b"]),
        (["in/a.jpg", "in/A.png"], ["a.jpg", "A.png"]),
        (["in/left/a.jpg", "in/right/a.jpg"], ["left_a.jpg", "right_a.jpg"]),
        (["in/a.jpg", "in/a_overlay.jpg"], ["a.jpg", "a_overlay.jpg"]),
        (["in/a.jpg", "in/a.png", "in/a.png.jpg"], ["a.jpg", "a.png", "a.png.jpg"]),
        (["in/x/y_a.jpg", "in/x_y/a.jpg", "in/z/a.jpg"], ["y_a", "x_y_a.jpg", "z_a.jpg"]),
        (
            ["in/b.jpg", "in/x/y_a.jpg", "in/x_y/a.jpg", "in/z/a.jpg", "in/z/y_a.jpg"],
            ["b", "x_y_a.jpg_1", "x_y_a.jpg_2", "z_a.jpg", "z_y_a.jpg"],
        ),
        (["in/a.jpg", "in/a.jpg", "in/a.jpg_1.png"], ["a.jpg_2", "a.jpg_3", "a.jpg_1"]),
    ],
)
def test_names_of_results_differ(inputs, expected):
    assert output_names([Path(name) for name in inputs]) == expected


def test_names_of_results_do_not_depend_on_images_that_do_not_clash():
    inputs = [Path(folder) / name for folder in ("left", "right") for name in ("a.jpg", "a.png", "b.jpg")]
    names = dict(zip(inputs, output_names(inputs), strict=True))
    others = [Path("left/0.jpg"), *inputs, Path("right/z.jpg")]
    assert dict(zip(others, output_names(others), strict=True)).items() >= names.items()


def test_finding_images(tmp_path, monkeypatch):
    for name in ("b.JPG", "a.png", "note.txt", "paper.pdf", "deep/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_images(str(tmp_path)) == [tmp_path / "a.png", tmp_path / "b.JPG"]
    assert find_images(str(tmp_path / "note.txt")) == [tmp_path / "note.txt"]
    assert find_images(f"{tmp_path}/**/*.png") == [tmp_path / "a.png", tmp_path / "deep" / "c.png"]
    monkeypatch.chdir(tmp_path)
    assert find_images("*.png") == [Path("a.png")]
    (tmp_path / "none").mkdir()
    for pattern in ("none", "absent.png", "*.gif"):
        with pytest.raises(FileNotFoundError, match=r"No images at '.*': expected an image, a folder of images or a"):
            find_images(pattern)


def test_predictors_of_every_kind_of_weights(tmp_path, model, predictor):
    image = picture(*SIZE)
    expected = predictor(image)
    for name in ("model.safetensors", "model.jaxexport"):
        write(model, tmp_path / name)
        opened = open_predictor(tmp_path / name, configuration(), CLASSES)
        assert isinstance(opened, ProgramPredictor if name.endswith("jaxexport") else Predictor)
        np.testing.assert_array_equal(opened(image), expected)
        assert tuple(opened.names) == NAMES
    # Foreign weights expect their own pixels, whatever the configuration says.
    np.savez(tmp_path / "foreign.npz", **state_dict(model))
    foreign = configuration()
    foreign.model.pixel_deviation = (1.0,) * 3
    expected = Predictor(Trained(foreign, NAMES, PALETTE, model.variables))(image)
    opened = open_predictor(str(tmp_path / "foreign.npz"), configuration(), CLASSES)
    np.testing.assert_array_equal(opened(image), expected)


def test_weights_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent: expected the working directory of a run or a weight file"):
        open_predictor(tmp_path / "absent", configuration(), CLASSES)
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        open_predictor(tmp_path, configuration(), CLASSES)
    (tmp_path / "weights.onnx").touch()
    with pytest.raises(WeightFileError, match=r"onnx: unknown kind of weights\. Expected .*\.npz, .*\.jaxexport\."):
        open_predictor(tmp_path / "weights.onnx", configuration(), CLASSES)
    for content in (b"", b"no program", bytes(1000)):
        (tmp_path / "model.jaxexport").write_bytes(content)
        with pytest.raises(WeightFileError, match=r"model\.jaxexport: not a whole program of ass_jax\.export"):
            open_predictor(tmp_path / "model.jaxexport", configuration(), CLASSES)
