"""A small Vision Transformer and its inputs for the parity tests, the same in every framework."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from ass_jax.models.vit import Vit, padded_size
from ass_jax.weights.pretrained import flatten
from benchmarks.parity.inputs import draws, sample

SETTINGS = {"width": 32, "depth": 4, "heads": 2, "grid": 5}
REGISTERS = {"dinov2": 0, "registers": 4}  # By the kind of network.
# Height and width of the images: of the learnt positions, of whole patches, and one that is filled up to these.
SIZES = {"learnt": (70, 70), "wide": (70, 98), "high": (126, 56), "odd": (71, 99)}
# Library, network and size. Without registers, timm resizes positions in a way of its own.
COMPARED = (
    *itertools.product(("transformers",), REGISTERS, SIZES),
    *itertools.product(("timm",), ("registers",), ("wide", "high", "odd")),
    ("timm", "dinov2", "learnt"),
)
# Grids to which the positions of DINOv2 are resized: larger, smaller, and one with a side of the same length.
GRIDS = {"large": (40, 45), "small": (9, 17), "mixed": (37, 24)}
RULES = {  # Of `ass_jax.models.vit.resize_positions`.
    "dinov2": {"antialias": False, "offset": 0.1},
    "plain": {"antialias": False, "offset": 0.0},
    "antialias": {"antialias": True, "offset": 0.0},
}
GRADIENT_SIZE = "odd"  # Of the images whose gradients are compared.
GRADIENT_SAMPLES = 24  # Values of each gradient that are stored.
LEVEL_STEP = 4  # One in so many channels of the levels is stored.


def network(kind: str, **settings) -> Vit:
    """Returns the small network of one of `REGISTERS`."""
    return Vit(**(SETTINGS | {"registers": REGISTERS[kind]} | settings))


def params(kind: str) -> dict:
    """Returns its random parameters: no bias is zero, and LayerScale is about 1."""
    module = network(kind)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 14, 14, 3)), False))["params"]
    drawn = [_draw(path, leaf.shape) for path, leaf in flatten(shapes)]
    return jax.tree.unflatten(jax.tree.structure(shapes), drawn)


def images(size: str) -> np.ndarray:
    """Returns normalised images float32 [2, H, W, 3] of one of `SIZES`."""
    return draws(f"vit images {size}").standard_normal((2, *SIZES[size], 3), np.float32)


def cotangent(size: str) -> np.ndarray:
    """Returns the factors [2, h, w, D] of the features in the sum whose gradients are compared."""
    height, width = (length // 14 for length in padded_size(SIZES[size]))
    return draws(f"vit cotangent {size}").standard_normal((2, height, width, SETTINGS["width"]), np.float32)


def gradient_sample(path: str, gradient: np.ndarray) -> np.ndarray:
    """Returns some values of a gradient; the class token has no position of its own in one of timm's networks."""
    return sample(gradient[:, 1:] if path.endswith("/positions") else gradient, GRADIENT_SAMPLES)


def positions() -> np.ndarray:
    """Returns a grid of positions [37, 37, 1]."""
    return draws("vit positions").standard_normal((37, 37, 1), np.float32)


def _draw(path: str, shape: tuple[int, ...]) -> np.ndarray:
    generator, leaf = draws(f"vit {path}"), path.rsplit("/", 1)[-1]
    match leaf:
        case "kernel":
            return generator.standard_normal(shape, np.float32) / np.sqrt(np.prod(shape[:-1]), dtype=np.float32)
        case "scale" | "attention_scale" | "mlp_scale":
            return generator.uniform(0.6, 1.4, shape).astype(np.float32)
        case "bias":
            return generator.uniform(-0.3, 0.3, shape).astype(np.float32)
    return 0.5 * generator.standard_normal(shape, np.float32)  # Tokens and positions.
