"""Every way of every operation against the plain form in float64: the value and all gradients."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from ass_jax import ops
from ass_jax.ops import atrous, conv_batch_norm, convolution, depthwise, normalisation, pooling, products
from ass_jax.ops.convolution import Ways
from ass_jax.runtime.compilation import options_of_one_use, options_of_steps

WINOGRAD = Ways("winograd", "winograd", "winograd")
SHIFTS, OVERLAPS = Ways("direct", "direct", "shifts"), Ways("direct", "direct", "overlaps")
PHASES, UNSTRIDED = Ways("direct", "direct", "phases"), Ways("direct", "unstrided", "unstrided")
TAPS, ROWS = Ways("taps", "taps", "direct"), Ways("rows", "rows", "rows")


class Case(NamedTuple):
    """An operation and what it is given.

    Attributes:
      operation: of `ass_jax.ops`.
      shapes: of its arrays, by name; the first is the map.
      settings: its keyword arguments.
      way: module whose choice is replaced, and by what; None leaves it.
    """

    operation: str
    shapes: dict[str, tuple[int, ...]]
    settings: dict
    way: tuple | None = None

    def __str__(self):
        shapes = ("x".join(map(str, shape)) for shape in self.shapes.values())
        way = f" by {self.way[1]}" if self.way else ""
        return f"{self.operation} of {' '.join(shapes)} {self.settings}{way}"


def conv(rows, columns, channels, features, size, stride=1, dilation=1, way=None):
    shapes = {"x": (2, rows, columns, channels), "kernel": (size, size, channels, features)}
    return Case("conv2d", shapes, {"stride": stride, "dilation": dilation}, way and (convolution, way))


def depthwise_conv(rows, columns, size, stride=1, dilation=1, way=None):
    shapes = {"x": (2, rows, columns, 3), "kernel": (size, size, 1, 3)}
    return Case("depthwise_conv2d", shapes, {"stride": stride, "dilation": dilation}, way and (depthwise, way))


def vectors(count, *names):
    return dict.fromkeys(names, (count,))


def conv_norm(rows, columns, channels, features, size=1, way=None, **settings):
    shapes = conv(rows, columns, channels, features, size).shapes | vectors(features, "scale", "bias")
    return Case("conv2d_batch_norm", shapes, settings, way and (conv_batch_norm, way))


def norm(relu, way=None, **settings):
    shapes = {"x": (2, 5, 7, 6)} | vectors(6, "scale", "bias")
    return Case("batch_norm", shapes, {"relu": relu} | settings, way and (normalisation, way))


def atrous_sum(rows, columns, way=None):
    kernels = {f"kernel{dilation}": (3, 3, 5, 3) for dilation in (6, 12, 18, 24)}
    return Case("atrous_sum", {"x": (2, rows, columns, 5)} | kernels, {}, way and (atrous, way))


CASES = [
    # As chosen on the platform of the tests.
    conv(5, 7, 3, 4, 1),
    conv(6, 7, 3, 4, 1, stride=2),
    conv(5, 6, 3, 4, 3),
    conv(5, 9, 3, 4, 3, dilation=6),  # The outer rows of the kernel lie in the padding,
    conv(5, 9, 64, 4, 3, dilation=12),  # and all but the centre.
    conv(9, 8, 3, 4, 7, stride=2),
    conv(2, 9, 1, 16, 7, stride=2),
    conv(1, 8, 3, 4, 3, stride=2),
    conv(9, 1, 64, 2, 3, stride=2),
    conv(9, 8, 64, 2, 4, dilation=2),  # The result is smaller.
    # Each way of the convolution, chosen where it may not pay.
    *(
        conv(rows, columns, 5, 4, 3, way=SHIFTS, dilation=dilation)
        for rows, columns, dilation in [(5, 7, 1), (9, 5, 3)]
    ),
    *(conv(5, 9, 5, 4, 3, stride, dilation, OVERLAPS) for stride, dilation in [(1, 1), (2, 1), (1, 4), (1, 10)]),
    *(conv(rows, columns, 5, 4, 4, 2, way=OVERLAPS) for rows, columns in [(5, 7), (2, 3), (9, 8)]),
    *(
        conv(rows, columns, 3, 4, size, stride, way=ROWS)
        for rows, columns in [(9, 8), (10, 13), (2, 2)]
        for size, stride in [(7, 2), (4, 2), (3, 2), (2, 2), (5, 3), (3, 4)]
    ),
    *(conv(9, 8, 5, 4, size, dilation=dilation, way=TAPS) for size, dilation in [(3, 2), (3, 10), (5, 3)]),
    *(conv(21, 16, 5, 4, size, dilation=dilation, way=PHASES) for size, dilation in [(3, 2), (3, 7), (5, 3)]),
    *(conv(9, 8, 3, 5, size, stride, way=UNSTRIDED) for size, stride in [(2, 2), (4, 2), (5, 3)]),
    *(conv(9, 8, 3, 5, 7, stride, way=UNSTRIDED._replace(input_gradient="direct")) for stride in (2, 3)),
    *(conv(rows, 7, 3, 5, 3, dilation=dilation, way=WINOGRAD) for rows, dilation in [(2, 1), (5, 1), (7, 2), (1, 4)]),
    conv(5, 7, 3, 5, 2, way=WINOGRAD),
    *(conv(7, 9, 3, 5, size, 2, way=WINOGRAD) for size in (3, 4)),
    *(
        depthwise_conv(rows, columns, size, stride, dilation)
        for rows, columns in [(7, 8), (8, 13), (1, 5), (2, 2)]
        for size, stride, dilation in [(3, 1, 1), (3, 2, 1), (5, 2, 1), (5, 1, 2), (5, 1, 4), (3, 2, 2), (3, 3, 2)]
    ),
    depthwise_conv(7, 8, 3, 2, way="direct"),
    conv_norm(5, 7, 3, 12, relu=True),  # From moments.
    conv_norm(5, 7, 3, 12, relu=True, ceiling=1.0),
    conv_norm(5, 7, 3, 12, way="distances"),
    conv_norm(5, 7, 3, 5),
    conv_norm(9, 8, 3, 6, 3, stride=2, dilation=2, relu=True),
    norm(relu=False),
    norm(relu=True),
    norm(relu=True, ceiling=1.0, epsilon=1e-3),
    norm(relu=True, way=normalisation.Ways("input", "separate")),
    norm(relu=False, way=normalisation.Ways("rounded_input", "in_pairs")),
    Case(
        "normalise",
        {"x": (2, 5, 7, 6)} | vectors(6, "mean", "variance", "scale", "bias"),
        {"relu": True, "ceiling": 1.0},
    ),
    *(
        Case("max_pool", {"x": (2, *size, 3)}, {"side": side, "padding": padding}, (pooling, way))
        for size, side, padding in [((7, 8), 3, (1, 2)), ((1, 1), 3, (1, 2)), ((5, 9), 2, (0, 0)), ((7, 12), 4, (0, 0))]
        for way in ("by_taps", "by_search")
    ),
    *(atrous_sum(*size) for size in [(30, 27), (13, 20), (1, 1)]),  # From all taps to only centres.
    atrous_sum(7, 13, "convolutions"),
    Case("add_relu", {"x": (2, 3, 4, 5), "y": (2, 3, 4, 5)}, {}),
]
CASES_OF_BFLOAT16 = [
    depthwise_conv(7, 8, 5, 2),
    norm(relu=True, ceiling=1.0),
    conv(6, 7, 3, 4, 1, stride=2),
    conv(5, 9, 64, 4, 3, dilation=2),
    conv(13, 10, 19, 8, 4, stride=2, way=ROWS),
    conv_norm(5, 7, 3, 12),
    conv_norm(6, 7, 8, 5, 3, relu=True),
    norm(relu=True),
    atrous_sum(13, 20),
]


def draw(case):
    generator = np.random.default_rng(0)
    arrays = {}
    for name, shape in case.shapes.items():
        values = generator.normal(size=shape).astype(np.float32)
        if name.startswith("kernel"):
            values /= np.sqrt(np.prod(shape[:-1]))
        arrays[name] = np.exp(0.3 * values) if name in ("scale", "variance") else values
    return arrays


def value_and_gradients(case, form, dtype, arrays, options):
    """Returns the value and a gradient for each array, on the host."""
    wide = dtype == "float64"

    def function(arrays):
        x, *others = (arrays[name] for name in case.shapes)
        x = x.astype(dtype)
        if case.operation == "atrous_sum":
            return ops.atrous_sum(x, others, (6, 12, 18, 24))
        found = getattr(ops, case.operation)(x, *others, **case.settings)
        return found[0] if isinstance(found, tuple) else found

    def both(arrays):
        value, transpose = jax.vjp(function, arrays)
        weights = jnp.cos(jnp.arange(value.size)).reshape(value.shape)
        return {"value": value} | transpose(weights.astype(value.dtype))[0]

    with jax.enable_x64(wide), ops.form(form):
        given = {name: array.astype(np.float64) for name, array in arrays.items()} if wide else arrays
        found = jax.jit(both, compiler_options=options)(given)
    return {name: np.asarray(array, np.float64) for name, array in found.items()}


def compare(case, dtype, tolerance, monkeypatch, difference):
    if case.way:
        module, way = case.way
        monkeypatch.setattr(module, "choose", lambda *_: way)
    arrays = draw(case)
    truth = value_and_gradients(case, "reference", "float64", arrays, options_of_one_use())
    found = value_and_gradients(case, "fast", dtype, arrays, options_of_steps())
    assert found.keys() == truth.keys()
    for name, expected in truth.items():
        assert found[name].shape == expected.shape
        assert difference(found[name] - expected) <= tolerance * max(difference(expected), 1e-3), name


@pytest.mark.parametrize("case", CASES, ids=str)
def test_float32(case, monkeypatch):
    compare(case, "float32", 2e-5, monkeypatch, lambda array: np.abs(array).max())


@pytest.mark.parametrize("case", CASES_OF_BFLOAT16, ids=str)
def test_bfloat16(case, monkeypatch):
    compare(case, "bfloat16", 0.02, monkeypatch, lambda array: np.sqrt(np.mean(np.square(array))))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("way", ["sum", "product"])
def test_sums_over_cells(dtype, way, monkeypatch):
    monkeypatch.setattr(products, "choose_sum", lambda *_: way)
    x = jnp.array(np.random.default_rng(0).integers(-16, 17, (3, 41, 27, 5)), dtype)
    found = jax.jit(lambda x: products.cell_sums(x))(x)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, np.asarray(x, np.float64).sum((0, 1, 2)))


# Images, rows, columns, channels, features: a sum in several parts, in one since nothing divides it, of many entries.
@pytest.mark.parametrize("shape", [(1, 91, 7, 5, 3), (3, 1, 1021, 3, 5), (2, 2, 3, 512, 512)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("way", products._WAYS)
def test_sums_of_products(shape, dtype, way, monkeypatch):
    monkeypatch.setattr(products, "choose", lambda *_: way)
    generator = np.random.default_rng(0)
    # Small whole numbers: float32 sums of their products are exact in every order, those in bfloat16 are not.
    left, right = (jnp.array(generator.integers(-16, 17, (*shape[:3], width)), dtype) for width in shape[3:])
    expected = np.tensordot(*(np.asarray(side, np.float64) for side in (left, right)), axes=[(0, 1, 2)] * 2)
    found = jax.jit(lambda left, right: products.transposed_product(left, right))(left, right)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("kernel", "shape"), [(7, (2, 64, 96, 64)), (3, (2, 96, 128, 16)), (3, (1, 1, 5, 2))])
def test_stems_at_sizes_that_once_were_wrong_under_jit(kernel, shape):
    """A backward pass that compares floats which the compiler rounds in another way loses whole gradients."""
    *sides, features = shape
    case = conv_norm(*sides[1:], 3, features, kernel, stride=2, relu=True)
    arrays = draw(case) | {"x": np.random.default_rng(1).normal(size=(*sides, 3)).astype(np.float32)}

    def gradient(form, dtype):
        def loss(kernel, arrays):
            y, *_ = ops.conv2d_batch_norm(arrays["x"], kernel, arrays["scale"], arrays["bias"], **case.settings)
            y = ops.max_pool(y, 3, (1, 2))
            return jnp.sum(y * jnp.cos(jnp.arange(y.size)).reshape(y.shape))

        with jax.enable_x64(dtype == np.float64), ops.form(form):
            given = {name: array.astype(dtype) for name, array in arrays.items()}
            return np.asarray(jax.jit(jax.grad(loss))(given["kernel"], given))

    expected = gradient("reference", np.float64)
    np.testing.assert_allclose(gradient("fast", np.float32), expected, atol=1e-4 * np.abs(expected).max())


def test_one_exported_program_serves_several_platforms_and_any_number_of_images():
    kernel = draw(conv(1, 1, 128, 128, 3))["kernel"]
    images = jax.ShapeDtypeStruct(export.symbolic_shape("images, 24, 24, 128"), jnp.float32)
    program = export.export(jax.jit(lambda x: ops.conv2d(x, kernel)), platforms=("cpu", "cuda", "tpu"))(images)
    assert "stablehlo.convolution" in program.mlir_module()  # On a CPU there is none, see the table of choices.
    x = np.random.default_rng(0).normal(size=(2, 24, 24, 128)).astype(np.float32)
    with ops.form("reference"):
        np.testing.assert_allclose(program.call(x), ops.conv2d(x, kernel), atol=4e-5)
