import pytest

from configs import base
from data import streams


def test_full_method_reads_all_streams_in_order():
    config = base.default_config()
    config.data.batch.update(source=1, labelled=2, unlabelled=3)
    assert list(streams.streams(config).items()) == [("source", 1), ("labelled", 2), ("unlabelled", 3)]


WEIGHTS = ("loss.global_weight", "teacher.mixed_weight")


@pytest.mark.parametrize(("first", "second"), [WEIGHTS, WEIGHTS[::-1]])
def test_unlabelled_stream_needs_a_term_that_reads_it(first, second):
    config = base.default_config()
    config.update_from_flattened_dict({first: 0.0, "loss.semantic_unlabelled": False})
    assert streams.streams(config) == {"source": 1, "labelled": 1, "unlabelled": 1}
    config.update_from_flattened_dict({second: 0.0})
    assert streams.streams(config) == {"source": 1, "labelled": 1}


def test_adapted_statistics_bring_the_unlabelled_stream():
    config = base.get_config("source_adabn")
    assert streams.streams(config) == {"source": 2, "unlabelled": 1}
    config.model.adapt_statistics = False
    assert streams.streams(config) == {"source": 2}


def test_the_semantic_term_may_read_unlabelled_images():
    config = base.get_config("semantic")
    assert streams.streams(config) == {"source": 1, "labelled": 1, "unlabelled": 1}
    config.loss.semantic_unlabelled = False
    assert streams.streams(config) == {"source": 1, "labelled": 1}
    config.loss.update(semantic_unlabelled=True, semantic_weight=0.0)
    assert streams.streams(config) == {"source": 1, "labelled": 1}


def test_empty_streams_are_left_out():
    config = base.get_config("oracle")
    assert streams.streams(config) == {"labelled": 2}


def test_parts_list_what_a_run_reads():
    config = base.get_config("source_only")
    assert streams.parts(config) == ["source_train", "target_validation"]
    config.data.held_out = 1
    config.evaluation.split = "test"
    assert streams.parts(config) == ["source_train", "target_train", "target_test"]
    config = base.get_config("target_only")
    config.evaluation.split = "source"
    assert streams.parts(config) == ["target_train", "source_train"]


def test_uneven_shares_of_hosts_are_refused():
    assert streams.host_share("data.batch.source", 6, 3) == 2
    with pytest.raises(ValueError, match=r"data.batch.source is 6; expected a multiple of 4, the number of hosts"):
        streams.host_share("data.batch.source", 6, 4)
