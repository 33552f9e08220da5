"""Trains the same steps in PyTorch and here, from the same weights on the same batches, and compares them.

    python benchmarks/parity.py --backbone=resnet101 --height=64 --width=96

Rounding differs between the two, and a deep network from random weights magnifies any difference from step to step:
how much is shown by PyTorch itself, from weights that are changed by 1e-7.

Needs `pip install torch==2.13.0` beside the requirements. The tests do the same with a small backbone, against
golden numbers.
"""

import argparse
import functools
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import jax
import numpy as np

from ass_jax.models import build_networks
from ass_jax.models.deeplab import BACKBONES
from ass_jax.optimizers import make_optimizer
from ass_jax.state import TrainState
from ass_jax.steps import train_step
from benchmarks import machine, make_golden, parity_inputs


def main() -> None:
    """Prints the relative difference of every loss, step by step, and the largest of all parameters and statistics."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backbone", default="resnet101", choices=list(BACKBONES))
    parser.add_argument("--variants", default="joint,adaptsegnet,ass")
    parser.add_argument("--height", type=int, default=64)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--learning_rate", type=float, default=2.5e-4, help="of the segmenter; the paper's: 2.5e-4")
    options = parser.parse_args()
    sizes = dict.fromkeys(parity_inputs.IMAGE_SIZES, (options.height, options.width))
    print(machine.describe_in_words(machine.describe(os.environ)))
    for variant in options.variants.split(","):
        config = parity_inputs.training_config(variant, options.backbone)
        config.data.source_size = config.data.target_size = (options.height, options.width)
        config.optimizer.learning_rate = options.learning_rate
        begun = time.monotonic()
        expected = make_golden.training(config, sizes)
        seconds = time.monotonic() - begun
        losses, state = train(config, sizes)
        print(f"{variant}, {options.backbone}, {options.height}x{options.width}, {parity_inputs.STEPS} steps:")
        print(f"  PyTorch took {seconds:.0f} s, this {time.monotonic() - begun - seconds:.0f} s with compilation.")
        changed = make_golden.training(config, sizes, noise=1e-7)
        for name, values in losses.items():
            _print_differences(name, values, expected[name])
            _print_differences("  PyTorch, weights changed by 1e-7", changed[name], expected[name])
        found = parity_inputs.final_samples(state, config)
        for network in ("segmenter", "global", "semantic"):
            names = [name for name in found if name.startswith(f"{network}/")]
            differences = [np.abs(found[name] - expected[name]).max() / np.abs(expected[name]).max() for name in names]
            if differences:
                print(f"  {network:35} {max(differences):.1e}  ({len(names)} arrays)")


def _print_differences(title: str, found: np.ndarray, expected: np.ndarray) -> None:
    differences = np.abs(found - expected) / np.abs(expected)
    print(f"  {title:35} {' '.join(f'{difference:.0e}' for difference in differences)}", flush=True)


def train(config, sizes) -> tuple[dict[str, np.ndarray], TrainState]:
    """Trains here: every loss by step, and the final state."""
    networks, optimizer = build_networks(config, parity_inputs.NUM_CLASSES), make_optimizer(config)
    state = parity_inputs.initial_state(config)
    step = jax.jit(functools.partial(train_step, networks=networks, config=config, optimizer=optimizer))
    streams = [name for name in sizes if config.data.batch[name]]
    history = []
    for number in range(parity_inputs.STEPS):
        state, metrics = step(state, parity_inputs.training_batch(number, streams, sizes))
        history.append(metrics)
    names = [name for name in history[0] if name.startswith("loss/")]
    return {name: np.array([metrics[name] for metrics in history]) for name in names}, state


if __name__ == "__main__":
    main()
