import pytest

from ass_jax.runtime.console import shown


@pytest.mark.parametrize(("batches", "tail"), [(range(5), "/5  {} left"), (iter(range(5)), "/5  {} left")])
def test_a_line_now_and_then_with_the_time_left(capsys, batches, tail):
    times = iter([0, 100, 104, 108, 116, 117])  # Compilation takes 100 seconds, batches 4 and 8.
    assert list(shown(batches, every=7, clock=lambda: next(times))) == list(range(5))
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"evaluation batch {number}{tail.format(left)}" for number, left in ((2, "0:12"), (4, "0:05"))]


def test_unknown_length_has_no_time_left(capsys):
    times = iter([0, 10, 30, 50])
    assert list(shown((number for number in range(3)), clock=lambda: next(times))) == [0, 1, 2]
    assert capsys.readouterr().out.splitlines() == ["evaluation batch 2", "evaluation batch 3"]
