"""The picture of mixed images: its pixels are those of the step, and the state stays unchanged."""

import functools
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from ass_jax.method import train_step
from ass_jax.runtime.sharding import global_batch, make_mesh, replicated
from ass_jax.runtime.workdir import MIXED_PICTURE
from ass_jax.training.metric_writer import MetricWriter
from ass_jax.training.mixed_picture import draw, make_show
from ass_jax.visualization import colourise
from tests.helpers.small_runs import Writer
from tests.helpers.small_steps import COUNTS, SIZES, assert_trees_equal, jit, make_batch, make_networks
from tests.method.test_train_step_plus import first_state, plus_config

TABLE = SimpleNamespace(
    names=("road", "car", "sky", "pole"),
    palette=np.array([[128, 64, 128], [0, 0, 142], [70, 130, 180], [153, 153, 153]], np.uint8),
)
BLACK = [0, 0, 0]
HEADING, GAP = 20, 2


def panels(picture, count):
    """Returns the five columns of a picture of images of 48 x 64 pixels, `[count, 5, 48, 64, 3]`."""
    high, wide = 4 * 48, 4 * 64
    assert picture.shape[1] == 5 * wide + 4 * GAP
    tops = [HEADING + row * (high + GAP) for row in range(count)]
    lefts = [column * (wide + GAP) for column in range(5)]
    return np.array([[picture[y : y + high : 4, x : x + wide : 4] for x in lefts] for y in tops])


def show(config, mesh, writer, workdir):
    writer = MetricWriter(writer, workdir, 0)
    return make_show(make_networks(config), config, mesh, class_table=TABLE, writer=writer, workdir=workdir)


def test_pixels_of_all_columns():
    random, shape = np.random.default_rng(0), (2, 48, 64)
    unlabelled = {
        "image": random.integers(0, 256, (*shape, 3)).astype(np.uint8),
        "pseudo_label": random.choice([0, 1, 2, 3, 255], shape),
    }
    mixed = {
        "image": random.uniform(0, 255, (*shape, 3)).astype(np.float32),
        "label": random.choice([0, 1, 2, 3, 255], shape),
        "weight": random.choice([0, 0.25, 1], shape).astype(np.float32),
    }
    picture = draw(unlabelled, mixed, TABLE)
    assert picture.dtype == np.uint8
    assert len(picture) == HEADING + 2 * (4 * 48 + GAP) + HEADING  # The last line is the legend.
    image, confident, mixture, label, weight = panels(picture, 2).swapaxes(0, 1)
    np.testing.assert_array_equal(image, unlabelled["image"])
    np.testing.assert_array_equal(mixture, np.rint(mixed["image"]))
    for found, labels in ((confident, unlabelled["pseudo_label"]), (label, mixed["label"])):
        np.testing.assert_array_equal(found[labels == 255], np.broadcast_to(BLACK, ((labels == 255).sum(), 3)))
        for number, colour in enumerate(TABLE.palette):
            assert (found[labels == number] == colour).all()
    for share, grey in ((0, 0), (0.25, 64), (1, 255)):
        assert (weight[mixed["weight"] == share] == grey).all()
    assert (picture[:HEADING] < 128).any(axis=(0, 2)).sum() > 100  # Headings.


@functools.cache
def streams_of_the_step(variant):
    look = functools.partial(train_step.add_mixed, networks=make_networks(plus_config(variant)))
    return jax.device_get(jit(functools.partial(look, config=plus_config(variant)))(first_state(variant), make_batch()))


@pytest.mark.parametrize(("variant", "pictures"), [("ass_plus", 3), ("teacher", 20)])
def test_picture_on_four_devices_shows_what_the_step_mixes(variant, pictures, tmp_path):
    """The file and the writer get the same picture; the state and the batch stay unchanged and are not donated."""
    config = plus_config(variant, **{"evaluation.pictures": pictures})
    mesh, writer = make_mesh(COUNTS.values()), Writer()
    assert mesh.size == 4
    state = jax.device_put(first_state(variant), replicated(mesh))
    batch = global_batch(make_batch(), mesh)
    show(config, mesh, writer, tmp_path)(3, state, batch)
    assert_trees_equal(state, first_state(variant))
    assert_trees_equal(batch, make_batch())

    with Image.open(tmp_path / MIXED_PICTURE) as file:
        picture = np.asarray(file)
    np.testing.assert_array_equal(writer.images[3]["mixed"][0], picture)
    assert [path.name for path in tmp_path.iterdir()] == [MIXED_PICTURE]
    count = min(pictures, COUNTS["unlabelled"])
    streams, _ = streams_of_the_step(variant)
    image, confident, mixture, label, weight = panels(picture, count).swapaxes(0, 1)
    assert picture.shape[0] == HEADING + count * (4 * SIZES["unlabelled"][0] + GAP) + HEADING
    np.testing.assert_array_equal(image, make_batch()["unlabelled"]["image"][:count])
    mixed = {name: array[:count] for name, array in streams["mixed"].items()}
    pseudo_labels = streams["unlabelled"]["pseudo_label"][:count]
    assert {255} < set(np.unique(pseudo_labels).tolist())
    # Rounding differs between programs and numbers of devices.
    assert (confident == colourise(pseudo_labels, TABLE.palette)).mean() > 0.999
    assert np.abs(mixture - mixed["image"]).max() < 0.6
    assert (label == colourise(mixed["label"], TABLE.palette)).mean() > 0.999
    assert np.abs(weight - 255 * mixed["weight"][..., None]).max() < 0.6
