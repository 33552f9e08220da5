"""Processes that run steps in turns."""

import os
import sys
import time

import pytest

from benchmarks.common.parts import ROOT
from benchmarks.common.turns import Player, PlayerError

SERVES = "from benchmarks.common import turns; print('noise'); turns.serve(lambda steps: 0.5 * steps, {'name': 'half'})"


@pytest.fixture
def start(tmp_path):
    """Returns a function that starts a player for a program; ends all players afterwards."""
    players = []
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    def start(program, patience=60.0):
        players.append(Player([sys.executable, "-c", program], tmp_path / "player.log", environment))
        return players[-1].ready(patience)

    yield start
    for player in players:
        player.close()


def test_steps_on_demand(start):
    player = start(SERVES)
    assert player.facts == {"name": "half"}
    assert [player.go(1), player.go(4)] == [0.5, 2.0]
    assert 0 <= player.cores < 0.5


def test_a_failure_shows_the_log(start):
    with pytest.raises(PlayerError, match=r"exit code 3\nno memory"):
        start("import sys; print('no memory', file=sys.stderr); sys.exit(3)")


def test_a_failure_between_turns_is_reported(start):
    player = start("from benchmarks.common import turns; turns.serve(lambda steps: 1 / 0, {})")
    with pytest.raises(PlayerError, match="ZeroDivisionError"):
        player.go(1)


def test_player_that_is_never_ready_is_an_error(start):
    begun = time.monotonic()
    with pytest.raises(PlayerError, match="not ready in time"):
        start("import time; time.sleep(60)", patience=0.2)
    assert time.monotonic() - begun < 30
