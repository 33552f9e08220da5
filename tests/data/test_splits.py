import numpy as np
import pytest

from data import splits

NAMES = [f"frankfurt_{number:06}" for number in range(40)]


def test_choice_follows_the_documented_rule():
    # `printf '0:a' | sha256sum` begins with 9df3; for b, c, d, e it is e021, be08, 7d98, e078. So the ranking
    # is d, a, c, b, e.
    names = ["a", "b", "c", "d", "e"]
    assert splits.labelled_indices(names, 1, 0).tolist() == [3]
    assert splits.labelled_indices(names, 2, 0).tolist() == [0, 3]
    assert splits.labelled_indices(names, 3, 0).tolist() == [0, 2, 3]
    assert splits.labelled_indices(names, 4, 0).tolist() == [0, 1, 2, 3]


def test_order_of_the_names_does_not_matter():
    chosen = {NAMES[index] for index in splits.labelled_indices(NAMES, 10, 0)}
    backwards = NAMES[::-1]
    assert {backwards[index] for index in splits.labelled_indices(backwards, 10, 0)} == chosen


def test_lists_of_one_seed_are_nested_and_ascending():
    smaller = np.zeros(0, np.int64)
    for count in (1, 5, 10, 39, 40):
        chosen = splits.labelled_indices(NAMES, count, 3)
        assert len(chosen) == count
        assert (np.diff(chosen) > 0).all()
        assert set(smaller) <= set(chosen)
        smaller = chosen


def test_seeds_choose_differently():
    lists = {tuple(splits.labelled_indices(NAMES, 10, seed)) for seed in range(20)}
    assert len(lists) == 20


def test_minus_one_takes_all():
    np.testing.assert_array_equal(splits.labelled_indices(NAMES, -1, 0), np.arange(40))


@pytest.mark.parametrize("count", [0, -2, 41])
def test_impossible_counts_are_refused(count):
    with pytest.raises(ValueError, match=rf"labelled_count is {count}, but .* 40 images"):
        splits.labelled_indices(NAMES, count, 0)


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="0 images"):
        splits.labelled_indices([], -1, 0)


def test_repeated_names_are_refused():
    with pytest.raises(ValueError, match="'b' occurs twice"):
        splits.labelled_indices(["a", "b", "c", "b"], 2, 0)
