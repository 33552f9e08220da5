"""Random cases of the numerics fuzz: what is computed, at which size, on which values. They depend only on a seed.

A case is a whole network, or a chain of layers: one of them is the operation under test; the others, before and after
it, vary what the compiler fuses.
"""

import dataclasses
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

OPERATIONS = (
    "conv2d",
    "depthwise_conv2d",
    "conv2d_batch_norm",
    "batch_norm",
    "normalise",
    "max_pool",
    "atrous_sum",
    "add_relu",
    "resize_bilinear",
)
BLOCKS = ("stem", "bottleneck", "basic", "mbconv", "vgg_block", "classifier")
NETWORKS = ("resnet_tiny", "resnet50", "vgg16", "global_discriminator", "semantic_discriminator")
KINDS = OPERATIONS + BLOCKS + NETWORKS

VALUES = ("normal", "ties", "offset", "constant", "photo")
OPTIONS = ("steps", "default")  # Compiler options: those of training, or XLA's defaults.
# Cases that share a program and differ only in their values: most of the time goes into compiling.
DRAWS = dict.fromkeys(OPERATIONS, 2) | dict.fromkeys(BLOCKS, 4) | dict.fromkeys(NETWORKS, 10) | {"resnet50": 20}
_MOST_VALUES = 2**18  # In a map, so that a case takes about a second.
_MOST_PRODUCTS = 2**25  # In a layer.


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer of a chain: its name and its settings; see `benchmarks.parity.fuzz_programs`."""

    name: str
    settings: tuple[tuple[str, Any], ...] = ()

    def __getitem__(self, key: str) -> Any:
        return dict(self.settings)[key]

    def with_(self, **changes: Any) -> "Layer":
        """Returns the layer with some settings changed."""
        return Layer(self.name, tuple((dict(self.settings) | changes).items()))


@dataclasses.dataclass(frozen=True)
class Case:
    """One program and its inputs.

    Attributes:
      kind: one of `KINDS`.
      shape: of the input, [B, H, W, channels].
      layers: the chain, or one layer that names a network.
      values: how the input is drawn, one of `VALUES`.
      dtype: compute type, "float32" or "bfloat16".
      remat: whether the backward pass recomputes the forward pass.
      options: one of `OPTIONS`.
      seed: of the values.
    """

    kind: str
    shape: tuple[int, int, int, int]
    layers: tuple[Layer, ...]
    values: str
    dtype: str
    remat: bool
    options: str
    seed: int

    def __str__(self) -> str:
        layers = " -> ".join(
            f"{layer.name}({', '.join(f'{key}={value}' for key, value in layer.settings)})" for layer in self.layers
        )
        remat = ", remat" if self.remat else ""
        return (
            f"{self.kind}: {'×'.join(map(str, self.shape))} {self.dtype} {self.values} -> {layers}{remat}; "
            f"options of {self.options}; seed {self.seed}"
        )


def draw(kind: str, seed: int, number: int) -> Case:
    """Returns case `number` of a kind."""
    of_kind = zlib.crc32(kind.encode())
    generator = np.random.default_rng([seed, of_kind, number // DRAWS[kind]])
    while True:
        shape, layers = _DRAWN[kind](generator) if kind in _DRAWN else _chain(kind, generator)
        if fits(shape, layers):
            break
    drawn = Case(
        kind=kind,
        shape=shape,
        layers=layers,
        values="normal",
        dtype="bfloat16" if generator.random() < 0.2 else "float32",
        remat=bool(generator.random() < 0.25),
        options=OPTIONS[int(generator.random() < 0.5)],
        seed=0,
    )
    generator = np.random.default_rng([seed, of_kind, number, 1])
    values = str(generator.choice(VALUES, p=(0.6, 0.1, 0.1, 0.05, 0.15)))
    return dataclasses.replace(drawn, values=values, seed=int(generator.integers(2**31)))


def fits(shape: tuple[int, ...], layers: tuple[Layer, ...]) -> bool:
    """Returns whether the chain can be applied to the shape and is cheap enough."""
    for layer in layers:
        if layer.name in NETWORKS or layer.name in BLOCKS:
            return True  # Drawn small.
        if layer.name == "softmax" and shape[-1] == 1:
            return False  # Constant 1: see the limit in docs/numerics.md.
        after = shape_after(layer, shape)
        if after is None or np.prod(after) > _MOST_VALUES or _products(layer, shape, after) > _MOST_PRODUCTS:
            return False
        shape = after
    return True


def shape_after(layer: Layer, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Returns the shape of a layer's result; None if it would be empty."""
    batch, height, width, channels = shape
    match layer.name:
        case "conv2d" | "conv2d_batch_norm":
            size, stride, dilation = layer["kernel"], layer["stride"], layer["dilation"]
            pad = dilation * (size - 1) // 2
            sides = [(length + 2 * pad - dilation * (size - 1) - 1) // stride + 1 for length in (height, width)]
            return (batch, *sides, layer["features"]) if min(sides) >= 1 else None
        case "depthwise_conv2d":
            return (batch, *(-(-length // layer["stride"]) for length in (height, width)), channels)
        case "atrous_sum":
            return (batch, height, width, layer["features"])
        case "max_pool":
            if layer["side"] == 3:
                return (batch, height // 2 + 1, width // 2 + 1, channels)
            return (batch, height // 2, width // 2, channels) if min(height, width) >= 2 else None
        case "resize_bilinear":
            return (batch, *layer["size"], channels)
    return tuple(shape)


def simpler(case: Case) -> Iterator[Case]:
    """Yields slightly simpler cases: fewer layers, smaller sizes, plainer values."""
    for index in range(len(case.layers)):
        if len(case.layers) > 1:
            yield dataclasses.replace(case, layers=case.layers[:index] + case.layers[index + 1 :])
    for axis in range(4):
        for length in (case.shape[axis] // 2, case.shape[axis] - 8, case.shape[axis] - 1):
            if 1 <= length < case.shape[axis]:
                shape = (*case.shape[:axis], length, *case.shape[axis + 1 :])
                yield dataclasses.replace(case, shape=shape)
    for index, layer in enumerate(case.layers):
        for key, value in layer.settings:
            smaller = [value // 2, value - 1] if isinstance(value, int) and not isinstance(value, bool) else []
            for changed in smaller:
                if changed >= 1 and not (layer.name == "max_pool" or key == "kernel"):
                    layers = (*case.layers[:index], layer.with_(**{key: changed}), *case.layers[index + 1 :])
                    yield dataclasses.replace(case, layers=layers)
    for plainer in ({"remat": False}, {"values": "normal"}):
        if dataclasses.replace(case, **plainer) != case:
            yield dataclasses.replace(case, **plainer)


def _products(layer: Layer, shape: tuple[int, ...], after: tuple[int, ...]) -> int:
    """Returns the multiplications of a layer."""
    settings = dict(layer.settings)
    taps = settings.get("kernel", 1) ** 2 * (9 * len(settings["dilations"]) if "dilations" in settings else 1)
    return int(np.prod(after)) * taps * (shape[-1] if "features" in settings else 1)


def _side(generator: np.random.Generator, least: int = 1, most: int = 140) -> int:
    """Draws a height or width: tiny, prime, near a multiple of 8 as in photographs, or any."""
    primes = (2, 3, 5, 7, 11, 13, 17, 23, 29, 31, 37, 43, 53, 61, 67, 73, 83, 97, 101, 113, 127, 137)
    while True:
        length = int(
            generator.choice(
                [
                    generator.integers(1, 9),
                    generator.choice(primes),
                    8 * generator.integers(1, 17) + generator.integers(-1, 2),
                    32 * generator.integers(1, 5),
                    generator.integers(1, 141),
                ]
            )
        )
        if least <= length <= most:
            return length


def _channels(generator: np.random.Generator) -> int:
    """Draws a number of channels from 1 to 2048, often a power of two, roughly log-uniform."""
    exponent = generator.uniform(0, 11)
    return int(2 ** int(exponent) if generator.random() < 0.6 else round(2**exponent))


def _shape(generator: np.random.Generator) -> tuple[int, int, int, int]:
    while True:
        batch = int(generator.integers(1, 6))
        shape = batch, _side(generator), _side(generator), _channels(generator)
        if np.prod(shape) <= _MOST_VALUES:
            return shape


def _layer(name: str, generator: np.random.Generator) -> Layer:
    match name:
        case "conv2d":
            size = int(generator.choice((1, 3, 3, 3, 4, 7)))
            stride = int(generator.choice((1, 1, 2)))
            dilation = int(generator.choice((1, 1, 2, 4, 6))) if size == 3 else 1
            settings = {"features": _channels(generator), "kernel": size, "stride": stride, "dilation": dilation}
        case "depthwise_conv2d":
            size, stride = int(generator.choice((3, 5))), int(generator.choice((1, 1, 2)))
            settings = {"kernel": size, "stride": stride, "dilation": int(generator.choice((1, 1, 2, 4)))}
        case "conv2d_batch_norm":
            # Half of them from moments, where features are many.
            if generator.random() < 0.5:
                features = 4 * _channels(generator)
                return Layer(name, (("features", features), ("kernel", 1), ("stride", 1), ("dilation", 1)))
            return dataclasses.replace(_layer("conv2d", generator), name=name)
        case "batch_norm":
            settings = {"relu": bool(generator.random() < 0.7)}
        case "max_pool":
            settings = {"side": int(generator.choice((2, 3)))}
        case "atrous_sum":
            count = int(generator.integers(1, 5))
            settings = {"features": int(generator.integers(1, 40)), "dilations": (6, 12, 18, 24)[:count]}
        case "resize_bilinear":
            settings = {"size": (_side(generator), _side(generator))}
        case _:
            settings = {}
    return Layer(name, tuple(settings.items()))


_AROUND = ("conv2d", "batch_norm", "max_pool", "add_relu", "relu", "leaky_relu", "softmax")


def _chain(kind: str, generator: np.random.Generator) -> tuple[tuple[int, ...], tuple[Layer, ...]]:
    """Draws an input and a chain of up to four layers, one of which is of the kind."""
    names = [str(name) for name in generator.choice(_AROUND, size=generator.integers(0, 4))]
    names.insert(int(generator.integers(0, len(names) + 1)), kind)
    return _shape(generator), tuple(_layer(name, generator) for name in names)


def _stem(generator: np.random.Generator) -> tuple[tuple[int, ...], tuple[Layer, ...]]:
    """Draws a ResNet stem on three input channels."""
    kernel, features = int(generator.choice((3, 7))), int(generator.choice((8, 16, 24, 64)))
    shape = int(generator.integers(1, 6)), _side(generator, 2), _side(generator, 2), 3
    conv = Layer("conv2d", (("features", features), ("kernel", kernel), ("stride", 2), ("dilation", 1)))
    return shape, (conv, Layer("batch_norm", (("relu", True),)), Layer("max_pool", (("side", 3),)))


def _vgg_block(generator: np.random.Generator) -> tuple[tuple[int, ...], tuple[Layer, ...]]:
    features, channels = int(generator.choice((8, 16, 64))), int(generator.choice((3, 8)))
    conv = Layer("conv2d", (("features", features), ("kernel", 3), ("stride", 1), ("dilation", 1)))
    layers = (conv, Layer("relu")) * int(generator.integers(1, 4))
    shape = int(generator.integers(1, 4)), _side(generator, 2, 80), _side(generator, 2, 80), channels
    return shape, (*layers, Layer("max_pool", (("side", 2),)))


def _block(name: str) -> Callable:
    def drawn(generator: np.random.Generator) -> tuple[tuple[int, ...], tuple[Layer, ...]]:
        width = int(generator.choice((4, 8, 16, 32, 64)))
        project = bool(generator.random() < 0.5)
        whole = width * (4 if name == "bottleneck" else 1)
        channels = int(generator.choice((8, 16, 32, 64, 128, 256))) if project else whole
        settings = {
            "width": width,
            "project": project,
            "stride": int(generator.choice((1, 2))) if project else 1,
            "dilation": int(generator.choice((1, 2, 4))),
            "stride_in": str(generator.choice(("1x1", "3x3"))),
        }
        shape = int(generator.integers(1, 6)), _side(generator, 3, 40), _side(generator, 3, 40), channels
        return shape, (Layer(name, tuple(settings.items())),)

    return drawn


def _mbconv(generator: np.random.Generator) -> tuple[tuple[int, ...], tuple[Layer, ...]]:
    channels = int(generator.choice((4, 8, 16, 24, 40)))
    settings = {
        "features": channels if generator.random() < 0.5 else int(generator.choice((8, 16, 40))),
        "expansion": int(generator.choice((1, 6, 6))),
        "kernel_size": int(generator.choice((3, 5))),
        "stride": int(generator.choice((1, 1, 2))),
        "dilation": int(generator.choice((1, 1, 2, 4))),
    }
    shape = int(generator.integers(1, 4)), _side(generator, 3, 40), _side(generator, 3, 40), channels
    return shape, (Layer("mbconv", tuple(settings.items())),)


def _classifier(generator: np.random.Generator) -> tuple[tuple[int, ...], tuple[Layer, ...]]:
    settings = {"classes": int(generator.integers(2, 40)), "branches": int(generator.integers(1, 5))}
    channels = int(generator.choice((8, 32, 128, 512)))
    shape = int(generator.integers(1, 4)), _side(generator, 1, 33), _side(generator, 1, 33), channels
    return shape, (Layer("classifier", tuple(settings.items())),)


def _segmenter(name: str, most: int, widths: tuple[int, ...]) -> Callable:
    def drawn(generator: np.random.Generator) -> tuple[tuple[int, ...], tuple[Layer, ...]]:
        settings = {
            "width": int(generator.choice(widths)),
            "classes": int(generator.integers(2, 20)),
            "branches": int(generator.integers(1, 5)),
            "stride_in": str(generator.choice(("1x1", "3x3"))),
        }
        shape = int(generator.integers(1, 4)), _side(generator, 24, most), _side(generator, 24, most), 3
        return shape, (Layer(name, tuple(settings.items())),)

    return drawn


def _global_discriminator(generator: np.random.Generator) -> tuple[tuple[int, ...], tuple[Layer, ...]]:
    settings = (("width", int(generator.choice((1, 4, 8, 16)))),)
    sides = _side(generator, 32, 113), _side(generator, 32, 113)
    shape = int(generator.integers(1, 4)), *sides, int(generator.integers(2, 20))
    return shape, (Layer("softmax"), Layer("global_discriminator", settings))


def _semantic_discriminator(generator: np.random.Generator) -> tuple[tuple[int, ...], tuple[Layer, ...]]:
    settings = {"width": int(generator.choice((1, 16, 128, 512))), "outputs": int(generator.integers(1, 40))}
    shape = int(generator.integers(1, 6)), 1, int(generator.integers(2, 20)), _channels(generator)
    return shape, (Layer("semantic_discriminator", tuple(settings.items())),)


_DRAWN = {
    "stem": _stem,
    "vgg_block": _vgg_block,
    "bottleneck": _block("bottleneck"),
    "basic": _block("basic"),
    "mbconv": _mbconv,
    "classifier": _classifier,
    "resnet_tiny": _segmenter("resnet_tiny", 140, (16,)),
    "resnet50": _segmenter("resnet50", 97, (4, 8, 16)),
    "vgg16": _segmenter("vgg16", 80, (4, 8, 16)),
    "global_discriminator": _global_discriminator,
    "semantic_discriminator": _semantic_discriminator,
}
