"""A part of the numerics fuzz; the fuzz finds planted faults; its cases are reproducible."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ass_jax import ops
from benchmarks.parity import fuzz, fuzz_cases, fuzz_programs
from benchmarks.parity.fuzz_cases import Case, Layer

SEED = 5


@pytest.mark.parametrize("kind", [kind for kind in fuzz_cases.KINDS if kind != "resnet50"])
def test_random_cases(kind):
    for program in range(1 if kind in fuzz_cases.NETWORKS else 2):  # Networks take seconds to compile.
        facts = fuzz.run_case(kind, SEED, program * fuzz_cases.DRAWS[kind] + 1)  # The first also runs without jit.
        assert not facts["failed"], facts["failed"]


# Batch, height, width and channels at which a max pool that compares floats is wrong under jit.
STEMS = [(7, (2, 64, 96, 64)), (3, (2, 96, 128, 16)), (3, (1, 1, 5, 2))]


def stem(kernel, shape, options):
    *sides, features = shape
    conv = Layer("conv2d", (("features", features), ("kernel", kernel), ("stride", 2), ("dilation", 1)))
    layers = (conv, Layer("batch_norm", (("relu", True),)), Layer("max_pool", (("side", 3),)))
    return Case("stem", (*sides, 3), layers, "normal", "float32", False, options, 0)


@pytest.mark.parametrize("options", fuzz_cases.OPTIONS)
@pytest.mark.parametrize(("kernel", "shape"), STEMS)
def test_stems_that_are_sensitive_to_rounding(kernel, shape, options):
    verdict = fuzz_programs.judge(stem(kernel, shape, options))
    assert verdict.passed, (verdict.worst, verdict.errors)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def pool_that_compares(x, side, padding):
    """Faulty max pool: its backward pass rounds the entries before it compares them with the maximum."""
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, side, side, 1), (1, 2, 2, 1), ((0, 0), padding, padding, (0, 0)))


def _forward(x, side, padding):
    y = pool_that_compares(x, side, padding)
    return y, (x, y)


def _backward(side, padding, residuals, gradient):
    x, y = residuals
    found = jnp.zeros_like(jnp.pad(x, ((0, 0), padding, padding, (0, 0))))
    padded, taken = jnp.pad(x, ((0, 0), padding, padding, (0, 0)), constant_values=-jnp.inf), jnp.zeros(y.shape, bool)
    for row, column in np.ndindex(side, side):
        place = (slice(None), slice(row, row + 2 * y.shape[1] - 1, 2), slice(column, column + 2 * y.shape[2] - 1, 2))
        holds = (lax.reduce_precision(padded[place], exponent_bits=8, mantissa_bits=21) == y) & ~taken
        found, taken = found.at[place].add(jnp.where(holds, gradient, 0)), taken | holds
    return (found[:, padding[0] : padding[0] + x.shape[1], padding[0] : padding[0] + x.shape[2]],)


pool_that_compares.defvjp(_forward, _backward)


@pytest.fixture
def no_compiled_programs():
    """Clears compiled programs, which would not use a replaced operation."""
    fuzz_programs.forget()
    yield
    fuzz_programs.forget()


@pytest.mark.usefixtures("no_compiled_programs")
def test_finds_a_pool_that_compares_floats_and_reduces_the_case(monkeypatch):
    monkeypatch.setattr(ops, "max_pool", ops._either(pool_that_compares, ops._reference.max_pool))
    found = next(
        facts for facts in (fuzz.run_case("stem", SEED, number) for number in range(0, 40, 4)) if facts["failed"]
    )
    monkeypatch.setattr(fuzz, "_SHRINKING", 4.0)
    assert found["error"] > 1e-2
    assert "max_pool" in fuzz.shrink("stem", SEED, found["number"])


@pytest.mark.usefixtures("no_compiled_programs")
def test_a_wrong_operation_fails_in_both_types(monkeypatch):
    def half_of_it(x, y):
        return 0.5 * ops._relu.add_relu(x, y)

    monkeypatch.setattr(ops, "add_relu", ops._either(half_of_it, ops._reference.add_relu))
    for dtype in ("float32", "bfloat16"):
        case = Case("add_relu", (1, 3, 4, 2), (Layer("add_relu"),), "normal", dtype, False, "default", 0)
        assert not fuzz_programs.judge(case).passed


def test_cases_are_reproducible_and_fit():
    for kind in fuzz_cases.KINDS:
        numbers = range(0, 60 * fuzz_cases.DRAWS[kind], fuzz_cases.DRAWS[kind])
        cases = [fuzz_cases.draw(kind, 3, number) for number in numbers]
        assert cases == [fuzz_cases.draw(kind, 3, number) for number in numbers]
        assert len({case.shape for case in cases}) > 30
        assert {case.dtype for case in cases} == {"float32", "bfloat16"}
        assert {case.options for case in cases} == set(fuzz_cases.OPTIONS)


def test_simpler_cases_are_simpler():
    case = fuzz_cases.draw("conv2d", 0, 4)
    for other in fuzz_cases.simpler(case):
        assert other != case
        assert len(other.layers) <= len(case.layers)
        assert np.prod(other.shape) <= np.prod(case.shape)


def test_values_within_rounding_of_a_kink_are_no_failure():
    layers = (Layer("batch_norm", (("relu", True),)),)
    case = Case("batch_norm", (1, 1, 2, 1), layers, "normal", "float32", False, "default", 0)
    assert fuzz_programs.judge(case).passed  # Two cells: the gradient of the input cancels out.
    assert fuzz_programs.judge(dataclasses.replace(case, shape=(1, 1, 1, 1))).passed


def test_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fuzz, "FOLDER", tmp_path)
    arguments = ["--kinds=normalise", "--cases=2", "--seed=9", "--workers=1"]
    assert fuzz.main(arguments) == 0
    assert "| `normalise` | 2 |" in capsys.readouterr().out
    assert len((tmp_path / "9.jsonl").read_text().splitlines()) == 2
    assert fuzz.main(arguments) == 0  # From the file.
    with pytest.raises(SystemExit):
        fuzz.main(["--kinds=pool"])
    assert "unknown kind 'pool'; valid: conv2d, " in capsys.readouterr().err
