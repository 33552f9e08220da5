"""Runs the same training steps in PyTorch and in JAX, from the same weights on the same batches, and compares them.

    python -m benchmarks.parity.steps --backbone=resnet101 --height=64 --width=96
    python -m benchmarks.parity.steps --backbone=resnet_tiny --learning_rate=1e-3 --variants=adaptsegnet \
        --global_kind=least_squares --noises=1e-7,3e-6 --height=96 --width=128
    python -m benchmarks.parity.steps --gradients --backbone=resnet50
    python -m benchmarks.parity.steps --stems

`--gradients` compares the gradients of all parameters of segmenter and global discriminator at ten sizes instead of
training: ours and PyTorch's in float32, both against PyTorch in float64. `--stems` compares the gradient of the stem's
kernel only.

Rounding differs between the frameworks, and a deep network with random weights amplifies any difference from step to
step. PyTorch itself shows how much, from weights that are changed by 1e-7, or by `--noises`.

Needs `pip install torch==2.13.0` in addition to the requirements. The tests compare a small backbone with golden
numbers.
"""

import argparse
import functools
import os
import time

import jax
import jax.numpy as jnp
import numpy as np
import torch

from ass_jax import ops
from ass_jax.method.losses import DOMAIN_LOSSES
from ass_jax.method.optimizers import make_optimizer
from ass_jax.method.state import TrainState
from ass_jax.method.train_step import train_step
from ass_jax.models import build_networks
from ass_jax.models.deeplab import BACKBONES
from ass_jax.runtime.compilation import options_of_steps
from benchmarks.common import machine
from benchmarks.parity import inputs, make_golden

_DRAWS = 4  # Draws of images for the gradients.
# Side of the kernel; batch, height, width and channels.
STEMS = (
    (7, (1, 64, 128, 64)),
    (7, (1, 128, 256, 64)),
    (7, (4, 64, 128, 16)),
    (7, (2, 256, 512, 64)),
    (7, (2, 64, 96, 64)),
    (7, (1, 129, 257, 64)),
    (3, (4, 96, 128, 16)),
    (3, (2, 96, 128, 16)),
    (7, (1, 720, 1280, 64)),
)


def main() -> None:
    """Prints the relative difference of every loss, step by step, and the largest of all parameters and statistics."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backbone", default="resnet101", choices=list(BACKBONES))
    parser.add_argument("--variants", default="joint,adaptsegnet,ass")
    parser.add_argument("--height", type=int, default=64)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--learning_rate", type=float, default=2.5e-4, help="of the segmenter; the paper's: 2.5e-4")
    parser.add_argument("--global_kind", default="bce", choices=list(DOMAIN_LOSSES), help="of the global adversary")
    parser.add_argument("--noises", default="1e-7", help="relative changes of the weights from which PyTorch trains")
    parser.add_argument("--gradients", action="store_true", help="compare gradients at ten sizes, instead of training")
    parser.add_argument("--stems", action="store_true", help="compare the stem's gradient at some sizes")
    options = parser.parse_args()
    print(machine.describe_in_words(machine.describe(os.environ)))
    if options.stems:
        compare_stems()
        return
    if options.gradients:
        compare_gradients(options.backbone)
        return
    sizes = dict.fromkeys(inputs.IMAGE_SIZES, (options.height, options.width))
    for variant in options.variants.split(","):
        config = inputs.training_config(variant, options.backbone)
        config.data.source_size = config.data.target_size = (options.height, options.width)
        config.optimizer.learning_rate = options.learning_rate
        config.loss.global_kind = options.global_kind
        begun = time.monotonic()
        expected = make_golden.training(config, sizes)
        seconds = time.monotonic() - begun
        losses, state = train(config, sizes)
        print(f"{variant}, {options.backbone}, {options.height}x{options.width}, {inputs.STEPS} steps:")
        print(f"  PyTorch took {seconds:.0f} s, JAX {time.monotonic() - begun - seconds:.0f} s with compilation.")
        changed = {noise: make_golden.training(config, sizes, float(noise)) for noise in options.noises.split(",")}
        for name, values in losses.items():
            _print_differences(name, values, expected[name])
            for noise, others in changed.items():
                _print_differences(f"  PyTorch, weights changed by {noise}", others[name], expected[name])
        found = inputs.final_samples(state, config)
        for network in ("segmenter", "global", "semantic"):
            names = [name for name in found if name.startswith(f"{network}/")]
            differences = [inputs.relative_difference(found[name], expected[name]) for name in names]
            if differences:
                print(f"  {network:35} {max(differences):.1e}  ({len(names)} arrays)")


def compare_stems() -> None:
    """Prints the error of the gradient of the stem's kernel against PyTorch in float64, with and without `jit`."""
    print("| kernel | batch × height × width, channels | XLA's options | of training | no jit | PyTorch, float32 |")
    print("|---|---|---:|---:|---:|---:|")
    for side, (*shape, features) in STEMS:
        generator = np.random.default_rng(0)
        x, kernel = generator.standard_normal((*shape, 3)), 0.1 * generator.standard_normal((side, side, 3, features))
        scale, offset = generator.uniform(0.5, 1.5, features), 0.2 * generator.standard_normal(features)
        halves = [-(-length // 2) for length in shape[1:]]  # After the convolution; pooling rounds up.
        weights = generator.standard_normal((shape[0], *(length // 2 + 1 for length in halves), features))
        given = [array.astype(np.float32) for array in (kernel, x, scale, offset, weights)]
        exact = make_golden.stem_gradient(*given, torch.float64)
        gradients = [
            jax.jit(jax.grad(_stem))(*given),
            jax.jit(jax.grad(_stem), compiler_options=options_of_steps())(*given),
            jax.grad(_stem)(*map(jnp.asarray, given)),
            make_golden.stem_gradient(*given, torch.float32),
        ]
        errors = [inputs.relative_difference(np.asarray(found), exact) for found in gradients]
        size = "×".join(map(str, shape))
        print(f"| {side}×{side} | {size}, {features} |", *(f"{error:.0e} |" for error in errors), flush=True)


def _stem(kernel, x, scale, offset, weights):
    y, *_ = ops.conv2d_batch_norm(x, kernel, scale, offset, stride=2, relu=True, epsilon=make_golden.EPSILON)
    return jnp.sum(weights * ops.max_pool(y, 3, (1, 2)))


def compare_gradients(backbone: str) -> None:
    """Prints, for each size, the error of the gradients against PyTorch in float64: ours and PyTorch's in float32.

    For each array, the least error over some draws of images counts: a rectifier whose input is within rounding of 0
    may pass a gradient or not, and both are right. The table shows the largest error of all arrays.
    """
    config = inputs.gradient_config(backbone)
    state = inputs.initial_state(config)
    gradient = jax.jit(functools.partial(inputs.gradients, config))
    print(f"| {backbone} | JAX, float32 | PyTorch, float32 |\n|---|---:|---:|")
    for size in inputs.GRADIENT_SIZES:
        least = {}
        for draw in range(_DRAWS):
            exact = make_golden.gradients(config, size, draw, torch.float64)
            both = {
                "jax": inputs.named_gradients(
                    gradient(state.params, state.batch_stats, *inputs.gradient_batch(size, draw)), config
                ),
                "torch": make_golden.gradients(config, size, draw, torch.float32),
            }
            for side, found in both.items():
                for name, expected in exact.items():
                    difference = inputs.relative_difference(found[name], expected)
                    least[side, name] = min(least.get((side, name), np.inf), difference)
        worst = {side: max(value for (of, _), value in least.items() if of == side) for side in ("jax", "torch")}
        print(f"| {size[0]}×{size[1]} | {worst['jax']:.1e} | {worst['torch']:.1e} |", flush=True)
        jax.clear_caches()


def _print_differences(title: str, found: np.ndarray, expected: np.ndarray) -> None:
    differences = np.abs(found - expected) / np.abs(expected)
    print(f"  {title:35} {' '.join(f'{difference:.0e}' for difference in differences)}", flush=True)


def train(config, sizes) -> tuple[dict[str, np.ndarray], TrainState]:
    """Trains in JAX; returns every loss by step, and the final state."""
    networks, optimizer = build_networks(config, inputs.NUM_CLASSES), make_optimizer(config)
    state = inputs.initial_state(config)
    step = jax.jit(functools.partial(train_step, networks=networks, config=config, optimizer=optimizer))
    streams = [name for name in sizes if config.data.batch[name]]
    history = []
    for number in range(inputs.STEPS):
        state, metrics = step(state, inputs.training_batch(number, streams, sizes))
        history.append(metrics)
    names = [name for name in history[0] if name.startswith("loss/")]
    return {name: np.array([metrics[name] for metrics in history]) for name in names}, state


if __name__ == "__main__":
    main()
