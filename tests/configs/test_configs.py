"""Every configuration and variant has the keys of `configs/base.py` and the documented values."""

import importlib
from pathlib import Path

import pytest

from configs import base, camvid, custom, streets_to_camvid, toy
from configs._validate import validate
from configs._variants import VARIANTS
from configs.backbones import BACKBONES
from data import streams

FOLDER = Path(base.__file__).parent
FILES = {
    file.stem: importlib.import_module(f"configs.{file.stem}")
    for file in sorted(FOLDER.glob("[a-z]*.py"))
    if "def get_config(" in file.read_text()
}
REAL = ["gta5", "synthia"]  # Their labelled images come from the lists of Cityscapes.

# Images per step (source, labelled, unlabelled), number of labelled target images, and whether the global term, the
# semantic term and the teacher are on.
PAPER = {
    "source_only": ((2, 0, 0), 100, False, False, False),
    "source_adabn": ((2, 0, 1), 100, False, False, False),
    "target_only": ((0, 2, 0), 100, False, False, False),
    "target_teacher": ((0, 2, 1), 100, False, False, True),
    "joint": ((1, 1, 0), 100, False, False, False),
    "adaptsegnet": ((1, 1, 1), 100, True, False, False),
    "semantic": ((1, 1, 1), 100, False, True, False),
    "ass": ((1, 1, 1), 100, True, True, False),
    "teacher": ((1, 1, 1), 100, False, False, True),
    "adaptsegnet_plus": ((1, 1, 1), 100, True, False, True),
    "ass_plus": ((1, 1, 1), 100, True, True, True),
    "oracle": ((0, 2, 0), -1, False, False, False),
    "joint_all": ((1, 1, 0), -1, False, False, False),
    "adaptsegnet_all": ((1, 1, 1), -1, True, False, False),
    "ass_all": ((1, 1, 1), -1, True, True, False),
}
# Settings that are on with the teacher: weight of mixed images, decay of the average, rare-class sampling.
TEACHER = ("teacher.mixed_weight", "teacher.decay", "data.rare_class_temperature")


def flatten(config, prefix=""):
    for key, value in config.items():
        if hasattr(value, "items"):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def stream_sizes(config):
    return (config.data.batch.source, config.data.batch.labelled, config.data.batch.unlabelled)


@pytest.mark.parametrize("smoke", ["", ",smoke"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", FILES)
def test_keys_and_types_match_base(name, variant, smoke):
    expected = {key: type(value) for key, value in flatten(base.default_config())}
    config = FILES[name].get_config(variant + smoke)
    assert {key: type(value) for key, value in flatten(config)} == expected
    assert config.variant == variant


@pytest.mark.parametrize("name", ["base", "gta5", "synthia"])
@pytest.mark.parametrize("variant", PAPER)
def test_variant_switches_streams_and_terms(name, variant):
    config, defaults = FILES[name].get_config(variant), dict(flatten(base.default_config()))
    found = dict(flatten(config))
    sizes, count, *terms = PAPER[variant]
    assert (stream_sizes(config), config.data.labelled_count) == (sizes, count)
    for keys, acts in zip((("loss.global_weight",), ("loss.semantic_weight",), TEACHER), terms, strict=True):
        for key in keys:
            assert found[key] == (defaults[key] if acts else 0.0)
            assert defaults[key] > 0


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("variant", PAPER)
def test_unlabelled_images_are_read_only_for_terms_that_need_them(name, variant):
    for words in (variant, f"{variant},smoke"):
        images = streams.streams(FILES[name].get_config(words))
        assert ("unlabelled" in images) == (variant == "source_adabn" or any(PAPER[variant][2:]))


def test_every_variant_is_checked():
    assert set(PAPER) == set(VARIANTS)


@pytest.mark.parametrize("name", FILES)
def test_variants_differ_only_in_streams_and_terms(name):
    switched = {
        "variant",
        "data.labelled_count",
        "data.batch.source",
        "data.batch.labelled",
        "data.batch.unlabelled",
        "loss.global_weight",
        "loss.semantic_weight",
        "model.adapt_statistics",
        *TEACHER,
    }
    adapted = {"source_adabn": {"model.batch_norm"}}  # Frozen statistics could not adapt.
    full = dict(flatten(FILES[name].get_config("ass_plus")))
    for variant in VARIANTS:
        changed = dict(flatten(FILES[name].get_config(variant)))
        assert {key for key in full if full[key] != changed[key]} <= switched | adapted.get(variant, set())


@pytest.mark.parametrize("name", FILES)
def test_labelled_images_per_step_are_the_same_in_every_variant(name):
    sums = {sum(stream_sizes(FILES[name].get_config(variant))[:2]) for variant in VARIANTS}
    assert len(sums) == 1


@pytest.mark.parametrize("name", FILES)
def test_default_variant_is_the_full_method(name):
    assert FILES[name].get_config() == FILES[name].get_config("ass")


@pytest.mark.parametrize("name", FILES)
def test_smoke_is_small_and_keeps_the_variant(name):
    config = FILES[name].get_config("smoke,adaptsegnet")
    assert config.variant == "adaptsegnet"
    assert config.steps <= 10
    assert max(config.data.source_size + config.data.target_size) <= 128
    assert config.loss.global_weight > 0.0
    assert config.loss.semantic_weight == 0.0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("adapt", "Unknown word 'adapt'.*Valid: .*source_only, .*, ass_all, .*, smoke"),
        ("ass,joint", "one variant .* found ass, joint"),
        ("smoke,Smoke", "Unknown word 'Smoke'"),
        ("resnet_tiny,efficientnet_lite0", "one backbone .* found resnet_tiny, efficientnet_lite0"),
    ],
)
@pytest.mark.parametrize("name", FILES)
def test_wrong_words_are_refused(name, words, expected):
    with pytest.raises(ValueError, match=expected):
        FILES[name].get_config(words)


@pytest.mark.parametrize("count", [50, 100, 200, 500, 1000, 2975])
@pytest.mark.parametrize("name", FILES)
def test_number_selects_the_labelled_images(name, count):
    for words in (f"{count},adaptsegnet", f"adaptsegnet,{count}"):
        config = FILES[name].get_config(words)
        assert (config.variant, config.data.labelled_count) == ("adaptsegnet", count)
        expected = FILES[name].get_config("adaptsegnet")
        expected.data.labelled_count = count
        assert config == expected
    assert FILES[name].get_config(str(count)).variant == "ass"


@pytest.mark.parametrize("words", ["500,smoke", "smoke,source_only,500", "smoke,3"])
def test_number_with_smoke_stays_small(words):
    assert toy.get_config(words).data.labelled_count == (3 if "3" in words else 4)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("100,oracle", "oracle labels all target images: .* found 100"),
        ("smoke,ass_all,50", "ass_all labels all target images: .* found 50"),
        ("50,100", "one number of labelled images .* found 50, 100"),
        ("100,ass,100", "one number of labelled images .* found 100, 100"),
        ("0", "of 1 or more after the file's colon, found 0"),
        ("-1", "of 1 or more after the file's colon, found -1"),
        ("²", "Unknown word '²'"),
        ("100.0", "Unknown word '100.0'"),
    ],
)
def test_conflicting_and_impossible_numbers_are_refused(name, words, expected):
    with pytest.raises(ValueError, match=expected):
        FILES[name].get_config(words)


def test_only_lists_restrict_the_numbers():
    assert toy.get_config("150").data.labelled_count == 150
    assert custom.get_config("1").data.labelled_count == 1
    with pytest.raises(ValueError, match=r"Valid: .*, smoke, any number of labelled target images"):
        toy.get_config("many")
    for name in REAL:
        with pytest.raises(ValueError, match=r"Unknown word '150'.* smoke, 50, 100, 200, 500, 1000, 2975"):
            FILES[name].get_config("150")


@pytest.mark.parametrize("name", FILES)
def test_smoke_network_is_tiny(name):
    config = FILES[name].get_config("smoke")
    assert config.model.backbone == "resnet_tiny"
    assert config.data.source == FILES[name].get_config().data.source
    assert config.data.labelled_count <= 4


@pytest.mark.parametrize(
    ("name", "data_names"),
    [("gta5", ("gta5", "cityscapes", "cityscapes19")), ("synthia", ("synthia", "cityscapes", "synthia16"))],
)
def test_settings_match_the_papers(name, data_names):
    config = FILES[name].get_config()
    assert (config.data.source_root, config.data.target_root) == (f"datasets/{name}", "datasets/cityscapes")
    assert (config.data.source, config.data.target, config.data.classes) == data_names
    expected = {
        "steps": 150_000,
        "data.labelled_count": 100,
        "data.source_size": (720, 1280),
        "data.target_size": (512, 1024),
        "model.backbone": "resnet101",
        "model.branches": 4,
        "model.train_norm_affine": False,
        "model.pixel_order": "bgr",
        "model.pixel_mean": (104.00698793, 116.66876762, 122.67891434),
        "model.pixel_deviation": (1.0, 1.0, 1.0),
        "loss.global_kind": "bce",
        "loss.semantic_input": "features",
        "loss.semantic_outputs": "binary",
        "discriminator.global_width": 64,
        "discriminator.semantic_width": 1024,
        "discriminator.global_learning_rate": 1e-4,
        "discriminator.semantic_learning_rate": 1e-4,
        "discriminator.betas": (0.9, 0.99),
        "optimizer.learning_rate": 2.5e-4,
        "optimizer.classifier_factor": 10.0,
        "optimizer.momentum": 0.9,
        "optimizer.weight_decay": 5e-4,
        "optimizer.decay_steps": 250_000,
        "optimizer.decay_power": 0.9,
    }
    found = dict(flatten(config))
    assert {key: found[key] for key in expected} == expected
    assert not any(value for key, value in found.items() if key in ("augment.flip", "augment.brightness"))


def test_toy_needs_no_other_data():
    config = toy.get_config()
    assert (config.data.source, config.data.target, config.data.classes) == ("toy", "toy", "toy")
    assert stream_sizes(config) == (4, 2, 2)
    assert config.optimizer.decay_steps == config.steps


def test_camvid_takes_any_number_of_labelled_images():
    assert camvid.get_config().data.labelled_count == 8
    assert streets_to_camvid.get_config().data.labelled_count == 10
    assert camvid.get_config("ass_plus,13").data.labelled_count == 13


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("name", FILES)
def test_word_of_a_backbone_brings_its_settings(name, backbone):
    config = FILES[name].get_config(f"joint,{backbone}")
    assert config.model.backbone == backbone
    weights = f"dinov2_vit{backbone[-1]}14_pretrain.pth" if "dinov2" in backbone else backbone
    assert config.init == ("" if "tiny" in backbone else weights)
    assert (config.variant, config.loss.global_weight) == ("joint", 0.0)  # The word takes no variant back.
    tiny = FILES[name].get_config(f"joint,{backbone},smoke")
    assert (tiny.init, tiny.model.backbone, tiny.model.batch_norm) == ("", "resnet_tiny", "batch")
    validate(config)
    validate(tiny)


def test_backbone_has_the_same_settings_in_every_file():
    for group in ("init", "model", "discriminator", "teacher"):
        assert camvid.get_config("resnet_tiny")[group] == toy.get_config()[group]
        assert toy.get_config("efficientnet_lite0")[group] == camvid.get_config()[group]


def test_adversaries_are_strong_on_generated_targets_alone():
    assert toy.get_config("resnet_tiny").loss == toy.get_config().loss
    assert (toy.get_config().loss.global_weight, toy.get_config().loss.semantic_weight) == (0.03, 0.1)
    for name in ("camvid", "streets_to_camvid", "custom"):
        for backbone in ("resnet_tiny", "vit_tiny", "efficientnet_lite0"):
            loss = FILES[name].get_config(backbone).loss
            assert (loss.global_weight, loss.semantic_weight, loss.semantic_outputs) == (0.001, 0.001, "binary")


def test_statistics_that_adapt_are_not_frozen():
    assert camvid.get_config("source_only").model.batch_norm == "frozen"
    assert camvid.get_config("source_adabn").model.batch_norm == "batch"


def test_streets_to_camvid_differs_only_in_the_data():
    streets, light = dict(flatten(streets_to_camvid.get_config())), dict(flatten(camvid.get_config()))
    assert {key.partition(".")[0] for key in streets if streets[key] != light[key]} == {"data"}
    data = streets_to_camvid.get_config().data
    assert (data.toy.height, data.toy.width) == data.source_size
    assert (data.source, data.target, data.classes) == ("toy", "camvid", "camvid9")
