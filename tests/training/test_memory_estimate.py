"""The memory of a step: linear in the images; the largest batches keep the proportions; too much gives a warning."""

import functools

import jax
import jax.numpy as jnp
import pytest

from ass_jax.models import deeplab
from ass_jax.training import memory_estimate
from configs import base

SIZES = {"source": (2, 256, 256, True), "labelled": (1, 256, 256, True), "unlabelled": (1, 256, 256, False)}


@pytest.fixture
def config(monkeypatch):
    tiny = functools.partial(deeplab._resnet, stage_sizes=(1, 1, 1, 1), width=2, stem_width=4)
    monkeypatch.setitem(deeplab.BACKBONES, "resnet_tiny", tiny)
    config = base.get_config("ass,smoke")
    config.data.target_size = (32, 64)
    return config


def test_bytes_of_a_program(monkeypatch):
    batch = {"image": jax.ShapeDtypeStruct((1000, 1000), jnp.float32)}
    state = jax.ShapeDtypeStruct((1000, 1000), jnp.float32)
    step = jax.jit(lambda state, batch: state + jnp.sin(batch["image"]) @ batch["image"], donate_argnums=0)
    compiled = step.lower(state, batch).compile()
    # State, two batches and the product or its factor; the result takes the place of the state.
    assert 4 * 4e6 <= memory_estimate.program_bytes(compiled, batch) <= 6 * 4e6


def test_need_of_more_images_follows_from_one_program(config):
    def need_of(times):
        sizes = {stream: (times * count, *rest) for stream, (count, *rest) in SIZES.items()}
        return memory_estimate.calculate(memory_estimate.compile_step(config, 3, sizes), sizes)

    need = need_of(1)
    assert 0 < need.fixed < need.per_batch
    assert need_of(3).bytes == pytest.approx(need.fixed + 3 * need.per_batch, rel=0.02)


@pytest.fixture
def need(monkeypatch):
    need = memory_estimate.Need(fixed=1e9, per_batch=10e9)
    monkeypatch.setattr(memory_estimate, "calculate", lambda *_: need)
    return need


def test_lines(need, monkeypatch):
    monkeypatch.setattr(memory_estimate, "device_bytes", lambda: 12e9)
    found = memory_estimate.report_lines(None, SIZES)
    assert found == [
        "A training step of 2 source + 1 labelled + 1 unlabelled images needs about 11.0 GB.",
        "Largest batch at these sizes (source + labelled + unlabelled): 16 GB: 2 + 1 + 1; 24 GB: 4 + 2 + 2; "
        "80 GB: 14 + 7 + 7.",
        "Calculated from the program for this machine's cpu; other devices need other amounts.",
    ]


def test_batch_that_fits_only_in_part_is_told_in_its_proportions(need):
    sizes = {"source": (4, 64, 64, True), "labelled": (2, 64, 64, True)}
    assert memory_estimate._scaled(sizes, 0.6) == "2 + 1"
    assert memory_estimate._scaled(sizes, 0.4) == "none"
    assert memory_estimate._scaled(sizes, -1.0) == "none"


def test_too_much_says_what_to_do(need, monkeypatch):
    monkeypatch.setattr(memory_estimate, "device_bytes", lambda: 8e9)
    *_, last = memory_estimate.report_lines(None, SIZES)
    for part in ("needs about 11.0 GB", "has 8.0 GB", "data.batch", "augment.crop", "model.remat", "bfloat16"):
        assert part in last
    monkeypatch.setattr(memory_estimate, "device_bytes", lambda: None)
    assert memory_estimate.warning(1e15) is None


def test_a_processor_has_the_memory_of_the_machine():
    assert 1e8 < memory_estimate.device_bytes() < 1e14
