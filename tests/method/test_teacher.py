"""The teacher: its average, its pseudo-labels, and the images mixed with them, against loops over images."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ass_jax.method.mixing import REGIONS
from ass_jax.method.teacher import follow, mixed_examples, pseudo_labels
from ass_jax.ops import resize_bilinear
from configs.base import get_config

CLASSES = 4
IGNORED = 255
SIZE = (8, 12)


def variables(value):
    return {"params": {"kernel": jnp.full((2,), value)}, "batch_stats": {"mean": jnp.full((3,), 10 * value)}}


@pytest.mark.parametrize(
    ("step", "decay", "kept"),
    [
        (0, 0.999, 0),
        (1, 0.999, 1 / 2),
        (2, 0.999, 2 / 3),
        (9, 0.999, 0.9),
        (9, 0.9, 0.9),
        (99, 0.9, 0.9),
        (1, 0.2, 0.2),
    ],
)
def test_average_by_hand(step, decay, kept):
    """Weights and running statistics follow alike; the decay rises as 0, 1/2, 2/3 and so on."""
    found = jax.jit(follow)(variables(4.0), variables(1.0), jnp.int32(step), decay)
    expected = kept * 4 + (1 - kept) * 1
    np.testing.assert_allclose(found["params"]["kernel"], [expected] * 2, rtol=1e-6)
    np.testing.assert_allclose(found["batch_stats"]["mean"], [10 * expected] * 3, rtol=1e-6)


def test_average_of_the_first_steps_is_their_plain_mean():
    average = variables(100.0)
    for step, value in enumerate((1.0, 2.0, 6.0)):
        average = follow(average, variables(value), jnp.int32(step), 0.999)
    np.testing.assert_allclose(average["params"]["kernel"], [3, 3], rtol=1e-6)


def test_late_step_moves_by_one_minus_the_decay():
    found = follow(variables(0.0), variables(1.0), jnp.int32(100_000), 0.999)
    np.testing.assert_allclose(found["params"]["kernel"], [0.001] * 2, rtol=1e-4)


def test_pseudo_labels_against_numpy():
    logits = np.random.default_rng(0).normal(scale=3, size=(2, 3, 4, CLASSES)).astype(np.float32)
    labels, confident = jax.jit(pseudo_labels, static_argnums=(1, 2))(logits, SIZE, 0.7)
    assert labels.shape == confident.shape == (2, *SIZE)
    assert (labels.dtype, confident.dtype) == (jnp.int32, jnp.bool_)
    seen = set()
    for image, row, column in np.ndindex(2, *SIZE):
        down, right = row * (3 - 1) / (SIZE[0] - 1), column * (4 - 1) / (SIZE[1] - 1)
        top, left = min(int(down), 1), min(int(right), 2)
        down, right = down - top, right - left
        corners = np.float64(logits[image, top : top + 2, left : left + 2])
        mixed = np.tensordot(np.outer([1 - down, down], [1 - right, right]), corners, axes=([0, 1], [0, 1]))
        probabilities = np.exp(mixed) / np.exp(mixed).sum()
        first, second = np.sort(mixed)[::-1][:2]
        if first - second > 1e-4:  # Elsewhere rounding may decide.
            assert labels[image, row, column] == np.argmax(mixed)
        if abs(probabilities.max() - 0.7) > 1e-5:
            assert confident[image, row, column] == (probabilities.max() > 0.7)
            seen.add(bool(confident[image, row, column]))
    assert seen == {False, True}


def test_threshold_is_inclusive():
    logits = np.zeros((1, 1, 1, 4), np.float32)  # All four at exactly a quarter.
    for threshold, expected in ((0.0, True), (0.25, True), (0.26, False)):
        assert pseudo_labels(logits, (2, 2), threshold)[1].all() == expected


def test_pseudo_labels_pass_no_gradient():
    def total(logits):
        labels, confident = pseudo_labels(logits, SIZE, 0.5)
        return jnp.sum(jnp.where(confident, labels, 0.5))

    gradient = jax.grad(total)(np.random.default_rng(0).normal(size=(1, 3, 4, CLASSES)).astype(np.float32))
    assert (np.asarray(gradient) == 0).all()


@functools.cache
def mixer(**settings):
    """Returns `mixed_examples`, compiled; optimising so small a program would take longer than running it."""
    config = get_config("ass_plus")
    config.teacher.update({"jitter": 0.0, "blur": False} | settings)
    step = functools.partial(mixed_examples, config=config, num_classes=CLASSES)
    return jax.jit(step, compiler_options={"xla_backend_optimization_level": 0})


def make_batch(unlabelled=4, sizes=None, **counts):
    """Returns a batch whose images tell where they come from: red is the image's number, green its class."""
    sizes = {"source": SIZE, "labelled": SIZE} | (sizes or {})
    random = np.random.default_rng(0)
    batch = {"unlabelled": {"image": random.integers(0, 100, (unlabelled, *SIZE, 3)).astype(np.uint8)}}
    for first, stream in ((100, "source"), (200, "labelled")):
        count = counts.get(stream, 3)
        if not count:
            continue
        labels = random.choice([0, 1, 2, 3, IGNORED], (count, *sizes[stream])).astype(np.uint8)
        images = np.full((*labels.shape, 3), first, np.uint8)
        images[..., 0] += np.arange(count, dtype=np.uint8)[:, None, None]
        images[..., 1] = labels
        batch[stream] = {"image": images, "label": labels}
    return batch


def make_labels(count=4):
    """Returns the teacher's labels and a mask of confident pixels, whose share differs from image to image."""
    random = np.random.default_rng(1)
    shares = np.arange(1, count + 1)[:, None, None] / (count + 1)
    return random.integers(0, CLASSES, (count, *SIZE)).astype(np.int32), random.uniform(size=(count, *SIZE)) < shares


def mix(batch, labels, confident, seed=0, **settings):
    return jax.device_get(mixer(**settings)(jax.random.key(seed), batch, labels, confident))


def donors(mixed, pasted):
    """Returns the red value of each image's donor; all pasted pixels of an image share it."""
    found = []
    for image, region in zip(mixed["image"], pasted, strict=True):
        (value,) = np.unique(np.rint(image[region][:, 0]))
        found.append(int(value))
    return found


@pytest.mark.parametrize("kind", REGIONS)
def test_mixed_examples_pixel_by_pixel(kind):
    batch, (labels, confident) = make_batch(), make_labels()
    mixed = mix(batch, labels, confident, mixing=kind)
    assert {name: (array.shape, str(array.dtype)) for name, array in mixed.items()} == {
        "image": ((4, *SIZE, 3), "float32"),
        "label": ((4, *SIZE), "int32"),
        "weight": ((4, *SIZE), "float32"),
    }
    pasted = mixed["image"][..., 2] > 99.5
    for number, donor in enumerate(donors(mixed, pasted)):
        stream, first = ("source", 100) if donor < 200 else ("labelled", 200)
        truth = batch[stream]["label"][donor - first]
        for place in np.ndindex(SIZE):
            spot = (number, *place)
            if pasted[spot]:
                assert truth[place] != IGNORED
                assert mixed["label"][spot] == truth[place]
                assert mixed["weight"][spot] == 1
                np.testing.assert_allclose(mixed["image"][spot], (donor, truth[place], first), atol=1e-3)
            else:
                assert mixed["label"][spot] == labels[spot]
                assert mixed["weight"][spot] == pytest.approx(confident[number].mean(), rel=1e-6)
                np.testing.assert_allclose(mixed["image"][spot], batch["unlabelled"]["image"][spot], atol=1e-3)
        if kind == "class":
            assert {int(value) for value in truth[pasted[number]]}.isdisjoint(truth[~pasted[number]])
    assert len(np.unique(mixed["weight"])) == 5


def test_source_and_labelled_donors_alternate_and_either_is_first():
    labels, confident = make_labels()
    orders = set()
    for seed in range(12):
        mixed = mix(make_batch(), labels, confident, seed)
        found = donors(mixed, mixed["image"][..., 2] > 99.5)
        orders.add(tuple("source" if donor < 200 else "labelled" for donor in found))
        # No donor is used twice if there are enough.
        assert len(set(found)) == 4
    assert orders == {("source", "labelled") * 2, ("labelled", "source") * 2}


@pytest.mark.parametrize("stream", ["source", "labelled"])
def test_single_labelled_stream_donates_to_all(stream):
    labels, confident = make_labels()
    batch = make_batch(**{name: 0 for name in ("source", "labelled") if name != stream})
    mixed = mix(batch, labels, confident)
    found = donors(mixed, mixed["image"][..., 2] > 99.5)
    first = {"source": 100, "labelled": 200}[stream]
    # Four receivers, three donors: all are used, one of them twice.
    assert set(found) == {first, first + 1, first + 2}


def test_donors_of_another_size_are_resized():
    """Images bilinearly, labels to the nearest pixel: no class appears that the donor lacks."""
    size = (15, 34)
    batch, (labels, confident) = make_batch(labelled=0, sizes={"source": size}), make_labels()
    batch["source"]["image"] = np.random.default_rng(2).integers(100, 256, (3, *size, 3)).astype(np.uint8)
    batch["source"]["label"][:] = np.random.default_rng(3).choice([1, 3, IGNORED], (3, *size))
    images = np.asarray(resize_bilinear(jnp.asarray(batch["source"]["image"]), SIZE))
    mixed = mix(batch, labels, confident)
    pasted = (mixed["image"] > 99.5).all(-1)
    assert pasted.any((1, 2)).all()
    for number in range(4):
        there = pasted[number]
        errors = [np.abs(mixed["image"][number] - image)[there].max() for image in images]
        donor = int(np.argmin(errors))
        assert errors[donor] < 1e-2
        for row, column in np.argwhere(there):
            nearest = int(row * 14 / 7 + 0.5), int(column * 33 / 11 + 0.5)
            assert mixed["label"][number, row, column] == batch["source"]["label"][donor][nearest]
        assert len(np.unique(mixed["label"][number][there])) == 1  # One of the two classes.


def test_donors_without_a_label_paste_nothing():
    batch, (labels, confident) = make_batch(), make_labels()
    for stream in ("source", "labelled"):
        batch[stream]["label"][:] = IGNORED
    mixed = mix(batch, labels, confident)
    np.testing.assert_array_equal(mixed["label"], labels)
    shares = np.broadcast_to(confident.mean((1, 2), keepdims=True), confident.shape)
    np.testing.assert_allclose(mixed["weight"], shares, rtol=1e-6)
    np.testing.assert_allclose(mixed["image"], batch["unlabelled"]["image"], atol=1e-3)


def test_only_the_mixed_image_is_perturbed():
    batch, (labels, confident) = make_batch(), make_labels()
    plain, perturbed = (mix(batch, labels, confident, **settings) for settings in ({}, {"jitter": 0.5, "blur": True}))
    for name in ("label", "weight"):
        np.testing.assert_array_equal(perturbed[name], plain[name])
    assert np.abs(perturbed["image"] - plain["image"]).max() > 5
    assert perturbed["image"].min() >= 0
    assert perturbed["image"].max() <= 255


def test_each_key_gives_another_mixture():
    batch, (labels, confident) = make_batch(), make_labels()
    one, again, other = (mix(batch, labels, confident, seed) for seed in (5, 5, 6))
    for name, array in one.items():
        np.testing.assert_array_equal(array, again[name])
        assert (array != other[name]).any()
