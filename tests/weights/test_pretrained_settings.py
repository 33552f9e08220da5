"""Settings that weights bring, settings that the user keeps, and classifiers of which names do not say enough."""

import numpy as np
import pytest

from ass_jax.models.deeplab import DILATIONS, Classifier
from ass_jax.weights.files import WeightFileError, write_arrays
from ass_jax.weights.model_settings import to_metadata
from ass_jax.weights.names import TORCHVISION_PIXELS
from ass_jax.weights.pretrained import flatten, open_weights, place, set_by
from configs import base
from tests.helpers import foreign_weights
from tests.helpers.foreign_weights import NARROW, STAGES, draw, opened, pyramid, resnet_shapes, segmenter, vgg_shapes

narrow = foreign_weights.narrow
DEEP, CLASSES = 32 * NARROW, 19
BODY = resnet_shapes(STAGES["resnet50"], NARROW)
# Of the public code: the shapes of the classifiers, how many branches act, and which classifiers' logits are added up.
PROJECTS = {
    "AdaptSegNet, one classifier": (pyramid("layer5", CLASSES, DEEP), 2, ("layer5",)),
    "AdaptSegNet": (pyramid("layer5", CLASSES, DEEP // 2) | pyramid("layer6", CLASSES, DEEP), 2, ("layer6",)),
    "ADVENT, one classifier": (pyramid("layer6", CLASSES, DEEP), 4, ("layer6",)),
    "ADVENT": (pyramid("layer5", CLASSES, DEEP // 2) | pyramid("layer6", CLASSES, DEEP), 4, ("layer6",)),
    "CLAN": (pyramid("layer5", CLASSES, DEEP) | pyramid("layer6", CLASSES, DEEP), 4, ("layer5", "layer6")),
}
SURE = ("ADVENT, one classifier", "CLAN")  # Projects whose names and shapes no other one has.


def configuration(*kept, **settings):
    config = base.get_config()
    config.model.update({"backbone": "resnet50"} | settings)
    config.init_keeps = kept
    return config


def convolve(features, weight, bias, dilation):
    """Convolves features [h, w, D] by a kernel [C, D, 3, 3], padded with zeros; logits [h, w, C]."""
    height, width, _ = features.shape
    padded = np.pad(features, ((dilation, dilation), (dilation, dilation), (0, 0)))
    total = np.tile(bias.astype(np.float64), (height, width, 1))
    for row in range(3):
        for column in range(3):
            shifted = padded[row * dilation :, column * dilation :][:height, :width]
            total += shifted @ weight[:, :, row, column].T
    return total


@pytest.mark.parametrize("project", PROJECTS)
def test_logits_equal_those_of_each_project(tmp_path, narrow, project):
    shapes, acting, heads = PROJECTS[project]
    arrays = draw(BODY | shapes)
    pretrained = opened(tmp_path / "model.npz", arrays)
    if project in SURE:
        config = set_by(pretrained, configuration(), CLASSES)
    else:
        with pytest.raises(WeightFileError, match="does not say how many branches of its classifier act"):
            set_by(pretrained, configuration(branches=acting), CLASSES)
        config = set_by(pretrained, configuration("branches", branches=acting), CLASSES)
    assert config.model.branches == acting
    variables, placement = place(pretrained, segmenter("resnet50", branches=config.model.branches))
    assert not placement.random
    features = np.random.default_rng(1).standard_normal((9, 11, DEEP)).astype(np.float32)
    classifier = {"params": variables["params"]["classifier"]}
    found = Classifier(CLASSES, acting, np.float32).apply(classifier, features[None])[0]
    branches = [(head, place) for head in heads for place in range(acting)]
    expected = sum(
        convolve(
            features,
            arrays[f"{head}.conv2d_list.{place}.weight"],
            arrays[f"{head}.conv2d_list.{place}.bias"],
            DILATIONS[place],
        )
        for head, place in branches
    )
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_branches_are_asked_only_where_the_classifier_is_used(tmp_path, narrow):
    released = opened(tmp_path / "model.npz", draw(BODY | PROJECTS["AdaptSegNet"][0]))
    assert set_by(released, configuration(), 16).model.branches == 4  # All are new for other classes.
    assert set_by(released, configuration(head="linear"), CLASSES).model.branches == 4
    vgg = draw(vgg_shapes(NARROW, (23, 25, 27), head=(29, 31)) | pyramid("classifier", CLASSES, 16 * NARROW))
    with pytest.raises(WeightFileError, match="does not say how many branches"):
        set_by(opened(tmp_path / "vgg.npz", vgg), configuration(backbone="vgg16"), CLASSES)


def test_settings_of_weights_and_of_the_user(tmp_path, narrow, capsys):
    """Weights converted from Caffe have the names of torchvision's: only the user knows their pixels."""
    path = tmp_path / "resnet.npz"
    pretrained = opened(path, draw(BODY))
    config = configuration()
    taken = set_by(pretrained, config, CLASSES).model
    assert {key: taken[key] for key in TORCHVISION_PIXELS} == TORCHVISION_PIXELS
    assert taken.stride_in == "3x3"
    told = capsys.readouterr().out
    assert told.startswith(
        f"The weights of {path} need model.pixel_order=rgb instead of bgr, model.pixel_mean=(123.675"
    )
    assert "Kept" not in told

    kept = set_by(pretrained, configuration("pixel_order"), CLASSES).model
    assert {key: kept[key] for key in TORCHVISION_PIXELS} == {key: config.model[key] for key in TORCHVISION_PIXELS}
    told = capsys.readouterr().out.splitlines()
    assert told[0] == f"The weights of {path} need model.stride_in=3x3 instead of 1x1."
    assert told[1].startswith(
        f"Kept as set, although the weights of {path} need others: model.pixel_order=bgr, not rgb, model.pixel_mean=("
    )

    assert set_by(pretrained, configuration("stride_in"), CLASSES).model.stride_in == "1x1"
    set_by(pretrained, configuration(*TORCHVISION_PIXELS, stride_in="3x3", **TORCHVISION_PIXELS), CLASSES)
    assert capsys.readouterr().out.count("\n") == 2  # Those of the line above alone: nothing differs here.


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"registers": "four"}, "model.registers is 'four'; expected 0 or more."),
        ({"registers": -1}, "model.registers is -1; expected 0 or more."),
        ({"branches": 9}, "model.branches is 9; expected one of 1, 2, 3, 4."),
        ({"branches": True}, "model.branches is True; expected one of 1, 2, 3, 4."),
        ({"pixel_order": ["rgb"]}, "model.pixel_order is ['rgb']; expected one of bgr, rgb."),
        ({"pixel_mean": [1, 2]}, "model.pixel_mean is [1, 2]; expected three numbers."),
        ({"pixel_deviation": [1, 2, 0]}, "model.pixel_deviation is [1, 2, 0]; expected three numbers above 0."),
        ({"stride_in": "5x5"}, "model.stride_in is '5x5'; expected one of 1x1, 3x3."),
    ],
)
def test_hostile_settings_are_refused(tmp_path, settings, expected):
    path = tmp_path / "own.safetensors"
    write_arrays(path, {"params/backbone/stem/kernel": np.zeros(1, np.float32)}, to_metadata(settings))
    with pytest.raises(WeightFileError) as error:
        open_weights(path)
    assert str(error.value) == f"settings in {path}: {expected}"


def test_other_heads_lose_only_their_last_layer_for_other_classes(tmp_path):
    settings = {"head": "multilevel", "pixel_order": "rgb"}
    shapes = {path: leaf.shape for path, leaf in flatten(segmenter("efficientnet_lite0", classes=3, **settings))}
    write_arrays(tmp_path / "own.safetensors", draw(shapes), {})
    placement = place(
        open_weights(tmp_path / "own.safetensors"), segmenter("efficientnet_lite0", classes=5, **settings)
    )[1]
    lost = {"params/classifier/logits/bias", "params/classifier/logits/kernel"}
    assert set(placement.random) == set(placement.skipped) == lost
    assert set(placement.skipped.values()) == {"a classifier for 3 classes instead of 5"}
