"""Which of PyTorch's settings take turns with our step, and which one is compared."""

import pytest

from benchmarks.common.turns import PlayerError
from benchmarks.speed.against_pytorch import compare

# Seconds of a step alone, and in turns.
SPEEDS = {
    "jax": (1.0, 1.0),
    "plain": (1.9, 3.0),
    "channels_last": (2.0, 2.0),
    "compile": (2.5, 1.5),
    "slow": (9.0, 9.0),
}
PLAYING = set()  # Names of the open players.
GONE = [""]  # Name of the last player.


class Player:
    cores = 1.0

    def __init__(self, name):
        self.name = name
        self.facts = {"setting": name, "images_per_step": 3}

    def ready(self, patience):
        if self.name == "broken":
            raise PlayerError("exit code 1")
        PLAYING.add(self.name)
        return self

    def go(self, steps):
        caches = 0.0 if GONE[0] == self.name else 9.0  # Caches have to be filled again after another player's turn.
        GONE[0] = self.name
        return steps * SPEEDS[self.name]["jax" in PLAYING] + caches

    def close(self):
        PLAYING.discard(self.name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Program:
    def ours(self):
        return Player("jax")

    def peer(self, setting):
        return Player(setting)


@pytest.fixture(autouse=True)
def alone():
    PLAYING.clear()
    yield
    assert not PLAYING, "all are closed"


@pytest.mark.parametrize(
    "settings", [["plain", "channels_last", "compile", "slow"], ["slow", "compile", "channels_last", "plain"]]
)
def test_settings_near_the_fastest_are_judged_in_turns(settings):
    found = compare(Program(), settings, rounds=3, patience=1.0)
    assert (
        found["sides"]["torch"]["setting"] == "channels_last"
    )  # Neither the fastest alone nor one that was far slower.
    assert found["ratio"]["median"] == 2.0
    # Measured in turns if the setting took any, else alone.
    assert found["tried"] == {"plain": 3.0, "channels_last": 2.0, "compile": 2.5, "slow": 9.0}


def test_a_setting_that_does_not_run_is_reported(capsys):
    found = compare(Program(), ["broken", "plain"], rounds=1, patience=1.0)
    assert found["sides"]["torch"]["setting"] == "plain"
    assert found["tried"]["broken"] == "exit code 1"
    assert "PyTorch, broken: exit code 1" in capsys.readouterr().err


def test_without_any_setting_there_is_no_comparison():
    with pytest.raises(PlayerError, match="none of its settings"):
        compare(Program(), ["broken"], rounds=1, patience=1.0)
