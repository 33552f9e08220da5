import hashlib

import numpy as np
import pytest

from configs import base
from configs.user_error import UserError
from data.datasets.registry import SPECS
from data.sampling import labelled_subset, ranking

NAMES = ["a", "b", "c", "d", "e"]  # Ranked d, a, c, b, e by seed 0: see test_ranking.py.
ALL = np.ones(5, bool)


@pytest.fixture
def config():
    """A configuration of a target without official names."""
    config = base.default_config()
    config.data.labelled_count = 3
    return config


def use_list(config, folder, text):
    (folder / "mine.txt").write_text(text)
    config.data.labelled_list = str(folder / "mine.txt")


def choose(config, names=NAMES, has_label=ALL):
    labelled_subset.check_list(config.data)
    return labelled_subset.choose(config.data, names, has_label)


def test_first_images_by_rank_are_chosen(config):
    choice = choose(config)
    assert choice.description == "toy seed 0, 3 images"
    assert choice.sha256 == hashlib.sha256(b"a\nc\nd").hexdigest()
    assert choice.names == ("a", "c", "d")
    assert choice.training.tolist() == [0, 2, 3]
    assert choice.held_out.tolist() == []
    assert choice.training.dtype == choice.held_out.dtype == np.int64


def test_image_order_changes_only_the_indices(config):
    choice = choose(config, NAMES[::-1])
    assert choice.training.tolist() == [1, 2, 4]
    assert choice[:3] == choose(config)[:3]


def test_all_images_may_be_chosen(config):
    config.data.labelled_count = -1
    choice = choose(config)
    assert (choice.description, choice.names) == ("toy, all 5 images", tuple(NAMES))


def test_only_images_with_a_label_are_chosen(config):
    has_label = np.array([True, False, True, True, False])
    config.data.labelled_count = -1
    assert choose(config, has_label=has_label).names == ("a", "c", "d")
    config.data.labelled_count = 1
    assert choose(config, has_label=~has_label).names == ("b",)
    config.data.labelled_count = 3
    with pytest.raises(ValueError, match=r"labelled_count is 3, but .* 2 images"):
        choose(config, has_label=~has_label)


@pytest.mark.parametrize(("held_out", "training", "expected"), [(1, [0, 3], [2]), (2, [3], [0, 2]), (0, [0, 2, 3], [])])
def test_last_images_by_rank_are_held_out(config, held_out, training, expected):
    config.data.held_out = held_out
    choice = choose(config)
    assert (choice.training.tolist(), choice.held_out.tolist()) == (training, expected)
    assert choice.names == ("a", "c", "d")
    assert choice.description == "toy seed 0, 3 images" + (f", {held_out} of them held out" if held_out else "")
    assert choice.summary() == {
        "list": choice.description,
        "sha256": choice.sha256,
        "images": 3,
        "held_out": held_out,
    }


@pytest.mark.parametrize("held_out", [2, 3])
def test_lists_too_short_to_hold_out_images_are_refused_early(config, tmp_path, held_out):
    use_list(config, tmp_path, "a\nb\n")
    config.data.held_out = held_out
    with pytest.raises(UserError, match=f"data.held_out is {held_out}; expected 0 to 1, fewer than the 2 images"):
        labelled_subset.check_list(config.data)


def test_holding_out_all_images_is_refused(config):
    config.data.update(labelled_count=-1, held_out=5)
    with pytest.raises(ValueError, match=r"data.held_out is 5; expected 0 to 4"):
        choose(config)


def test_own_list_takes_precedence(config, tmp_path):
    use_list(config, tmp_path, "# Mine.\n\ne\nb\n")
    config.data.labelled_count = 100
    config.data.held_out = 1
    choice = choose(config)
    assert choice.names == ("b", "e")
    assert (choice.training.tolist(), choice.held_out.tolist()) == ([1], [4])  # B ranks before e.
    assert choice.description == f"{tmp_path}/mine.txt, 2 images, 1 of them held out"
    assert choice.sha256 == hashlib.sha256(b"b\ne").hexdigest()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# Nothing.\n", "names no image"),
        ("a\nb\na\nb\n", "more than once: a, b"),
        ("a\nb\nc\nd\ne\n" * 2, "more than once: a, b, c and 2 more"),
    ],
)
def test_unusable_lists_are_refused_early(config, tmp_path, text, expected):
    use_list(config, tmp_path, text)
    with pytest.raises(ValueError, match=f"data.labelled_list: .*mine.txt.*{expected}"):
        labelled_subset.check_list(config.data)


def test_missing_and_unreadable_lists_are_refused_early(config, tmp_path):
    config.data.labelled_list = str(tmp_path / "none.txt")
    with pytest.raises(ValueError, match=r"one image name a line.*none.txt.*No such file"):
        labelled_subset.check_list(config.data)
    (tmp_path / "none.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"none.txt.*cannot be read"):
        labelled_subset.check_list(config.data)


def test_unknown_names_of_a_list_get_suggestions(config, tmp_path):
    names = ["street_01", "street_02", "street_03"]
    use_list(config, tmp_path, "street_02\nstreet_2\nx\ny\nz\n")
    message = r"4 of the 5 images .*mine.txt are not among the 3 images .*: street_2 \(did you mean street_02\?\), x, y"
    with pytest.raises(ValueError, match=message + " and 1 more.*Expected names as 'street_01'"):
        choose(config, names, np.ones(3, bool))


def test_chosen_images_need_labels(config, tmp_path):
    use_list(config, tmp_path, "a\nb\n")
    with pytest.raises(ValueError, match=r"1 of the 2 images .* have no label: b. Add"):
        choose(config, has_label=np.array([True, False, True, True, True]))


def test_repeated_names_are_refused(config):
    with pytest.raises(ValueError, match="'b' occurs twice"):
        choose(config, ["a", "b", "c", "b", "e"])


@pytest.fixture
def cityscapes(config):
    """A configuration whose target has official names."""
    config.data.target = "cityscapes"
    config.data.labelled_count = 50
    return config


def test_official_names_are_ranked_whatever_is_on_disk(cityscapes):
    official = ranking.official_names(SPECS["cityscapes"])
    chosen = ranking.read_names(ranking.FOLDER / "cityscapes/seed0/50.txt")
    for names in (official, sorted(chosen), [*official, "mine/mine_000000_000000"]):
        choice = choose(cityscapes, names, np.ones(len(names), bool))
        assert choice.names == tuple(chosen)
        assert [names[index] for index in choice.training] == chosen
        assert choice.description == "cityscapes seed 0, 50 images"


@pytest.mark.parametrize("count", [50, 2975])
def test_missing_official_image_is_named(cityscapes, count):
    cityscapes.data.labelled_count = count
    chosen = ranking.read_names(ranking.FOLDER / "cityscapes/seed0/50.txt")
    names = [name for name in ranking.official_names(SPECS["cityscapes"]) if name != chosen[7]]
    with pytest.raises(ValueError, match=rf"1 of the {count} images of the labelled list .*cityscapes\): {chosen[7]} "):
        choose(cityscapes, names, np.ones(2974, bool))


def test_count_above_the_official_images_is_refused(cityscapes):
    cityscapes.data.labelled_count = 2976
    with pytest.raises(ValueError, match=r"labelled_count is 2976, but .* 2975 images"):
        choose(cityscapes)


def test_all_cityscapes_images_are_those_on_disk(cityscapes):
    cityscapes.data.labelled_count = -1
    assert choose(cityscapes).description == "cityscapes, all 5 images"
