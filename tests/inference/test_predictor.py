"""Label maps of images of every size, from weights of every kind."""

import functools
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from ass_jax.inference import predictor as predict
from ass_jax.inference.predictor import Predictor, ProgramPredictor, open_predictor
from ass_jax.method import views
from ass_jax.models.preprocess import normalise
from ass_jax.ops import resize_bilinear
from ass_jax.weights.export import state_dict, write
from ass_jax.weights.files import WeightFileError
from ass_jax.weights.trained_model import Trained
from configs import base
from configs.user_error import UserError
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
    np.testing.assert_array_equal(labels, evaluate(model, image, SIZE))
    assert len(np.unique(labels)) > 1
    np.testing.assert_array_equal(predictor(image), labels)

    @jax.jit  # As the predictor: outside of it, other exponentials alone differ by 1e-6.
    def expected(variables):
        _, logits = model.networks.segmenter.apply(variables, normalise(image[None], model.config), train=False)
        return jax.nn.softmax(resize_bilinear(logits, SIZE))[0].max(axis=-1)

    np.testing.assert_allclose(confidence, expected(model.variables), atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (33, 47), (600, 90)])
def test_any_size(model, predictor, size):
    image = picture(*size)
    labels, confidence = predictor.with_confidence(image)
    assert (labels.shape, labels.dtype, confidence.dtype) == (size, np.uint8, np.float32)
    assert (confidence >= 1 / 3).all()
    assert (confidence <= 1).all()
    resized = np.asarray(Image.fromarray(image).resize(SIZE[::-1], Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(labels, evaluate(model, resized, size))


def evaluate(model, image, size, config=None):
    """Returns the labels of an image as evaluations choose them."""
    step = functools.partial(views.scores_step, networks=model.networks, config=config or model.config)
    return views.labels(jax.jit(step)(model.variables, image[None]), size)[0]


VIEWS = {"window": (24, 40), "stride": (0, 0), "flip": True, "scales": (1.0, 1.5)}


@pytest.fixture(scope="module")
def with_views(model):
    config = model.config.copy_and_resolve_references()
    config.evaluation.update(VIEWS)
    return Trained(config, NAMES, PALETTE, model.variables)


@pytest.mark.parametrize(("size", "scales"), [(SIZE, (1.0, 1.5)), ((33, 47), (1.0,))])
def test_views_of_evaluation_are_those_of_predictions(model, predictor, with_views, size, scales):
    config = with_views.config.copy_and_resolve_references()
    config.evaluation.scales = scales
    image = picture(*size)
    labels, confidence = Predictor(model, config.evaluation).with_confidence(image)
    resized = np.asarray(Image.fromarray(image).resize(SIZE[::-1], Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(labels, evaluate(model, resized, size, config))
    assert (labels != predictor(image)).mean() > 0.02
    assert (confidence >= 1 / 3).all()
    assert (confidence <= 1).all()


def test_views_of_the_command_line_count(tmp_path, model, predictor, with_views, capsys):
    write(with_views, tmp_path / "model.safetensors")
    image = picture(*SIZE)
    labels = open_predictor(tmp_path / "model.safetensors", with_views.config, CLASSES)(image)
    np.testing.assert_array_equal(labels, Predictor(with_views)(image))
    assert not capsys.readouterr().out
    plain = open_predictor(tmp_path / "model.safetensors", configuration(), CLASSES)
    np.testing.assert_array_equal(plain(image), predictor(image))
    assert "evaluation.window (0, 0) instead of (24, 40)" in capsys.readouterr().out


def test_a_program_has_the_views_of_the_training(tmp_path, with_views):
    write(with_views, tmp_path / "model.jaxexport")
    image = picture(*SIZE)
    found = ProgramPredictor(tmp_path / "model.jaxexport", CLASSES).with_confidence(image)
    expected = Predictor(with_views).with_confidence(image)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], atol=1e-5)


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


def test_every_kind_of_weights_opens_as_a_predictor(tmp_path, model, predictor):
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
    config = configuration()
    config.init_keeps = ("branches",)  # The file does not say that all four act.
    opened = open_predictor(str(tmp_path / "foreign.npz"), config, CLASSES)
    np.testing.assert_array_equal(opened(image), expected)


def test_paths_without_usable_weights_are_errors(tmp_path):
    with pytest.raises(UserError, match="absent: expected the working directory of a run or a weight file"):
        open_predictor(tmp_path / "absent", configuration(), CLASSES)
    with pytest.raises(UserError, match=r"has no config\.json"):
        open_predictor(tmp_path, configuration(), CLASSES)
    (tmp_path / "weights.onnx").touch()
    with pytest.raises(WeightFileError, match=r"onnx: unknown kind of weights\. Expected .*\.npz, .*\.jaxexport\."):
        open_predictor(tmp_path / "weights.onnx", configuration(), CLASSES)
    for content in (b"", b"no program", bytes(1000)):
        (tmp_path / "model.jaxexport").write_bytes(content)
        with pytest.raises(
            WeightFileError, match=r"model\.jaxexport: damaged, or not a program of ass_jax\.weights\.export"
        ):
            open_predictor(tmp_path / "model.jaxexport", configuration(), CLASSES)
