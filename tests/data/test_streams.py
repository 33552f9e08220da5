import pytest

from configs import base
from data import streams


def test_streams_of_the_full_method_in_order():
    config = base.default_config()
    config.data.batch.update(source=1, labelled=2, unlabelled=3)
    assert list(streams.streams(config).items()) == [("source", 1), ("labelled", 2), ("unlabelled", 3)]


@pytest.mark.parametrize(
    "weights", [("loss.global_weight", "teacher.mixed_weight"), ("teacher.mixed_weight", "loss.global_weight")]
)
def test_unlabelled_stream_needs_a_term_that_reads_it(weights):
    config = base.default_config()
    config.update_from_flattened_dict({weights[0]: 0.0})
    assert streams.streams(config) == {"source": 1, "labelled": 1, "unlabelled": 1}
    config.update_from_flattened_dict({weights[1]: 0.0})
    assert streams.streams(config) == {"source": 1, "labelled": 1}


def test_streams_of_no_images_are_absent():
    config = base.get_config("oracle")
    assert streams.streams(config) == {"labelled": 2}


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
    config = base.default_config()
    config.loss[f"{other}_weight"] = config.teacher.mixed_weight = 0.0
    config.data.batch[stream] = 0
    with pytest.raises(ValueError, match=rf"loss.{term}_weight is 0.001, and so data.batch.{stream} must be 1"):
        streams.streams(config)


def test_mixing_without_its_streams_is_refused():
    config = base.get_config("teacher")
    config.data.batch.unlabelled = 0
    with pytest.raises(ValueError, match=r"teacher.mixed_weight is 1.0, and so data.batch.unlabelled must be 1"):
        streams.streams(config)
    config.data.batch.update(unlabelled=1, source=0)
    assert streams.streams(config) == {"labelled": 1, "unlabelled": 1}
    config.data.batch.update(source=1, labelled=0)
    assert streams.streams(config) == {"source": 1, "unlabelled": 1}
    config.data.batch.source = 0
    with pytest.raises(ValueError, match=r"1.0, and so data.batch.source or data.batch.labelled must be 1 or more"):
        streams.streams(config)


def test_mixing_without_a_teacher_is_refused():
    config = base.get_config("ass_plus")
    config.teacher.decay = 0.0
    with pytest.raises(
        ValueError, match=r"teacher.decay is 0.0; expected more than 0, since teacher.mixed_weight is 1.0"
    ):
        streams.streams(config)
    config.teacher.mixed_weight = 0.0
    streams.streams(config)


def test_nothing_to_train_on_is_refused():
    config = base.default_config()
    config.data.batch.update(source=0, labelled=0)
    config.loss.update(global_weight=0.0, semantic_weight=0.0)
    config.teacher.mixed_weight = 0.0
    with pytest.raises(ValueError, match="Nothing to train on"):
        streams.streams(config)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("log_every", 0),
        ("checkpoint.every", 0),
        ("checkpoint.keep", 0),
        ("evaluation.every", -1),
        ("optimizer.learning_rate", -1.0),
        ("model.pixel_deviation", (0.0, 1.0, 1.0)),
        ("data.batch.source", -1),
        ("data.source_size", (0, 128)),
        ("data.target_size", (64, 128, 3)),
        ("data.readers", 0),
        ("data.prefetch", 0),
        ("data.decoded_memory", -1),
        ("data.held_out", -1),
        ("data.held_out", 100),
        ("data.rare_class_temperature", -0.1),
        ("data.rare_class_temperature", float("nan")),
        ("teacher.mixed_weight", -0.5),
        ("teacher.mixed_weight", float("inf")),
        ("teacher.decay", -0.1),
        ("teacher.decay", 1.0),
        ("teacher.mixing", "classes"),
        ("teacher.threshold", 96.8),
        ("teacher.threshold", -0.1),
        ("teacher.jitter", 1.5),
        ("teacher.jitter", -0.1),
        ("evaluation.batch", 0),
        ("evaluation.checkpoint", "newest"),
        ("evaluation.split", "train"),
        ("evaluation.test_size", (0, 0)),
        ("evaluation.scales", ()),
        ("evaluation.scales", (1.0, 0.0)),
        ("evaluation.window", (0, 4)),
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
def test_settings_out_of_range_are_named(name, value):
    config = base.default_config()
    group, _, key = name.rpartition(".")
    section = config
    for part in filter(None, group.split(".")):
        section = section[part]
    section[key] = value
    with pytest.raises(ValueError, match=f"^{name} is ") as raised:
        streams.streams(config)
    assert str(value) in str(raised.value)


def test_strides_that_would_miss_pixels_are_refused():
    config = base.default_config()
    config.evaluation.update(window=(512, 1024), stride=(256, 1024))
    streams.check(config)
    config.evaluation.stride = (256, 1025)
    with pytest.raises(ValueError, match=r"stride is \(256, 1025\).*at most evaluation.window = \(512, 1024\)"):
        streams.check(config)


def test_hosts_share_evenly_or_are_refused():
    assert streams.host_share("data.batch.source", 6, 3) == 2
    with pytest.raises(ValueError, match=r"data.batch.source is 6, which 4 hosts"):
        streams.host_share("data.batch.source", 6, 4)


def test_labelled_list_is_checked():
    config = base.default_config()
    config.data.labelled_list = "no/such/list.txt"
    with pytest.raises(ValueError, match=r"'no/such/list\.txt' cannot be read"):
        streams.streams(config)
