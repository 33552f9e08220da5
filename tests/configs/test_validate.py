"""Ranges and choices of the settings, and constraints between them."""

import math

import pytest

from ass_jax.checkpoints import selection
from ass_jax.method.losses import DOMAIN_LOSSES
from ass_jax.method.mixing import REGIONS
from ass_jax.method.optimizers import _block_number
from ass_jax.method.state import abstract_segmenter
from ass_jax.models import build_networks, deeplab, semantic_outputs
from ass_jax.models.vit import Vit
from ass_jax.weights import model_settings
from configs import _validate, base, camvid, custom, gta5, polyps, streets_to_camvid, synthia, toy, vessels
from configs._validate import RULES, get_value, validate
from configs._variants import VARIANTS
from configs.user_error import UserError
from data.datasets.registry import SPECS, names_with
from tests.configs.test_configs import flatten

# Keys without a rule: any value of the type is valid, or other code checks it.
FREE = {
    "seed",
    "init",
    "data.directory",
    "data.source_root",
    "data.target_root",
    "data.classes",  # Class tables are checked by `data.classes`.
    "data.labelled_seed",
    "data.labelled_list",
    "model.pixel_mean",
    "distributed.coordinator",
    "distributed.index",
}


def changed(words="", **settings):
    config = base.get_config(words)
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in settings.items()})
    return config


def set_value(config, key, value):
    group, _, name = key.rpartition(".")
    section = get_value(config, group) if group else config
    section[name] = value


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("file", [base, toy, gta5, synthia, camvid, streets_to_camvid, polyps, vessels, custom])
def test_every_configuration_is_valid(file, variant):
    for words in (variant, f"{variant},smoke"):
        validate(file.get_config(words))


def test_every_key_has_a_rule_or_is_free():
    keys = {key: value for key, value in flatten(base.default_config()) if not isinstance(value, bool)}
    own = {key for key in keys if key.startswith("data.custom.")} - RULES.keys()  # Checked with the class table.
    assert keys.keys() - own - FREE == RULES.keys()


def test_choices_match_the_code():
    choices = {key: set(rule.choices) for key, rule in RULES.items() if rule.choices}
    assert choices["model.backbone"] == set(deeplab.BACKBONES)
    modules = {name: build(base.default_config().model) for name, build in deeplab.BACKBONES.items()}
    assert {name for name, module in modules.items() if hasattr(module, "levels")} == set(_validate._LEVELLED)
    assert {name for name, module in modules.items() if isinstance(module, Vit)} == set(_validate._TRANSFORMERS)
    for name, blocks in _validate._BLOCKS.items():
        config = base.default_config()
        config.model.backbone = name
        layers = abstract_segmenter(build_networks(config, 3), config)["params"]["backbone"]
        numbers = {_block_number(layer) for layer in layers}
        assert numbers - {math.inf} == set(range(1, blocks + 1)), name
    assert choices["model.branches"] == set(range(1, len(deeplab.DILATIONS) + 1))
    assert choices["init_keeps"] == set(model_settings.SETTINGS)
    assert choices["loss.global_kind"] == set(DOMAIN_LOSSES)
    assert choices["teacher.mixing"] == set(REGIONS)
    assert choices["evaluation.checkpoint"] == set(selection.CHOICES)
    assert choices["checkpoint.metric"] == set(selection.RANKINGS)
    assert choices["variant"] == set(VARIANTS)
    assert choices["data.source"] == choices["data.target"] == set(SPECS)
    for kind in choices["loss.semantic_outputs"]:
        semantic_outputs(kind, 3)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("variant", "asss"),
        ("steps", 0),
        ("log_every", 0),
        ("skipped_limit", 0),
        ("verify", "sometimes"),
        ("checkpoint.every", 0),
        ("checkpoint.keep", 0),
        ("model.frozen_blocks", 5),
        ("checkpoint.metric", "mIoU"),
        ("evaluation.every", -1),
        ("optimizer.learning_rate", -1.0),
        ("optimizer.learning_rate", 0.0),
        ("optimizer.learning_rate", float("nan")),
        ("optimizer.momentum", 1.0),
        ("optimizer.decay_steps", 0),
        ("optimizer.clip_norm", -1.0),
        ("model.backbone", "resnet"),
        ("model.output_stride", 32),
        ("model.branches", 0),
        ("model.branches", 5),
        ("model.stride_in", "2x2"),
        ("model.batch_norm", "none"),
        ("model.dtype", "float16"),
        ("model.pixel_order", "gbr"),
        ("model.pixel_deviation", (0.0, 1.0, 1.0)),
        ("data.source", "gta6"),
        ("data.target", "cityscape"),
        ("data.batch.source", -1),
        ("data.source_size", (0, 128)),
        ("data.target_size", (64, 128, 3)),
        ("data.readers", 0),
        ("data.prefetch", 0),
        ("data.decoded_memory", -1),
        ("data.labelled_count", 0),
        ("data.labelled_count", -2),
        ("data.held_out", -1),
        ("data.held_out", 100),
        ("data.rare_class_temperature", -0.1),
        ("data.rare_class_temperature", float("nan")),
        ("data.rejected_limit", -1),
        ("data.undecodable_limit", -1),
        ("data.toy.height", 15),
        ("data.toy.width", 0),
        ("data.toy.target_count", -1),
        ("data.toy.validation_count", 0),
        ("data.toy.seed", -1),
        ("data.toy.shift", -0.5),
        ("data.toy.shift", float("nan")),
        ("data.classes", "toys"),
        ("loss.global_weight", -0.5),
        ("loss.global_kind", "hinge"),
        ("data.toy.label_shift", 1.5),
        ("loss.semantic_input", "image"),
        ("loss.semantic_outputs", "multi"),
        ("loss.warmup_steps", -1),
        ("teacher.mixed_weight", -0.5),
        ("teacher.mixed_weight", float("inf")),
        ("teacher.decay", -0.1),
        ("teacher.decay", 1.0),
        ("teacher.mixing", "classes"),
        ("teacher.threshold", 96.8),
        ("teacher.threshold", -0.1),
        ("teacher.jitter", 1.5),
        ("teacher.jitter", -0.1),
        ("discriminator.global_width", 0),
        ("discriminator.semantic_width", -1),
        ("discriminator.betas", (0.9, 1.0)),
        ("evaluation.batch", 0),
        ("evaluation.pictures", -1),
        ("evaluation.checkpoint", "newest"),
        ("evaluation.split", "train"),
        ("evaluation.test_size", (0, 0)),
        ("evaluation.scales", ()),
        ("evaluation.scales", (1.0, 0.0)),
        ("evaluation.window", (0, 4)),
        ("augment.class_crop", 0.5),  # Without crops.
        ("augment.gamma", -0.1),
        ("loss.dice_weight", -1.0),
        ("evaluation.stride", (4, 4)),  # Without a window.
        ("augment.scale", (2.0, 0.5)),
        ("augment.scale", (0.0, 1.0)),
        ("augment.crop", (0, 64)),
        ("augment.crop", (-64, 64)),
        ("augment.brightness", -0.1),
        ("augment.contrast", 1.5),
        ("augment.saturation", -1.0),
        ("augment.hue", 0.6),
    ],
)
def test_settings_out_of_range_are_named(key, value):
    config = base.get_config("ass_plus")
    set_value(config, key, value)
    with pytest.raises(UserError, match=f"^{key} is ") as error:
        validate(config)
    assert str(value) in str(error.value)
    assert "; expected " in str(error.value)


def refuse(config, message):
    with pytest.raises(UserError, match=f"^{message}"):
        validate(config)


@pytest.mark.parametrize(
    ("term", "other", "stream"),
    [
        ("global", "semantic", "source"),
        ("global", "semantic", "unlabelled"),
        ("semantic", "global", "source"),
        ("semantic", "global", "labelled"),
    ],
)
def test_a_term_without_its_stream_is_refused(term, other, stream):
    config = changed("ass", **{f"loss__{other}_weight": 0.0, f"data__batch__{stream}": 0})
    refuse(config, rf"data\.batch\.{stream} is 0; expected 1 or more, since loss\.{term}_weight is 0\.001\. Change")


def test_mixing_without_its_streams_is_refused():
    config = changed("teacher", data__batch__unlabelled=0)
    refuse(config, r"data\.batch\.unlabelled is 0; expected 1 or more, since teacher\.mixed_weight is 1\.0")
    config.data.batch.update(unlabelled=1, source=0)
    validate(config)
    config.data.batch.update(source=1, labelled=0)
    validate(config)
    config.data.batch.source = 0
    refuse(config, r"data\.batch\.source is 0; expected 1 or more \(or data\.batch\.labelled\), since teacher")


def test_mixing_without_a_teacher_is_refused():
    config = changed("ass_plus", teacher__decay=0.0)
    refuse(config, r"teacher\.decay is 0\.0; expected more than 0, since teacher\.mixed_weight is 1\.0")
    config.teacher.mixed_weight = 0.0
    validate(config)


def test_the_semantic_term_needs_the_unlabelled_images_that_it_reads():
    config = changed("semantic", data__batch__unlabelled=0)
    refuse(config, r"data\.batch\.unlabelled is 0; expected 1 or more, since loss\.semantic_unlabelled is True")
    config.loss.semantic_unlabelled = False
    validate(config)


def test_an_output_stride_that_the_backbone_lacks_is_refused():
    validate(changed(model__backbone="efficientnet_lite0", model__output_stride=16))
    with pytest.raises(UserError, match=r"model\.output_stride is 16; expected 8; only efficientnet_lite0 has"):
        validate(changed(model__output_stride=16))


def test_nothing_to_train_on_is_refused():
    config = changed("joint", data__batch__source=0, data__batch__labelled=0)
    refuse(config, r"data\.batch\.source is 0; expected 1 or more images of a stream")


def test_strides_that_would_miss_pixels_are_refused():
    config = changed(evaluation__window=(512, 1024), evaluation__stride=(256, 1024))
    validate(config)
    config.evaluation.stride = (256, 1025)
    refuse(config, r"evaluation\.stride is \(256, 1025\); expected at most evaluation\.window = \(512, 1024\)")


@pytest.mark.parametrize("held_out", [3, 4])
def test_impossible_numbers_of_held_out_images_are_refused(held_out):
    config = changed(data__labelled_count=3, data__held_out=held_out)
    refuse(config, rf"data\.held_out is {held_out}; expected 0 to 2, fewer than the 3 images with labels")
    config.data.labelled_count = -1  # The number is known once the dataset is present.
    validate(config)


@pytest.mark.parametrize("variant", ["oracle", "ass_all"])
def test_list_is_refused_if_all_images_are_labelled(variant):
    config = changed(variant, data__labelled_list="mine.txt")
    refuse(config, rf"data\.labelled_list is 'mine\.txt'; expected none, since the variant {variant} labels all")


def test_datasets_need_the_parts_that_a_run_reads():
    sources, targets = (", ".join(names_with(part)) for part in ("source_train", "target_train"))
    refuse(changed(data__source="cityscapes"), rf"data\.source is 'cityscapes'; expected one of {sources}")
    refuse(changed(data__target="gta5"), rf"data\.target is 'gta5'; expected one of {targets}")
    validate(changed("oracle", data__source="cityscapes"))  # Not read.
    config = changed(evaluation__split="test")
    refuse(config, r"evaluation\.split is 'test'; expected 'validation', since the dataset toy has no test images")


def test_labels_must_fit_the_class_table():
    config = changed(data__source="custom", data__classes="cityscapes19")
    config.data.custom.update(names=("a", "b"), source_ids=((1, "a"),), target_ids=((1, "a"),))
    refuse(config, r"data\.classes is 'cityscapes19'; expected a table that fits data\.source: no label of custom")
    config.data.source = "toy"
    validate(config)  # Classes are matched by name.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"processes": 0, "index": 0}, r"distributed\.processes is 0; expected 1 or more"),
        ({"processes": 2, "index": -1}, r"distributed\.index is -1; expected 0 to 1"),
        ({"processes": 2, "index": 2}, r"distributed\.index is 2; expected 0 to 1"),
    ],
)
def test_process_index_must_be_in_range(settings, message):
    config = base.default_config()
    config.distributed.update(coordinator="localhost:1", **settings)
    refuse(config, message)
    config.distributed.update(processes=2, index=1)
    validate(config)


def test_unknown_setting_is_refused():
    config = changed()
    config.model.backbonne = "vgg16"
    refuse(config, r"There is no setting model\.backbonne\. Did you mean model\.backbone\?")
