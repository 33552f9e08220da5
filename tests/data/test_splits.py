import pytest

from configs import base
from data import splits

NAMES = [f"frankfurt_{number:06}" for number in range(40)]


def test_ranking_follows_the_documented_rule():
    # `printf '0:a' | sha256sum` begins with 9df3; for b, c, d, e it is e021, be08, 7d98, e078.
    assert splits.ranked(["a", "b", "c", "d", "e"], 0) == ["d", "a", "c", "b", "e"]


def test_order_of_the_names_does_not_matter():
    assert splits.ranked(NAMES[::-1], 0) == splits.ranked(NAMES, 0)


def test_seeds_rank_differently():
    assert len({tuple(splits.ranked(NAMES, seed)[:10]) for seed in range(20)}) == 20


@pytest.mark.parametrize(("count", "available"), [(0, 40), (-2, 40), (41, 40), (-1, 0)])
def test_impossible_counts_are_refused(count, available):
    with pytest.raises(ValueError, match=rf"labelled_count is {count}, but .* {available} images"):
        splits.check_count(count, available)


@pytest.mark.parametrize("count", [-1, 1, 40])
def test_possible_counts_are_accepted(count):
    splits.check_count(count, 40)


def test_names_of_a_file(tmp_path):
    file = tmp_path / "list.txt"
    file.write_bytes("\ufeff# Mine.\r\n\r\n b \r\nå c\n#d\na".encode())
    assert splits.read_names(file) == ["b", "å c", "a"]


@pytest.mark.parametrize("data_set", splits.OFFICIAL)
def test_committed_lists_are_those_of_the_rule(data_set, tmp_path):
    splits.write_lists(data_set, tmp_path)
    made = {file.relative_to(tmp_path): file.read_text() for file in tmp_path.rglob("*.txt")}
    committed = {file.relative_to(splits.FOLDER): file.read_text() for file in splits.FOLDER.rglob("*/seed*/*.txt")}
    assert len(made) == len(splits.SEEDS) * len(splits.COUNTS)
    assert made == committed


@pytest.mark.parametrize("data_set", splits.OFFICIAL)
@pytest.mark.parametrize("seed", splits.SEEDS)
def test_committed_lists_are_nested(data_set, seed):
    smaller = []
    for count in splits.COUNTS:
        names = splits.read_names(splits.FOLDER / data_set / f"seed{seed}" / f"{count}.txt")
        assert len(names) == len(set(names)) == count
        assert names == sorted(names)
        assert set(smaller) < set(names)
        smaller = names
    assert set(smaller) < set(splits.official_names(data_set))


def test_official_names_of_cityscapes():
    names = splits.official_names("cityscapes")
    assert len(names) == len(set(names)) == 2975
    assert names == sorted(names)
    assert names[0] == "aachen/aachen_000000_000019"
    assert splits.official_names("toy") is None


def test_words_are_the_committed_counts():
    expected = {data_set: (*splits.COUNTS, number) for data_set, number in splits.OFFICIAL.items()}
    assert expected == base.LISTED_COUNTS
