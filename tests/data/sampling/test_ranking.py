import pytest

from data.datasets.registry import SPECS
from data.sampling import ranking

LISTED = [spec for spec in SPECS.values() if spec.listed_counts]
NAMES = [f"frankfurt_{number:06}" for number in range(40)]


def test_ranking_follows_the_documented_rule():
    # `printf '0:a' | sha256sum` begins with 9df3; for b, c, d, e it is e021, be08, 7d98, e078.
    assert ranking.rank_names(["a", "b", "c", "d", "e"], 0) == ["d", "a", "c", "b", "e"]


def test_images_of_a_sequence_stay_together():
    # By name, the order is d, a, c, b, e; of the sequences A (a, d), B (b, e) and C (c): `printf '0:A' | sha256sum`
    # begins with 99fd; for B and C it is 3928 and 1310.
    sequences = dict(zip("abcde", "ABCAB", strict=True))
    assert ranking.rank_names(list("abcde"), 0, sequences.get) == ["c", "b", "e", "d", "a"]


def test_order_of_the_names_does_not_matter():
    assert ranking.rank_names(NAMES[::-1], 0) == ranking.rank_names(NAMES, 0)


def test_seeds_rank_differently():
    assert len({tuple(ranking.rank_names(NAMES, seed)[:10]) for seed in range(20)}) == 20


@pytest.mark.parametrize(("count", "available"), [(0, 40), (-2, 40), (41, 40), (-1, 0)])
def test_impossible_counts_are_refused(count, available):
    with pytest.raises(ValueError, match=rf"labelled_count is {count}, but .* {available} images"):
        ranking.check_count(count, available)


@pytest.mark.parametrize("count", [-1, 1, 40])
def test_possible_counts_are_accepted(count):
    ranking.check_count(count, 40)


def test_names_are_read_from_a_file(tmp_path):
    file = tmp_path / "list.txt"
    file.write_bytes("\ufeff# Mine.\r\n\r\n b \r\nå c\n#d\na".encode())
    assert ranking.read_names(file) == ["b", "å c", "a"]


@pytest.mark.parametrize("spec", LISTED, ids=lambda spec: spec.name)
def test_committed_lists_follow_the_rule(spec, tmp_path):
    ranking.write_lists(spec, tmp_path)
    made = {file.relative_to(tmp_path): file.read_text() for file in tmp_path.rglob("*.txt")}
    folder = ranking.FOLDER / spec.name
    committed = {file.relative_to(ranking.FOLDER): file.read_text() for file in folder.rglob("seed*/*.txt")}
    assert len(made) == len(ranking.SEEDS) * (len(spec.listed_counts) - 1)
    assert made == committed


@pytest.mark.parametrize("spec", LISTED, ids=lambda spec: spec.name)
@pytest.mark.parametrize("seed", ranking.SEEDS)
def test_committed_lists_are_nested(spec, seed):
    smaller = []
    for count in spec.listed_counts[:-1]:
        names = ranking.read_names(ranking.FOLDER / spec.name / f"seed{seed}" / f"{count}.txt")
        assert len(names) == len(set(names)) == count
        assert names == sorted(names)
        assert set(smaller) < set(names)
        smaller = names
    assert set(smaller) < set(ranking.official_names(spec))


def test_official_names_of_cityscapes():
    names = ranking.official_names(SPECS["cityscapes"])
    assert len(names) == len(set(names)) == 2975
    assert names == sorted(names)
    assert names[0] == "aachen/aachen_000000_000019"
    assert ranking.official_names(SPECS["toy"]) is None


def test_last_listed_count_is_all_training_images():
    for spec in LISTED:
        assert list(spec.listed_counts) == sorted(spec.listed_counts)
        assert spec.listed_counts[-1] == spec.splits["target_train"].count
