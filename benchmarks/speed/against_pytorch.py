"""Compares the training step with PyTorch's: both run steps in turns on one machine, never at the same time.

  python -m benchmarks.speed.against_pytorch --config=configs/toy.py
  python -m benchmarks.speed.against_pytorch --config=configs/gta5.py --config.data.source_size="(256,512)" \
    --config.data.target_size="(256,512)"

Each side is a process that builds, warms up and waits for its turn. Every setting of PyTorch in `--settings` is timed
alone first; the settings close to the fastest one then take turns with our step, and the fastest of these is compared.
On a CPU, both sides use all cores. Needs PyTorch in addition to the requirements.
"""

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from benchmarks.common import command, timing
from benchmarks.common.machine import describe_in_words
from benchmarks.common.parts import FOLDER
from benchmarks.common.turns import Player, PlayerError

SETTINGS = "plain,channels_last,channels_last+passive,channels_last+compile"
_TURN = 1.0  # Seconds, at least: long enough that the change between processes does not count.
_TRIES = 2  # Turns of each PyTorch setting alone; the faster one counts.
_NEAR = (
    1.15  # A setting takes turns if its step takes at most this multiple of the fastest one's: the order may change.
)
OURS = "jax"  # Name of our side, next to those of PyTorch's settings.


class Program:
    """Starts the processes of both sides with the arguments of one case."""

    def __init__(self, arguments: Sequence[str], logs: Path):
        """Stores what all processes of a case share.

        Args:
          arguments: of both sides: the configuration and its changes.
          logs: folder.
        """
        self._arguments, self._logs = arguments, logs
        # Both frameworks hold memory at the same time: neither may take all of it.
        self._environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}

    def ours(self) -> Player:
        """Starts our step."""
        return self._start("benchmarks.speed.step", "jax", ["--devices=1"], {})

    def peer(self, setting: str) -> Player:
        """Starts PyTorch's step."""
        waiting = {"OMP_WAIT_POLICY": "PASSIVE"} if "passive" in setting else {}
        return self._start("benchmarks.pytorch.step", f"torch_{setting}", [f"--setting={setting}"], waiting)

    def _start(self, module: str, name: str, more: Sequence[str], variables: Mapping[str, str]) -> Player:
        line = [sys.executable, "-m", module, "--serve", *more, *self._arguments]
        return Player(line, self._logs / f"{name}.log", self._environment | variables)


def compare(program: Program, settings: Sequence[str], rounds: int, patience: float) -> dict:
    """Returns the figures of both sides, the ratio of our images/s to PyTorch's, and the seconds of each setting.

    Args:
      program: starts the processes.
      settings: of PyTorch, to choose from.
      rounds: number of turns of each process.
      patience: seconds within which a process must be ready.

    Raises:
      PlayerError: our step does not run, PyTorch runs with none of the settings, or a process ended during its turn;
        if memory is too short for several at a time, name fewer settings.
    """
    with contextlib.ExitStack() as stack:
        peers, tried = near_the_fastest(program, settings, patience, stack)
        found = in_turns({OURS: stack.enter_context(program.ours()).ready(patience)} | peers, rounds)
    return found | {"tried": tried | found["tried"]}


def in_turns(players: Mapping[str, Player], rounds: int) -> dict:
    """Returns the figures of ours and of PyTorch's fastest setting, the ratio, and the seconds of all settings.

    Args:
      players: `OURS` and one or several settings of PyTorch.
      rounds: number of turns of each process.

    Raises:
      PlayerError: a process ended during its turn.
    """
    seconds, cores = take_turns(players, rounds)
    medians = {name: timing.spread(times)["median"] for name, times in seconds.items() if name != OURS}
    sides = {"jax": OURS, "torch": min(medians, key=medians.get)}
    facts = {side: players[name].facts | {"cores": timing.spread(cores[name])} for side, name in sides.items()}
    return summary(facts, {side: seconds[name] for side, name in sides.items()}) | {"tried": medians}


def take_turns(players: Mapping[str, Player], rounds: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Returns the seconds of a step and the busy cores of each player, one for each round.

    Each turn begins with a step that does not count. In training, steps follow each other; here, the other processes
    have filled the caches in between, and a virtual machine may have reclaimed memory.
    """
    steps = {name: timing.steps_per_sample(player.go, _TURN) for name, player in players.items()}
    seconds, cores = ({name: [] for name in players} for _ in range(2))
    for _ in range(rounds):
        for name, player in players.items():
            player.go(1)
            seconds[name].append(player.go(steps[name]) / steps[name])
            cores[name].append(player.cores)
    return seconds, cores


def near_the_fastest(
    program: Program, settings: Sequence[str], patience: float, stack: contextlib.ExitStack
) -> tuple[dict[str, Player], dict[str, float | str]]:
    """Tries PyTorch's settings one after the other.

    Args:
      program: starts the processes.
      settings: of PyTorch.
      patience: seconds within which a process must be ready.
      stack: closes the players at the end; those of slower settings are closed at once.

    Returns:
      The players of the fastest setting and of those close to it, and for each setting the seconds of a step or what
      went wrong.

    Raises:
      PlayerError: none of them runs.
    """
    near, tried = {}, {}
    for setting in settings:
        try:
            player = stack.enter_context(program.peer(setting)).ready(patience)
            steps = timing.steps_per_sample(player.go)
            tried[setting] = min(player.go(steps) / steps for _ in range(_TRIES))
        except PlayerError as error:
            tried[setting] = str(error)
            print(f"PyTorch, {setting}: {error}", file=sys.stderr)
            continue
        print(f"PyTorch, {setting}: {1000 * tried[setting]:.1f} ms a step", flush=True)
        near[setting] = player
        least = min(tried[name] for name in near)
        for name in [name for name in near if tried[name] > _NEAR * least]:
            near.pop(name).close()
    if not near:
        raise PlayerError("PyTorch runs with none of its settings.")
    return near, tried


def summary(facts: Mapping[str, dict], seconds: Mapping[str, Sequence[float]]) -> dict:
    """Returns the spread of the ratio over the rounds and of each side's seconds.

    Args:
      facts: of "jax" and "torch".
      seconds: of a step, by side, one for each round.
    """
    images = facts["jax"]["images_per_step"]
    ratios = [peer / ours for ours, peer in zip(seconds["jax"], seconds["torch"], strict=True)]
    sides = {}
    for name, times in seconds.items():
        found = timing.spread(times)
        sides[name] = facts[name] | {"seconds": found, "images_per_second": images / found["median"]}
    return {"images_per_step": images, "ratio": timing.spread(ratios), "sides": sides}


def parse(
    description: str, settings: str, rounds: int, arguments: Sequence[str] | None
) -> tuple[argparse.Namespace, ConfigDict, list[str]]:
    """Parses the command line of a comparison.

    Args:
      description: of the program.
      settings: default of `--settings`.
      rounds: default of `--rounds`.
      arguments: default: those of this process.

    Returns:
      The options, the configuration, and the arguments of both sides.
    """
    parser = command.parser(description)
    parser.add_argument("--settings", default=settings, help="of PyTorch, to choose from: %(default)s")
    parser.add_argument("--rounds", type=int, default=rounds, help="number of turns: %(default)s")
    parser.add_argument(
        "--patience", type=float, default=600, help="seconds within which a process must be ready: %(default)s"
    )
    options, config = command.parse(parser, arguments)
    return options, config, [f"--config={options.config}", f"--classes={options.classes}", *options.overrides]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the ratio, writes all figures as JSON, and returns the exit code."""
    options, config, case = parse(__doc__, SETTINGS, 5, arguments)
    logs = options.json.with_suffix("") if options.json else FOLDER / "compare"
    try:
        found = compare(Program(case, logs), options.settings.split(","), options.rounds, options.patience)
    except PlayerError as error:
        print(error, file=sys.stderr)
        return 1
    result = {
        "config": options.config,
        "overrides": options.overrides,
        "classes": options.classes,
        "backbone": config.model.backbone,
        "dtype": config.model.dtype,
        "command": command.described(__spec__.name, arguments),
    }
    result |= found
    ratio, sides = found["ratio"], found["sides"]
    print(
        f"{options.config}, {config.model.dtype}: ours {sides['jax']['images_per_second']:.2f} images/s, PyTorch "
        f"({sides['torch']['setting']}) {sides['torch']['images_per_second']:.2f} images/s; ratio of a round "
        f"{ratio['median']:.2f} (quartiles {ratio['lower']:.2f} to {ratio['upper']:.2f}, {ratio['samples']} rounds)\n"
        f"  {describe_in_words(sides['torch']['machine'])}"
    )
    command.write(options.json, result)
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ends the other processes as well.
    sys.exit(main())
