"""Compares the training step with PyTorch's in bfloat16 and float32 at once, for a GPU that is available for minutes.

  python -m benchmarks.speed.precisions --config=configs/gta5.py:ass --json=runs/bench/compare_paper.json

The same as `benchmarks.speed.against_pytorch` for each precision, but all processes build at the same time; only ours
build one after the other, because they autotune on the GPU. Turns begin when all are ready or `--patience` is over.
PyTorch settings that are not ready by then are left out and named. What is measured while building, such as the limits,
may be disturbed by the other processes.
"""

import contextlib
import signal
import sys
import time
from collections.abc import Sequence

from benchmarks.common import command
from benchmarks.common.machine import describe_in_words
from benchmarks.common.parts import FOLDER
from benchmarks.common.turns import Player, PlayerError
from benchmarks.speed.against_pytorch import OURS, Program, in_turns, parse

PRECISIONS = ("bfloat16", "float32")
SETTINGS = "channels_last,channels_last+compile"
_WARM_UP = 3  # Steps, one by one: CUDA graphs are recorded in the second and replayed from the third on.

Players = dict[str, Player]
Failures = dict[str, str]


def build(
    programs: dict[str, Program], settings: Sequence[str], patience: float, stack: contextlib.ExitStack
) -> tuple[dict[str, Players], dict[str, Failures]]:
    """Starts all processes and waits until they are ready.

    Args:
      programs: by precision.
      settings: of PyTorch.
      patience: seconds for all together.
      stack: closes the players at the end.

    Returns:
      By precision, the players that are ready, and what went wrong with the others.
    """
    end = time.monotonic() + patience
    peers = {
        name: {setting: stack.enter_context(program.peer(setting)) for setting in settings}
        for name, program in programs.items()
    }
    ready, failed = ({name: {} for name in programs} for _ in range(2))

    def await_player(name: str, side: str, player: Player) -> None:
        try:
            ready[name][side] = player.ready(max(1.0, end - time.monotonic()))
            for _ in range(_WARM_UP):
                player.go(1)
        except PlayerError as error:
            ready[name].pop(side, None)
            failed[name][side] = str(error)
            print(f"{name}, {side}: {error}", file=sys.stderr)

    for name, program in programs.items():
        await_player(name, OURS, stack.enter_context(program.ours()))
    for name, players in peers.items():
        for setting, player in players.items():
            await_player(name, setting, player)
    return ready, failed


def compare(players: Players, failed: Failures, rounds: int) -> dict:
    """Returns the figures of ours and of PyTorch's fastest setting; see `benchmarks.speed.against_pytorch.in_turns`.

    Raises:
      PlayerError: our step or every PyTorch setting is not ready, or a process ended during its turn.
    """
    if OURS not in players or len(players) == 1:
        raise PlayerError("Our step and at least one PyTorch setting must be ready; raise --patience.")
    found = in_turns(players, rounds)
    return found | {"tried": found["tried"] | failed}


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints both ratios, writes the figures as JSON if both exist, and returns the exit code."""
    options, config, case = parse(__doc__, SETTINGS, 7, arguments)
    logs = options.json.with_suffix("") if options.json else FOLDER / "precisions"
    programs = {name: Program([*case, f"--config.model.dtype={name}"], logs / name) for name in PRECISIONS}
    begun, results = time.monotonic(), {}
    with contextlib.ExitStack() as stack:
        ready, failed = build(programs, options.settings.split(","), options.patience, stack)
        print(f"Built after {time.monotonic() - begun:.0f} s.", flush=True)
        for name in PRECISIONS:
            try:
                found = compare(ready[name], failed[name], options.rounds)
            except PlayerError as error:
                print(f"{name}: {error}", file=sys.stderr)
                continue
            results[name] = {"backbone": config.model.backbone, "dtype": name} | found
            print(summary(name, found), flush=True)
    if len(results) < len(PRECISIONS):
        return 1
    about = {"config": options.config, "overrides": options.overrides, "classes": options.classes}
    command.write(options.json, about | {"command": command.described(__spec__.name, arguments), "precisions": results})
    return 0


def summary(name: str, found: dict) -> str:
    """Formats the figures of `compare` in a few lines."""
    ratio, (ours, peer) = found["ratio"], (found["sides"][side] for side in ("jax", "torch"))
    medians = [f"{name} {1000 * time:.1f}" for name, time in found["tried"].items() if isinstance(time, float)]
    return (
        f"{name}: ours {1000 * ours['seconds']['median']:.1f} ms, PyTorch ({peer['setting']}) "
        f"{1000 * peer['seconds']['median']:.1f} ms a step; ratio {ratio['median']:.2f} ({ratio['lower']:.2f} to "
        f"{ratio['upper']:.2f}); {ours['tflop'] / ours['seconds']['median']:.3g} of "
        f"{ours['limit_tflop_per_second']:.3g} TFLOP/s\n  PyTorch's settings, ms: {', '.join(medians)}\n"
        f"  {describe_in_words(peer['machine'])}"
    )


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ends the other processes as well.
    sys.exit(main())
