"""The count of the work in a step."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from ass_jax import ops
from ass_jax.models import build_networks
from benchmarks.speed import work
from configs import gta5


@pytest.fixture(scope="module")
def paper():
    config = gta5.get_config()
    return config, build_networks(config, 19)


def test_networks_at_the_paper_sizes(paper):
    config, networks = paper
    assert work.paper_table(config, networks) == pytest.approx(
        {
            "segmenter source": 653,
            "segmenter target": 374,
            "global discriminator source": 27.1,
            "global discriminator target": 15.4,
        },
        rel=0.01,
    )


def test_step_at_the_paper_sizes(paper):
    _, networks = paper
    sizes = {"source": (720, 1280), "labelled": (512, 1024), "unlabelled": (512, 1024)}
    batch = {stream: {"image": jnp.zeros((1, *size, 1))} for stream, size in sizes.items()}
    # 3 × 2 × (653 + 2 × 374) of the segmenter; 2 × (3 × 27 + 4 × 15) of the discriminator.
    assert work.training_flop(networks, batch) == pytest.approx(8.69e12, rel=0.01)
    # ASS+ adds a forward pass of the teacher and a whole pass of the mixed image: 2 × 4 × 374.
    assert work.training_flop(networks, batch, mixed=True) == pytest.approx(11.68e12, rel=0.01)
    # Without discriminators, the unlabelled image passes only through the teacher, and as part of the mixed image.
    alone = dataclasses.replace(networks, global_discriminator=None, semantic_discriminator=None)
    assert work.training_flop(alone, batch, mixed=True) == pytest.approx(9.15e12, rel=0.01)


@pytest.mark.parametrize(
    ("kernel", "stride", "expected"),
    [((3, 3, 4, 5), 1, 2 * 6 * 8 * 9 * 4 * 5), ((1, 1, 4, 5), 2, 2 * 3 * 4 * 4 * 5), ((3, 3, 4, 5), 2, 2 * 12 * 180)],
)
def test_convolutions_by_hand(kernel, stride, expected):
    x, kernel = jax.ShapeDtypeStruct((2, 6, 8, 4), jnp.float32), jax.ShapeDtypeStruct(kernel, jnp.float32)
    assert work.forward_macs(lambda x, kernel: ops.conv2d(x, kernel, stride=stride), x, kernel) == expected


def test_products_by_hand():
    left, right = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((7, 2, 3), (7, 3, 5)))
    assert work.forward_macs(jnp.matmul, left, right) == 7 * 2 * 3 * 5
