"""Results of a user's own images, in a folder with files that cannot be read."""

import functools

import numpy as np
import pytest
from PIL import Image

from ass_jax.inference import prediction_files
from ass_jax.inference.image_files import find_images
from ass_jax.inference.prediction_files import older_results, predict_files
from ass_jax.inference.predictor import Predictor
from ass_jax.runtime import console
from configs.user_error import UserError
from tests.helpers.broken_images import write_broken_images
from tests.inference.test_predictor import picture
from tests.weights.test_export import PALETTE, SIZE, trained


@pytest.fixture(scope="module")
def predictor():
    return Predictor(trained())


def test_files_that_cannot_be_read_do_not_stop_the_others(tmp_path, predictor, capsys, monkeypatch):
    broken = write_broken_images(tmp_path)
    images = {"a.png": picture(20, 30), "z.png": picture(*SIZE)}
    for name, image in images.items():
        Image.fromarray(image).save(tmp_path / name)
    monkeypatch.setattr(prediction_files, "progress", functools.partial(console.progress, every=0.0))
    output = tmp_path / "new" / "output"
    failures = predict_files(predictor, find_images(str(tmp_path)), output, confidence=True)
    assert [line.partition(": ")[0] for line in failures] == sorted(map(str, broken))
    assert {path.name for path in output.iterdir()} == {
        f"{name}{suffix}.png" for name in "az" for suffix in ("", "_overlay", "_confidence")
    }
    progress = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in progress] == [f"{number}/6" for number in range(2, 7)]
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


def test_without_confidence(tmp_path, predictor):
    Image.fromarray(picture(8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").touch()
    failures = predict_files(predictor, [tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "out")
    assert len(failures) == 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.png", "a_overlay.png"}


def test_older_results_of_what_cannot_be_read_are_named(tmp_path, predictor):
    image, output = tmp_path / "a.png", tmp_path / "out"
    Image.fromarray(picture(8, 8)).save(image)
    assert predict_files(predictor, [image], output) == []
    assert older_results([image, tmp_path / "b.png"], output) == [output / "a.png", output / "a_overlay.png"]
    image.write_bytes(b"damaged")
    (failure,) = predict_files(predictor, [image], output)
    assert failure.endswith(" Results of an earlier prediction stay: a.png, a_overlay.png.")


def test_names_as_long_as_file_systems_take(tmp_path, predictor):
    names = [f"{'x' * 250}{number}.png" for number in range(2)]
    for name in names:
        Image.fromarray(picture(8, 8)).save(tmp_path / name)
    assert predict_files(predictor, [tmp_path / name for name in names], tmp_path / "out", confidence=True) == []
    written = [path.name for path in (tmp_path / "out").iterdir()]
    assert len(written) == 6
    assert all(name.startswith("x" * 200) for name in written)


def test_results_do_not_replace_images(tmp_path, predictor):
    Image.fromarray(picture(8, 8)).save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(UserError, match=r"a\.png would be replaced by a result\. Choose another output folder"):
        predict_files(predictor, [tmp_path / "a.png"], tmp_path)
    assert (tmp_path / "a.png").read_bytes() == before
