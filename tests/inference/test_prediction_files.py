"""Prediction files: their names, which never lead out of their folder, and what is in them."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ass_jax import visualization
from ass_jax.inference.prediction_files import PredictionFiles, file_name
from configs.user_error import UserError
from data import classes as labels

TOWN = SimpleNamespace(palette=np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], np.uint8), raw_ids=None)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("aachen/aachen_000000_000019", "aachen_000000_000019.png"),
        ("aachen_000000_000019_gtFine", "aachen_000000_000019_gtFine.png"),
        ("target_validation_000003", "target_validation_000003.png"),
        ("patient 1/12", "patient_1_12.png"),
        ("a/b/c", "a_b_c.png"),
        ("image.1", "image.1.png"),
        ("../../etc/passwd", "etc_passwd.png"),
        ("/etc/passwd", "etc_passwd.png"),
        ("..\\..\\system", "system.png"),
        ("C:\\x", "C__x.png"),
        ("..", ""),
        ("./.././/", ""),
        ("", ""),
        (".hidden", "hidden.png"),
        ("a\0b\nc", "a_b_c.png"),
        ("~/x", "~/x".replace("~/", "__") + ".png"),
        ("Zürich/Zürich_1", "Zürich_1.png"),
    ],
)
def test_file_names_are_safe(name, expected):
    assert file_name(name) == expected
    assert Path(expected).name == expected


def test_raw_ids_and_colours_of_cityscapes(tmp_path):
    prediction = np.arange(16, dtype=np.uint8).reshape(4, 4)
    for classes in ("synthia16", "cityscapes19"):
        table = labels.class_table(classes)
        with PredictionFiles(tmp_path / classes / "predictions", table) as files:
            files.add("ulm/ulm_000001_000019", prediction)
        written = Image.open(tmp_path / classes / "predictions" / "ulm_000001_000019.png")
        assert written.mode == "L"
        back = labels.train_ids(labels.CITYSCAPES_RAW_IDS, table)
        np.testing.assert_array_equal(back[np.asarray(written)], prediction)
        colours = Image.open(tmp_path / classes / "predictions_color" / "ulm_000001_000019.png").convert("RGB")
        np.testing.assert_array_equal(colours, table.palette[prediction])


def test_many_predictions_of_hostile_and_missing_names_stay_in_the_folder(tmp_path):
    predictions = np.random.default_rng(0).integers(0, 3, (80, 5, 7)).astype(np.uint8)
    with PredictionFiles(tmp_path / "run" / "predictions", TOWN) as files:
        for number, prediction in enumerate(predictions):
            files.add(["", "..", f"../../{number}", f"/x/{number}"][number % 4], prediction)
    expected = {[f"{n:06}.png", f"{n:06}.png", f"{n}.png", f"x_{n}.png"][n % 4]: n for n in range(80)}
    assert files.count == 80
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"predictions", "predictions_color"}
    assert {path.name for path in files.color_path.iterdir()} == set(expected)
    for name, number in expected.items():
        np.testing.assert_array_equal(Image.open(files.path / name), predictions[number])


def test_long_names_are_shortened_and_stay_different(tmp_path):
    names = [f"{'folder/' * 40}é{'x' * 246}{number}" for number in range(3)]
    with PredictionFiles(tmp_path / "predictions", TOWN) as files:
        for name in names:
            files.add(name, np.zeros((2, 3), np.uint8))
    written = [path.name for path in (tmp_path / "predictions").iterdir()]
    assert len(written) == 3
    assert all(len(name.encode()) <= 255 for name in written)


def test_images_of_the_same_file_name_are_refused(tmp_path):
    prediction = np.zeros((2, 2), np.uint8)
    with PredictionFiles(tmp_path / "predictions", TOWN) as files:
        files.add("a/b", prediction)
        with pytest.raises(UserError, match=r"images 'a/b' and 'a_b' would both be the file a_b\.png"):
            files.add("a_b", prediction)


def test_failed_write_surfaces(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(visualization, "save_picture", fail)
    with (
        pytest.raises(UserError, match=r"cannot be written \(disk full\)"),
        PredictionFiles(tmp_path / "predictions", TOWN) as files,
    ):
        files.add("a", np.zeros((2, 2), np.uint8))
