"""DINOv2's Vision Transformer, against numbers of `benchmarks/parity/make_vit_golden.py` and worked out by hand."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from ass_jax.models import vit
from ass_jax.models.vit import STREAM, Block, Vit, cubic_matrix, level_blocks, padded_size, resize_positions
from ass_jax.runtime import compilation
from ass_jax.weights.pretrained import flatten
from benchmarks.parity import vit_inputs
from benchmarks.parity.inputs import relative_difference

GOLDEN = Path(__file__).parents[1] / "golden" / "vit.npz"
# What the networks of arXiv 2304.07193 are called, and millions of parameters.
REAL = {"S": (384, 12, 6, 22.06), "B": (768, 12, 12, 86.58), "L": (1024, 24, 16, 304.37)}


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.fixture(scope="module")
def params():
    return vit_inputs.params("registers")


@pytest.fixture(scope="module")
def shallow(params):
    return {name: params[name] for name in ("embedding", "block1", "block2", "output")}


@pytest.fixture
def images():
    return vit_inputs.images("odd")


def compiled(function):
    return jax.jit(function, compiler_options=compilation.options_of_one_use())


def apply(module, params, images, train=False, **settings):
    return compiled(functools.partial(module.apply, train=train, **settings))({"params": params}, images)


def features_and_gradients(module, params, images, cotangent, **settings):
    def total(params):
        features = module.apply({"params": params}, images, train=True, **settings)
        return jnp.sum(features * cotangent), features

    (_, features), gradients = compiled(jax.value_and_grad(total, has_aux=True))(params)
    return features, gradients


@pytest.mark.parametrize(("library", "kind", "size"), vit_inputs.COMPARED)
def test_features_of_other_programs(golden, monkeypatch, library, kind, size):
    monkeypatch.setattr(vit, "OFFSET", 0.0)  # As transformers; DINOv2's own is compared below.
    found = apply(vit_inputs.network(kind), vit_inputs.params(kind), vit_inputs.images(size))
    assert relative_difference(found, golden[f"{library}_{kind}_{size}_features"]) < 1e-5


@pytest.mark.parametrize(
    ("library", "kind"), [each[:2] for each in vit_inputs.COMPARED if each[2] == vit_inputs.GRADIENT_SIZE]
)
def test_gradients_of_other_programs(golden, monkeypatch, library, kind):
    monkeypatch.setattr(vit, "OFFSET", 0.0)
    module, params, size = vit_inputs.network(kind), vit_inputs.params(kind), vit_inputs.GRADIENT_SIZE
    inputs = vit_inputs.images(size), vit_inputs.cotangent(size)
    _, gradients = features_and_gradients(module, params, *inputs)
    key = f"{library}_{kind}_{size}"
    found = flatten({"params": {"backbone": gradients}})
    samples = [vit_inputs.gradient_sample(path, np.asarray(leaf)) for path, leaf in found]
    expected = np.split(golden[f"{key}_gradients"], np.cumsum([len(values) for values in samples])[:-1])
    largest = golden[f"{key}_largest"]
    # The bias of keys has no effect on the softmax: its gradient is rounding alone.
    scales = np.maximum(largest, 1e-3 * largest.max())
    for (path, _), values, theirs, scale in zip(found, samples, expected, scales, strict=True):
        assert np.abs(values - theirs).max() < 1e-4 * scale, path


@pytest.mark.parametrize("grid", vit_inputs.GRIDS)
@pytest.mark.parametrize("rule", vit_inputs.RULES)
def test_positions_are_resized_as_by_other_programs(golden, rule, grid):
    resize = functools.partial(resize_positions, size=vit_inputs.GRIDS[grid], **vit_inputs.RULES[rule])
    expected = golden[f"{rule}_{grid}"]
    assert relative_difference(jax.jit(resize)(vit_inputs.positions()), expected) < 1e-5
    others = (golden[f"{other}_{grid}"] for other in vit_inputs.RULES if other != rule)
    assert all(relative_difference(other, expected) > 1e-3 for other in others)  # They do differ.


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("size", [1, 9, 37, 50])
def test_resized_positions_keep_a_constant_and_the_same_grid(antialias, size):
    matrix = cubic_matrix(37, size, antialias=antialias, offset=0.0)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
    if size == 37:
        np.testing.assert_allclose(matrix, np.eye(37), atol=1e-6)
        grid = vit_inputs.positions()
        assert resize_positions(grid, (37, 37), antialias=antialias, offset=0.1) is grid


@pytest.mark.parametrize(("registers", "rule"), [(0, "dinov2"), (4, "antialias")])
def test_network_resizes_positions_as_dinov2(monkeypatch, registers, rule):
    found = []
    monkeypatch.setattr(vit, "resize_positions", lambda grid, size, **rule: found.append(rule) or jnp.zeros((*size, 6)))
    jax.eval_shape(lambda: Vit(6, 1, 1, registers).init(jax.random.key(0), jnp.zeros((1, 14, 28, 3)), False))
    assert found == [vit_inputs.RULES[rule]]


def test_levels_are_those_of_dinov2(golden, params):
    module, images = vit_inputs.network("registers"), vit_inputs.images("wide")
    levels = apply(module, params, images, method="levels")
    found = np.stack(levels)[..., :: vit_inputs.LEVEL_STEP]
    assert relative_difference(found, golden["levels"]) < 1e-5
    np.testing.assert_array_equal(levels[-1], apply(module, params, images))


@pytest.mark.parametrize(
    ("depth", "expected"),
    [(24, (5, 12, 18, 24)), (12, (3, 6, 9, 12)), (4, (1, 2, 3, 4)), (6, (2, 3, 5, 6)), (2, (1, 1, 2, 2))],
)
def test_levels_are_spread_over_the_blocks(depth, expected):
    assert level_blocks(depth) == expected


@pytest.mark.parametrize("size", REAL)
@pytest.mark.parametrize("registers", [0, 4])
def test_number_of_parameters_and_shapes(size, registers):
    width, depth, heads, millions = REAL[size]
    module, images = Vit(width, depth, heads, registers), jax.ShapeDtypeStruct((2, 29, 518, 3), jnp.float32)
    features, variables = jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), x, False), images)
    count = sum(leaf.size for leaf in jax.tree.leaves(variables)) - registers * width
    assert round(count / 1e6, 2) == millions
    assert features.shape == (2, 3, 37, width)
    assert variables["params"]["embedding"]["positions"].shape == (1, 1 + 37 * 37, width)


@pytest.mark.parametrize(("height", "width"), [(1, 28), (15, 40)])
def test_any_size_is_filled_up_with_zeros(params, height, width):
    module = vit_inputs.network("registers")
    images = np.random.default_rng(0).normal(size=(1, height, width, 3)).astype(np.float32)
    below, right = (after - before for after, before in zip(padded_size((height, width)), (height, width), strict=True))
    padded = np.pad(images, ((0, 0), (0, below), (0, right), (0, 0)))
    found = apply(module, params, images)
    assert found.shape == (1, -(-height // 14), -(-width // 14), 32)
    np.testing.assert_allclose(found, apply(module, params, padded), atol=1e-6)


def test_images_do_not_read_each_other(params, images):
    module = vit_inputs.network("registers")
    both, second = (apply(module, params, images[start:]) for start in (0, 1))
    np.testing.assert_allclose(both[1:], second, atol=1e-5)


def test_attention_and_mlp_by_hand():
    """One block in float64 in NumPy, written from the paper's equations."""
    generator = np.random.default_rng(0)
    tokens = generator.normal(size=(1, 5, 6)).astype(np.float32)
    shapes = jax.eval_shape(lambda: Block(2, 0.0, jnp.float32).init(jax.random.key(0), tokens))
    variables = jax.tree.map(lambda leaf: generator.normal(size=leaf.shape).astype(np.float32), shapes)
    params = jax.tree.map(np.float64, variables["params"])

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * params[name]["scale"] + params[name]["bias"]

    def linear(x, name):
        return x @ params[name]["kernel"] + params[name]["bias"]

    x = np.float64(tokens[0])
    y, heads = norm(x, "attention_input"), []
    for head in (slice(0, 3), slice(3, 6)):
        query, key, value = (linear(y, name)[:, head] for name in ("query", "key", "value"))
        heads.append(special.softmax(query @ key.T / np.sqrt(3), axis=-1) @ value)
    x = x + params["attention_scale"] * linear(np.concatenate(heads, axis=-1), "attention_output")
    y = linear(norm(x, "mlp_input"), "mlp_hidden")
    y = 0.5 * y * (1 + special.erf(y / np.sqrt(2)))
    expected = x + params["mlp_scale"] * linear(y, "mlp_output")
    found = compiled(Block(2, 0.0, jnp.float32).apply)(variables, tokens)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_rematerialised_blocks_change_no_number(shallow, images):
    cotangent, key = vit_inputs.cotangent("odd"), {STREAM: jax.random.key(3)}
    network = functools.partial(vit_inputs.network, "registers", depth=2, stochastic_depth=0.5)
    found = [
        features_and_gradients(network(remat=remat), shallow, images, cotangent, rngs=key) for remat in (False, True)
    ]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), *found)


def test_bfloat16_computes_close_to_float32(shallow, images):
    cotangent, network = vit_inputs.cotangent("odd"), functools.partial(vit_inputs.network, "registers", depth=1)
    shallow = {name: shallow[name] for name in ("embedding", "block1", "output")}
    features, gradients = features_and_gradients(network(dtype=jnp.bfloat16), shallow, images, cotangent)
    assert features.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(gradients)} == {jnp.dtype("float32")}
    expected, expected_gradients = features_and_gradients(network(), shallow, images, cotangent)
    assert distance(features, expected) < 0.01
    for (path, values), (_, exact) in zip(flatten(gradients), flatten(expected_gradients), strict=True):
        if "key/bias" not in path:  # Its gradient is rounding alone.
            assert distance(values, exact) < 0.1, path


def distance(found, expected):
    """Returns the root mean square of the difference over that of the expected values."""
    difference = np.asarray(found, np.float32) - expected
    return np.sqrt(np.mean(difference**2) / np.mean(np.square(expected)))


class TestStochasticDepth:
    def test_acts_in_training_alone(self, params, images):
        module = vit_inputs.network("registers", stochastic_depth=0.5)
        plain = apply(vit_inputs.network("registers"), params, images)
        np.testing.assert_array_equal(apply(module, params, images), plain)
        trained = apply(module, params, images, train=True, rngs={STREAM: jax.random.key(0)})
        assert relative_difference(trained, plain) > 0.01
        # Without a rate, training needs no random numbers.
        np.testing.assert_array_equal(apply(vit_inputs.network("registers"), params, images, train=True), plain)

    def test_leaves_out_branches_of_single_images(self):
        """With zero kernels, each branch adds its bias, twice as much where it is kept at a rate of one half."""
        tokens = np.zeros((400, 2, 4), np.float32)
        block = Block(1, 0.5, jnp.float32)
        keys = {"params": jax.random.key(0), STREAM: jax.random.key(1)}
        shapes = jax.eval_shape(lambda: block.init(keys, tokens))
        params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
        params["params"]["attention_output"]["bias"] += 1.0
        params["params"]["mlp_output"]["bias"] += 10.0
        for name in ("attention_scale", "mlp_scale"):
            params["params"][name] += 1.0
        found = np.asarray(compiled(block.apply)(params, tokens, rngs=keys))
        assert (found == found[:, :1, :1]).all()
        values, counts = np.unique(found[:, 0, 0], return_counts=True)
        assert values.tolist() == [0, 2, 20, 22]  # The two branches are left out independently.
        np.testing.assert_allclose(counts / 400, 0.25, atol=0.08)

    def test_mean_equals_the_whole_network(self, params):
        """Exactly so for one block whose branches are linear in what is left out: the attention alone."""
        tokens = np.random.default_rng(0).normal(size=(2000, 3, 32)).astype(np.float32)[:1].repeat(2000, axis=0)
        variables = {"params": params["block2"] | {"mlp_scale": np.zeros(32, np.float32)}}
        whole = Block(2, 0.0, jnp.float32).apply(variables, tokens[:1])[0]
        found = compiled(Block(2, 0.3, jnp.float32).apply)(variables, tokens, rngs={STREAM: jax.random.key(0)})
        spread = np.sqrt(0.3 / 0.7 / 2000) * np.abs(whole - tokens[0])
        assert (np.abs(np.mean(found, axis=0) - whole) < 4 * spread + 1e-4).all()

    def test_rate_grows_over_the_blocks(self, monkeypatch):
        rates = []

        class Recorded(Block):
            def __call__(self, tokens):
                rates.append(self.drop)
                return tokens

        monkeypatch.setattr(vit, "Block", Recorded)
        module, image = Vit(4, 5, 1, stochastic_depth=0.4, grid=1), jnp.zeros((1, 14, 14, 3))
        variables = jax.eval_shape(lambda: module.init(jax.random.key(0), image, False))
        assert rates == [0.0] * 5
        jax.eval_shape(lambda variables: module.apply(variables, image, True), variables)
        np.testing.assert_allclose(rates[5:], [0.0, 0.1, 0.2, 0.3, 0.4])
