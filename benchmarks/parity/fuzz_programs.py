"""The programs of the fuzz, in the fast form and in the reference form, and the distance between their results."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from ass_jax import ops
from ass_jax.models import vgg
from ass_jax.models.deeplab import Classifier, DeepLab
from ass_jax.models.discriminators import SLOPE, GlobalDiscriminator, SemanticDiscriminator
from ass_jax.models.efficientnet import CEILING, MBConv
from ass_jax.models.layers import conv_bn, depthwise_conv_bn
from ass_jax.models.resnet import Basic, Bottleneck, ResNet
from ass_jax.ops import interpolation_matrix, resize_bilinear
from ass_jax.runtime.compilation import options_of_steps
from benchmarks.parity.fuzz_cases import Case, Layer

_HASTY = {"xla_backend_optimization_level": 1}
TOLERANCE = 1e-4  # In float32, relative to the largest value.
# In bfloat16, the root mean square counts: this share, plus so many times the error of the reference in bfloat16.
TOLERANCE_OF_BFLOAT16, TIMES_OF_BFLOAT16 = 0.02, 3.0
# Where float32 itself is far from float64 (a rectifier or maximum within rounding of its kink, sums that cancel): so
# many times the error of the reference in float32, or the change of float64 when all inputs change by rounding.
TIMES_OF_ROUNDING, ROUNDING, TRIES = 10.0, 2e-7, 2
# Gradients that cancel out, such as that of a scale where nothing varies, are measured against the largest gradient.
TRIFLE_OF_BFLOAT16 = 1e-2
DRAWS = 8  # Further draws of values, after one has shown a difference.

Errors = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The result of a case.

    Attributes:
      errors: of the value and of every gradient, by name, for the first draw of values.
      excess: each error relative to the allowed one, the least over all draws.
      rounding: whether some errors exceed the tolerance; if the case passes, rounding explains them.
    """

    errors: Errors
    excess: Errors
    rounding: bool

    @classmethod
    def of(cls, errors: Errors, allowed: Errors, *, rounding: bool) -> "Verdict":
        """Returns the verdict of one draw."""
        return cls(errors, {name: errors[name] / allowed[name] for name in errors}, rounding)

    @property
    def worst(self) -> str:
        """The name of the value or gradient with the largest excess."""
        return max(self.excess, key=self.excess.get)

    @property
    def passed(self) -> bool:
        """Whether all errors are allowed."""
        return self.excess[self.worst] <= 1.0


def judge(case: Case, *, eager: bool = False) -> Verdict:
    """Computes a case in the fast form and compares the value and all gradients with the reference in float64.

    Args:
      case: to compute.
      eager: run without `jit`, each operation by itself.
    """
    verdict = _of_values(case, eager)
    # Where the input of a rectifier or maximum is within rounding of its kink, both gradients are right. A kink depends
    # on the values; a fault does not.
    for number in range(DRAWS):
        if verdict.passed:
            break
        other = _of_values(dataclasses.replace(case, seed=case.seed + 1 + number), eager)
        excess = {name: min(verdict.excess[name], other.excess[name]) for name in verdict.excess}
        verdict = Verdict(verdict.errors, excess, rounding=True)
    return verdict


def _of_values(case: Case, eager: bool) -> Verdict:
    given = draw_values(case)
    truth_program = compiled(case, "reference", "float64")
    truth = truth_program(given)
    if eager:
        with ops.form("fast"):
            found = _on_host(program(case, case.dtype)(*jax.tree.map(jnp.asarray, given)))
    else:
        found = compiled(case, "fast", case.dtype)(given)
    if case.dtype == "bfloat16":
        errors = _errors(found, truth, _root_mean_square, TRIFLE_OF_BFLOAT16)
        plain = _errors(compiled(case, "reference", "bfloat16")(given), truth, _root_mean_square, TRIFLE_OF_BFLOAT16)
        allowed = {name: TOLERANCE_OF_BFLOAT16 + TIMES_OF_BFLOAT16 * plain[name] for name in errors}
        return Verdict.of(errors, allowed, rounding=False)
    errors = _errors(found, truth, _largest)
    allowed = dict.fromkeys(errors, TOLERANCE)
    if all(errors[name] <= TOLERANCE for name in errors):
        return Verdict.of(errors, allowed, rounding=False)
    others = [_errors(compiled(case, "reference", "float32")(given), truth, _largest)]
    others += [_errors(truth_program(_changed(given, number)), truth, _largest) for number in range(TRIES)]
    for name in errors:
        allowed[name] += TIMES_OF_ROUNDING * max(other[name] for other in others)
    return Verdict.of(errors, allowed, rounding=True)


def compiled(case: Case, form: str, dtype: str) -> Callable:
    """Returns the program of a case: from the result of `draw_values` to the value and gradients on the host."""
    return _compiled(dataclasses.replace(case, values="normal", seed=0), form, dtype)


@functools.lru_cache(maxsize=8)
def _compiled(case: Case, form: str, dtype: str) -> Callable:
    wide = dtype == "float64"
    options = options_of_steps() if case.options == "steps" else None
    if form == "reference":
        options = _HASTY
    function = jax.jit(program(case, dtype), compiler_options=options)

    def call(given: tuple) -> dict[str, np.ndarray]:
        with jax.enable_x64(wide), ops.form(form):
            return _on_host(function(*jax.tree.map(lambda leaf: leaf.astype(np.float64) if wide else leaf, given)))

    return call


def forget() -> None:
    """Frees compiled programs."""
    _compiled.cache_clear()
    jax.clear_caches()


def program(case: Case, dtype: str) -> Callable:
    """Returns the function of (parameters, input, weights of the values) to the value and all gradients."""
    forward = functools.partial(apply_layers, case.layers, dtype=jnp.dtype(dtype))
    if case.remat:
        forward = jax.checkpoint(forward)

    def value_and_gradients(params: dict, x: jax.Array, weights: list) -> tuple:
        value, transpose = jax.vjp(forward, params, x)
        cotangents = [weight.astype(leaf.dtype) for weight, leaf in zip(weights, jax.tree.leaves(value), strict=True)]
        return value, transpose(jax.tree.unflatten(jax.tree.structure(value), cotangents))

    return value_and_gradients


def draw_values(case: Case) -> tuple[dict, np.ndarray, list[np.ndarray]]:
    """Returns the parameters, the input, and the cotangents of the values."""
    generator = np.random.default_rng(case.seed)
    x = _input(case, generator)
    params, shape = {}, x.shape
    for index, layer in enumerate(case.layers):
        shapes = _parameters(layer, shape)
        flat = traverse_util.flatten_dict(shapes)
        drawn = {path: _draw(path, leaf, generator) for path, leaf in flat.items()}
        params[f"layer{index}"] = traverse_util.unflatten_dict(drawn)
        shape = jax.eval_shape(functools.partial(_apply, layer, dtype=jnp.float32), shapes, _array(shape))
        shape = jax.tree.leaves(shape)[0].shape
    values = jax.eval_shape(functools.partial(apply_layers, case.layers, dtype=jnp.float32), params, x)
    weights = [generator.standard_normal(leaf.shape, np.float32) for leaf in jax.tree.leaves(values)]
    return params, x, weights


def apply_layers(layers: tuple[Layer, ...], params: dict, x: jax.Array, *, dtype: Any) -> jax.Array | dict:
    """Applies a chain of layers to an input in a compute type."""
    y = x.astype(dtype)
    for index, layer in enumerate(layers):
        y = _apply(layer, params[f"layer{index}"], y, dtype=dtype)
        if index + 1 < len(layers):
            y = jax.tree.leaves(y)[0].astype(dtype)
    return y


def _apply(layer: Layer, params: dict, x: jax.Array, *, dtype: Any) -> Any:
    match layer.name:
        case "conv2d":
            return ops.conv2d(x, params["kernel"], stride=layer["stride"], dilation=layer["dilation"])
        case "depthwise_conv2d":
            return ops.depthwise_conv2d(x, params["kernel"], stride=layer["stride"], dilation=layer["dilation"])
        case "conv2d_batch_norm":
            settings = {"stride": layer["stride"], "dilation": layer["dilation"]}
            return ops.conv2d_batch_norm(x, params["kernel"], params["scale"], params["bias"], **settings)[0]
        case "batch_norm":
            return ops.batch_norm(x, params["scale"], params["bias"], relu=layer["relu"])[0]
        case "normalise":
            return ops.normalise(x, params["mean"], params["var"], params["scale"], params["bias"])
        case "max_pool":
            return ops.max_pool(x, layer["side"], (1, 2) if layer["side"] == 3 else (0, 0))
        case "atrous_sum":
            kernels = [leaves["kernel"] for leaves in params.values()]
            return ops.atrous_sum(x, kernels, layer["dilations"])
        case "add_relu":
            return ops.add_relu(x, ops.conv2d(x, params["kernel"]))
        case "relu":
            return nn.relu(x)
        case "leaky_relu":
            return nn.leaky_relu(x, SLOPE)
        case "softmax":
            return nn.softmax(x)
        case "resize_bilinear":
            return (_resize_plain if ops.current_form() == "reference" else resize_bilinear)(x, layer["size"])
    with _narrow(layer):
        return _module(layer, dtype).apply(params, x, **_keywords(layer))


def _resize_plain(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    rows, columns = (
        interpolation_matrix(cells, length).astype(x.dtype) for cells, length in zip(x.shape[1:3], size, strict=True)
    )
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return jnp.einsum("Hh,Ww,bhwk->bHWk", rows, columns, wide, precision="highest")


def _module(layer: Layer, dtype: Any) -> nn.Module:
    """Returns the module of a block or a network."""
    layer_of_block = functools.partial(conv_bn, train=True, dtype=dtype)
    match layer.name:
        case "bottleneck":
            shared = {key: layer[key] for key in ("width", "stride", "dilation", "project", "stride_in")}
            return Bottleneck(conv_bn=layer_of_block, **shared)
        case "basic":
            shared = {key: layer[key] for key in ("width", "stride", "dilation", "project")}
            return Basic(conv_bn=layer_of_block, **shared)
        case "mbconv":
            shared = {"ceiling": CEILING, "train": True, "dtype": dtype}
            layers = (functools.partial(function, **shared) for function in (conv_bn, depthwise_conv_bn))
            return MBConv(**dict(layer.settings), **dict(zip(("pointwise", "depthwise"), layers, strict=True)))
        case "classifier":
            return Classifier(layer["classes"], layer["branches"], dtype)
        case "global_discriminator":
            return GlobalDiscriminator(layer["width"], dtype)
        case "semantic_discriminator":
            return SemanticDiscriminator(layer["width"], layer["outputs"], dtype)
        case "resnet_tiny":
            sizes = {"stage_sizes": (1, 1, 1, 1), "block": "basic", "stem_kernel": 3}
            backbone = ResNet(width=layer["width"], stem_width=layer["width"], dtype=dtype, **sizes)
        case "resnet50":
            widths = {"width": layer["width"], "stem_width": layer["width"], "stride_in": layer["stride_in"]}
            backbone = ResNet((3, 4, 6, 3), dtype=dtype, **widths)
        case "vgg16":
            backbone = vgg.Vgg(dtype)
        case _:
            raise ValueError(f"Unknown layer {layer.name!r}.")
    return DeepLab(backbone, layer["classes"], layer["branches"], dtype)


@contextlib.contextmanager
def _narrow(layer: Layer) -> Iterator[None]:
    """Narrows VGG-16: its first block has as many channels as the layer's width, the others in proportion."""
    if layer.name != "vgg16":
        yield
        return
    blocks = tuple((count, channels * layer["width"] // 64, dilation) for count, channels, dilation in vgg.BLOCKS)
    head = tuple(channels * layer["width"] // 64 for channels in vgg.HEAD)
    with mock.patch.multiple(vgg, BLOCKS=blocks, HEAD=head):
        yield


def _keywords(layer: Layer) -> dict:
    if layer.name in ("resnet_tiny", "resnet50"):
        return {"train": True, "mutable": ["batch_stats"]}
    if layer.name == "vgg16":
        return {"train": True}
    return {"mutable": ["batch_stats"]} if layer.name in ("bottleneck", "basic", "mbconv") else {}


def _parameters(layer: Layer, shape: tuple[int, ...]) -> dict:
    """Returns the nested shapes of a layer's parameters for an input shape."""
    channels = shape[-1]
    vector = _array((channels,))
    match layer.name:
        case "conv2d":
            return {"kernel": _array((layer["kernel"], layer["kernel"], channels, layer["features"]))}
        case "depthwise_conv2d":
            return {"kernel": _array((layer["kernel"], layer["kernel"], 1, channels))}
        case "conv2d_batch_norm":
            vectors = dict.fromkeys(("scale", "bias"), _array((layer["features"],)))
            return {"kernel": _array((layer["kernel"], layer["kernel"], channels, layer["features"]))} | vectors
        case "batch_norm":
            return dict.fromkeys(("scale", "bias"), vector)
        case "normalise":
            return dict.fromkeys(("scale", "bias", "mean", "var"), vector)
        case "atrous_sum":
            kernel = _array((3, 3, channels, layer["features"]))
            return {f"dilation{dilation}": {"kernel": kernel} for dilation in layer["dilations"]}
        case "add_relu":
            return {"kernel": _array((1, 1, channels, channels))}
        case "relu" | "leaky_relu" | "max_pool" | "softmax" | "resize_bilinear":
            return {}
    keywords = {key: value for key, value in _keywords(layer).items() if key == "train"}
    with _narrow(layer):
        module = _module(layer, jnp.float32)
        return jax.eval_shape(lambda x: module.init(jax.random.key(0), x, **keywords), _array(shape))


def _draw(path: tuple[str, ...], leaf: jax.ShapeDtypeStruct, generator: np.random.Generator) -> np.ndarray:
    values = generator.standard_normal(leaf.shape, np.float32)
    match path[-1]:
        case "kernel":
            return values * np.float32(np.sqrt(2 / np.prod(leaf.shape[:-1])))
        case "scale" | "var":
            return _strength(path) * np.exp(np.float32(0.2) * values)
        case "bias" if any(name.endswith("_norm") for name in path):
            # In a deep network some rectifier is always near its kink, unless most are clearly open or closed.
            signs = generator.choice(np.array([-1.5, 1.5], np.float32), leaf.shape)
            return _strength(path) * (signs + np.float32(0.2) * values)
    return np.float32(0.2) * values


def _strength(path: tuple[str, ...]) -> np.float32:
    """Returns the scale of a batch norm: small for the last one of a block, or the sum over the blocks would grow."""
    return np.float32(0.3 if "expand_norm" in path or "second_norm" in path else 1.0)


def _input(case: Case, generator: np.random.Generator) -> np.ndarray:
    x = generator.standard_normal(case.shape, np.float32)
    match case.values:
        case "ties":
            x = np.round(2 * x) / 2
        case "offset":
            x += generator.uniform(-5, 5, case.shape[-1]).astype(np.float32)
        case "constant":  # As in a masked or padded image: most of it is one value.
            x[:, : -(-case.shape[1] // 2)] = 0.0
        case "photo":
            x = x[:, ::8, ::8].repeat(8, 1).repeat(8, 2)[:, : case.shape[1], : case.shape[2]]
            x = np.round(64 * (x + np.float32(0.2) * generator.standard_normal(x.shape, np.float32))) / 64
    return x.astype(np.float32)


def _changed(given: tuple, number: int) -> tuple:
    generator = np.random.default_rng(number)

    def change(leaf: np.ndarray) -> np.ndarray:
        return leaf.astype(np.float64) * (1 + ROUNDING * generator.uniform(-1, 1, leaf.shape))

    params, x, weights = given
    return jax.tree.map(change, params), change(x), weights


def _array(shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _on_host(result: tuple) -> dict[str, np.ndarray]:
    """Returns the value and gradients by name, on the host."""
    value, (of_params, of_x) = result
    tree = {"value": value, "gradient of the input": of_x, "gradient": of_params}
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in leaves}


def _errors(found: dict, truth: dict, norm: Callable, share: float = 0.0) -> Errors:
    """Returns the norm of each difference, relative to the truth or, if larger, to a share of the largest gradient."""
    sizes = {name: norm(np.asarray(array, np.float64)) if array.size else 0.0 for name, array in truth.items()}
    trifle = share * max((size for name, size in sizes.items() if name.startswith("gradient")), default=0.0)
    return {name: _error(found[name], truth[name], norm, max(size, trifle)) for name, size in sizes.items()}


def _error(found: np.ndarray, truth: np.ndarray, norm: Callable, size: float) -> float:
    """Returns the norm of the difference over the size; infinity if only the truth is finite."""
    found, truth = (np.asarray(array, np.float64) for array in (found, truth))
    if not np.isfinite(found).all() or not truth.size:
        return float("inf") if truth.size and np.isfinite(truth).all() else 0.0
    distance = norm(found - truth)
    return float(distance / size) if size else float(distance)


def _largest(values: np.ndarray) -> float:
    return np.abs(values).max()


def _root_mean_square(values: np.ndarray) -> float:
    return np.sqrt(np.mean(np.square(values)))
