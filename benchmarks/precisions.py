"""Compares the training step with PyTorch's in bfloat16 and in float32 at once: for a GPU that is lent for minutes.

  python benchmarks/precisions.py --config=configs/gta5.py:ass --json=runs/bench/compare_paper.json

The same measurement as that of `benchmarks/compare.py`, once for each precision; only the building overlaps. PyTorch
compiles on the processor's cores while ours tries kernels on the GPU, one precision after the other, and nothing is
timed before all are ready or `--patience` is over. A setting of PyTorch that is not ready then is left out, and named.
"""

import concurrent.futures
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # Python looks beside the program only.

from benchmarks import command, timing
from benchmarks.compare import Program, summary, take_turns
from benchmarks.machine import describe_in_words
from benchmarks.parts import FOLDER
from benchmarks.turns import Player, PlayerError

PRECISIONS = ("bfloat16", "float32")
SETTINGS = "channels_last,channels_last+compile"

Started = dict[str, "concurrent.futures.Future[Player]"]


def start(
    program: Callable[[str], Program], settings: Sequence[str], pool: concurrent.futures.Executor
) -> dict[str, Started]:
    """Begins to start all players; returns those of each precision, by "jax" and PyTorch's settings."""
    started = {name: {key: pool.submit(program(name).peer, key) for key in settings} for name in PRECISIONS}
    before = None
    for name in PRECISIONS:
        before = started[name]["jax"] = pool.submit(_after, before, program, name)
    return started


def _after(before: "concurrent.futures.Future[Player] | None", program: Callable[[str], Program], name: str) -> Player:
    """Starts ours once that of the precision before is ready: else both would try kernels on the GPU at once."""
    if before is not None:
        concurrent.futures.wait([before])
    return program(name).ours()


def compare(started: Started, rounds: int) -> dict:
    """Returns the figures of ours and of PyTorch's fastest setting; see `benchmarks.compare.compare`.

    Raises:
      PlayerError: ours is not ready, or no setting of PyTorch is.
    """
    players, tried = {}, {}
    for name, future in started.items():
        try:
            players[name] = future.result()
        except PlayerError as error:
            tried[name] = str(error)
            print(f"{name}: {error}", file=sys.stderr)
    if "jax" not in players or len(players) == 1:
        raise PlayerError("Ours and at least one setting of PyTorch have to be ready.")
    seconds, cores = take_turns(players, rounds)
    tried |= {name: timing.spread(times)["median"] for name, times in seconds.items() if name != "jax"}
    best = min((name for name in players if name != "jax"), key=lambda name: tried[name])
    sides = {"jax": "jax", "torch": best}
    facts = {side: players[name].facts | {"cores": timing.spread(cores[name])} for side, name in sides.items()}
    return summary(facts, {side: seconds[name] for side, name in sides.items()}) | {"tried": tried}


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints both ratios, writes the figures of both as JSON, and returns the exit code."""
    parser = command.parser(__doc__)
    parser.add_argument("--settings", default=SETTINGS, help="of PyTorch, to choose from: %(default)s")
    parser.add_argument("--rounds", type=int, default=7, help="turns of all: %(default)s")
    parser.add_argument("--patience", type=float, default=600, help="seconds to build all in: %(default)s")
    options, config = command.parse(parser, arguments)
    case = [f"--config={options.config}", f"--classes={options.classes}", *options.overrides]
    logs = options.json.with_suffix("") if options.json else FOLDER / "precisions"
    begun, results = time.monotonic(), {}

    def program(name: str) -> Program:
        left = max(1.0, begun + options.patience - time.monotonic())
        return Program([*case, f"--config.model.dtype={name}"], logs / name, left)

    with contextlib.ExitStack() as stack, concurrent.futures.ThreadPoolExecutor() as pool:
        started = start(program, options.settings.split(","), pool)
        futures = [future for found in started.values() for future in found.values()]
        for future in concurrent.futures.as_completed(futures):
            if future.exception() is None:
                stack.enter_context(future.result())
        print(f"Built after {time.monotonic() - begun:.0f} s.", flush=True)
        for name in PRECISIONS:
            try:
                found = compare(started[name], options.rounds)
            except PlayerError as error:
                print(f"{name}: {error}", file=sys.stderr)
                continue
            results[name] = {"backbone": config.model.backbone, "dtype": name} | found
            print(told(name, found), flush=True)
    about = {"config": options.config, "overrides": options.overrides, "classes": options.classes}
    command.write(options.json, about | {"command": command.described(__file__, arguments), "precisions": results})
    return 0 if len(results) == len(PRECISIONS) else 1


def told(name: str, found: dict) -> str:
    """Puts the figures of `compare` into a line."""
    ratio, (ours, peer) = found["ratio"], (found["sides"][side] for side in ("jax", "torch"))
    return (
        f"{name}: ours {1000 * ours['seconds']['median']:.1f} ms, PyTorch ({peer['setting']}) "
        f"{1000 * peer['seconds']['median']:.1f} ms a step; ratio {ratio['median']:.2f} ({ratio['lower']:.2f} to "
        f"{ratio['upper']:.2f}); {ours['tflop'] / ours['seconds']['median']:.0f} of "
        f"{ours['limit_tflop_per_second']:.0f} TFLOP/s\n  tried: {found['tried']}\n"
        f"  {describe_in_words(peer['machine'])}"
    )


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ends the players as well.
    sys.exit(main())
