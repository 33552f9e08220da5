"""The semantic-level terms against plain NumPy, in the float64 of the formulas, and inside whole steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ass_jax.method import semantic, train_step
from ass_jax.method.class_means import cell_labels, class_means, soft_class_means
from ass_jax.method.losses import IGNORED, SOURCE, TARGET, cell_domain_loss, prototype_loss
from ass_jax.models import Networks
from ass_jax.models.discriminators import SemanticDiscriminator
from ass_jax.runtime.sharding import global_batch, make_mesh, replicated
from configs.base import get_config
from tests.helpers import small_steps
from tests.helpers.small_steps import CLASSES, COUNTS, jit, largest_error, make_batch, make_first, make_step

CELLS, CHANNELS = (3, 5), 6
STREAMS = ("source", "labelled", "unlabelled")


def softmax(x):
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def soft_means(features, probabilities):
    mass = probabilities.sum((1, 2))
    return np.einsum("bhwc,bhwd->bcd", probabilities, features) / np.maximum(mass, 1e-6)[..., None], mass >= 1


def hard_means(features, labels):
    members = np.float64(labels[..., None] == np.arange(CLASSES))
    counts = members.sum((1, 2))
    return np.einsum("bhwc,bhwd->bcd", members, features) / np.maximum(counts, 1)[..., None], counts > 0


@pytest.fixture(scope="module")
def maps():
    random = np.random.default_rng(0)
    return {
        stream: {
            "features": random.normal(size=(2, *CELLS, CHANNELS)).astype(np.float32),
            "logits": (2 * random.normal(size=(2, *CELLS, CLASSES))).astype(np.float32),
        }
        for stream in STREAMS
    }


@pytest.fixture(scope="module")
def batch():
    """Labels of the size of the cells; the second labelled image shows class 2 alone, no image shows class 3."""
    random = np.random.default_rng(1)
    source = random.choice([0, 1, 2, IGNORED], (2, *CELLS)).astype(np.uint8)
    labelled = random.choice([0, 1, IGNORED], (2, *CELLS)).astype(np.uint8)
    labelled[1] = 2
    teacher = (2 * random.normal(size=(2, *CELLS, CLASSES))).astype(np.float32)
    return {"source": {"label": source}, "labelled": {"label": labelled}, "unlabelled": {"teacher_logits": teacher}}


def settings(**loss):
    config = get_config("ass")
    config.loss.update(loss)
    return config


def test_soft_class_means(maps):
    features, probabilities = maps["source"]["features"], softmax(np.float64(maps["source"]["logits"]))
    probabilities[0, ..., 1] = 0
    probabilities[1, ..., 1] = 0.9 / 15
    found, present = jax.jit(soft_class_means)(features, probabilities.astype(np.float32))
    expected, there = soft_means(np.float64(features), probabilities)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_array_equal(present, there)
    assert present[:, 1].tolist() == [False, False]
    assert not np.any(found[0, 1])


def test_soft_class_means_of_one_hot_are_class_means(maps, batch):
    labels = batch["source"]["label"]
    members = (labels[..., None] == np.arange(CLASSES)).astype(np.float32)
    found, present = soft_class_means(maps["source"]["features"], members)
    expected, there = class_means(maps["source"]["features"], labels, CLASSES)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_array_equal(present, there)


def test_labels_of_cells_are_the_nearest_with_aligned_corners():
    labels = np.arange(5 * 9).reshape(1, 5, 9)
    np.testing.assert_array_equal(cell_labels(labels, 3, 5), labels[:, ::2, ::2])


def test_loss_of_cells(batch):
    outputs = np.random.default_rng(2).normal(size=(2, *CELLS, 2 * CLASSES)).astype(np.float32)
    labels = batch["source"]["label"]
    shares = np.float32(labels[..., None] == np.arange(CLASSES))
    shares[0, 0, 0] = [0.5, 0.25, 0.25, 0]
    probabilities = softmax(np.float64(outputs))
    counted = shares.sum(-1) > 0
    for domain in (SOURCE, TARGET):
        half = probabilities[..., domain * CLASSES :][..., :CLASSES]
        expected = -(shares * np.log(half)).sum(-1)[counted].mean()
        right = (half.sum(-1) > 0.5)[counted].mean()
        loss, accuracy = jax.jit(cell_domain_loss, static_argnums=1)(outputs, domain, shares)
        assert loss == pytest.approx(expected, rel=1e-5)
        assert accuracy == pytest.approx(right)
    assert [float(x) for x in cell_domain_loss(outputs, SOURCE, np.zeros_like(shares))] == [0, 0]


def test_loss_of_prototypes(maps, batch):
    cells, labels = maps["source"]["features"].copy(), batch["source"]["label"]
    random = np.random.default_rng(3)
    vectors, seen = random.normal(size=(CLASSES, CHANNELS)).astype(np.float32), np.float32([1, 1, 0, 1])
    unit = [np.float64(x) / np.linalg.norm(np.float64(x), axis=-1, keepdims=True) for x in (cells, vectors)]
    similarities = (unit[0] @ unit[1].T / 0.1)[..., seen > 0]  # Of the classes 0, 1 and 3.
    own = np.where(labels == 0, similarities[..., 0], similarities[..., 1])
    each = np.log(np.exp(similarities).sum(-1)) - own
    expected = each[labels < 2].mean()
    value, gradient = jax.jit(jax.value_and_grad(prototype_loss))(cells, labels, vectors, seen)
    assert value == pytest.approx(expected, rel=1e-5)
    assert np.all(gradient[labels >= 2] == 0)
    for nothing in ((labels, 0 * seen), (np.full_like(labels, IGNORED), seen)):
        value, gradient = jax.value_and_grad(prototype_loss)(cells, nothing[0], vectors, nothing[1])
        assert value == 0
        assert np.all(gradient == 0)
    cells[0, 0, 0] = 0  # A dead cell.
    gradient = jax.grad(prototype_loss)(cells, np.zeros_like(labels), vectors, seen)
    assert np.all(np.isfinite(gradient))
    assert np.all(gradient[0, 0, 0] == 0)


def test_prototypes_follow_the_means_of_present_classes():
    prototypes = {"vectors": jnp.array([[1.0, 2], [3, 4], [0, 0]]), "seen": jnp.array([1.0, 1, 0])}
    found = {"sums": jnp.array([[6.0, 8], [0, 0], [5, 7]]), "images": jnp.array([2.0, 0, 1])}
    after = semantic.updated_prototypes(prototypes, found)
    np.testing.assert_allclose(after["vectors"], [[1.02, 2.02], [3, 4], [5, 7]], rtol=1e-6)
    np.testing.assert_array_equal(after["seen"], [1, 1, 1])


def test_a_projection_tells_the_discriminator_the_class():
    module = SemanticDiscriminator(8, 1, classes=CLASSES)
    vectors = np.random.default_rng(4).normal(size=(2, CLASSES, CHANNELS)).astype(np.float32)
    params = module.init(jax.random.key(0), vectors)["params"]
    params["embedding"] = np.random.default_rng(5).normal(size=(CLASSES, 8)).astype(np.float32)
    x = np.float64(vectors)
    for name in ("hidden1", "hidden2"):
        x = x @ params[name]["kernel"] + params[name]["bias"]
        x = np.where(x > 0, x, 0.2 * x)
    expected = x @ params["logits"]["kernel"] + params["logits"]["bias"] + (x * params["embedding"]).sum(-1)[..., None]
    np.testing.assert_allclose(module.apply({"params": params}, vectors), expected, rtol=1e-4, atol=1e-5)


class Linear:
    """Stands for a discriminator: one product."""

    @staticmethod
    def apply(variables, vectors):
        return vectors @ variables["params"]


def cost(logits, domain):
    return np.logaddexp(0, logits) - domain * logits


@pytest.mark.parametrize("pixels", ["labelled", "right", "agreed"])
@pytest.mark.parametrize("unlabelled", ["none", "student", "teacher"])
@pytest.mark.parametrize("confusion", ["target", "both"])
def test_class_mean_terms(maps, batch, pixels, unlabelled, confusion):
    config = settings(
        semantic_pixels=pixels, semantic_unlabelled=unlabelled, semantic_confusion=confusion, semantic_outputs="binary"
    )
    networks = Networks(None, None, Linear)
    weights = np.random.default_rng(6).normal(size=(CHANNELS, 1)).astype(np.float32)
    found = jax.jit(lambda params, maps: semantic.semantic_terms(params, None, maps, batch, networks, config))(
        weights, maps
    )
    fool = learn = 0
    for stream, domain in (("source", 0), ("labelled", 1), ("unlabelled", 1)):
        features, logits = (np.float64(maps[stream][name]) for name in ("features", "logits"))
        if stream == "unlabelled":
            if unlabelled == "none":
                continue
            of = logits if unlabelled == "student" else np.float64(batch[stream]["teacher_logits"])
            vectors, present = soft_means(features, softmax(of))
        else:
            labels = batch[stream]["label"]
            if stream == "source" and pixels != "labelled":
                labels = np.where(logits.argmax(-1) == labels, labels, IGNORED)
            vectors, present = hard_means(features, labels)
            if pixels == "agreed":
                present &= hard_means(logits, labels)[0].argmax(-1) == np.arange(CLASSES)
        judged = (vectors @ weights)[..., 0]
        share = 1 if domain == 0 or unlabelled == "none" else 0.5
        learn += 0.5 * share * cost(judged, domain)[present].mean()
        if domain == 1 or confusion == "both":
            fool += (0.5 if confusion == "both" else 1) * share * cost(judged, 1 - domain)[present].mean()
    assert found[0] == pytest.approx(fool, rel=1e-5)
    assert found[1] == pytest.approx(learn, rel=1e-5)
    assert found[3] == {}


@pytest.mark.parametrize("unlabelled", ["none", "student"])
def test_cell_terms(maps, batch, unlabelled):
    config = settings(semantic_kind="cells", semantic_outputs="class_domain", semantic_unlabelled=unlabelled)
    weights = np.random.default_rng(7).normal(size=(CHANNELS, 2 * CLASSES)).astype(np.float32)
    networks = Networks(None, None, Linear)
    fool, learn, metrics, _ = semantic.semantic_terms(weights, None, maps, batch, networks, config)
    losses = {}
    for stream in STREAMS:
        shares = softmax(np.float64(maps[stream]["logits"]))
        if stream != "unlabelled":
            shares = np.float64(batch[stream]["label"][..., None] == np.arange(CLASSES))
        logs = np.log(softmax(np.float64(maps[stream]["features"]) @ weights))
        counted = shares.sum(-1) > 0
        halves = (logs[..., :CLASSES], logs[..., CLASSES:])
        losses[stream] = [-(shares * half).sum(-1)[counted].mean() for half in halves]
    if unlabelled == "none":
        assert fool == pytest.approx(losses["labelled"][0], rel=1e-5)
        assert learn == pytest.approx((losses["source"][0] + losses["labelled"][1]) / 2, rel=1e-5)
    else:
        assert fool == pytest.approx((losses["labelled"][0] + losses["unlabelled"][0]) / 2, rel=1e-5)
        targets = (losses["labelled"][1] + losses["unlabelled"][1]) / 2
        assert learn == pytest.approx((losses["source"][0] + targets) / 2, rel=1e-5)
    assert metrics["loss/semantic"] == fool


def test_prototype_terms_count_confident_cells(maps, batch):
    config = settings(semantic_kind="prototypes", semantic_unlabelled="student")
    config.teacher.threshold = 0.6
    random = np.random.default_rng(8)
    prototypes = {"vectors": random.normal(size=(CLASSES, CHANNELS)).astype(np.float32), "seen": np.ones(CLASSES)}
    fool, learn, _, found = semantic.semantic_terms(None, prototypes, maps, batch, None, config)
    assert learn == 0
    probabilities = softmax(np.float64(maps["unlabelled"]["logits"]))
    confident = probabilities.max(-1) >= 0.6
    assert 0 < confident.mean() < 1
    labels = np.where(confident, probabilities.argmax(-1), IGNORED)
    arguments = (prototypes["vectors"], prototypes["seen"])
    of_labelled = prototype_loss(maps["labelled"]["features"], batch["labelled"]["label"], *arguments)
    of_unlabelled = prototype_loss(maps["unlabelled"]["features"], labels, *arguments)
    assert fool == pytest.approx(float(of_labelled + of_unlabelled) / 2, rel=1e-5)
    vectors, present = hard_means(np.float64(maps["source"]["features"]), batch["source"]["label"])
    np.testing.assert_allclose(found["sums"], (vectors * present[..., None]).sum(0), atol=1e-5)
    np.testing.assert_array_equal(found["images"], present.sum(0))


STEPS = {
    "prototypes": {"semantic_kind": "prototypes", "semantic_unlabelled": "student"},
    "cells": {"semantic_kind": "cells", "semantic_unlabelled": "student"},
    "means": {"semantic_unlabelled": "student", "semantic_pixels": "right", "semantic_confusion": "both"},
}


@pytest.mark.parametrize("name", STEPS)
def test_whole_steps_on_four_devices_equal_one(name, monkeypatch):
    """Two steps, of which the second reads what the first has left; images without labels and absent classes occur."""
    config = small_steps.make_config()
    config.loss.update(STEPS[name])
    config.teacher.threshold = 0.3
    if name == "prototypes":
        made = small_steps.make_networks
        monkeypatch.setattr(
            small_steps, "make_networks", lambda config: Networks(*list(vars(made(config)).values())[:2], None)
        )
    first, step, mesh = make_first(config), make_step(config), make_mesh(COUNTS.values())
    one, several = first, jax.device_put(first, replicated(mesh))
    on_one, on_four = jit(step), jit(step, out_shardings=replicated(mesh))
    for seed in range(2):
        one, metrics = on_one(one, make_batch(seed=seed))
        several, found = on_four(several, global_batch(make_batch(seed=seed), mesh))
    assert metrics["skipped"] == 0
    assert largest_error(several, one) < 1e-5
    for key, value in metrics.items():
        np.testing.assert_allclose(found[key], value, rtol=2e-5, err_msg=key)
    assert metrics["loss/semantic"] > 0
    assert largest_error(one.params["segmenter"], first.params["segmenter"]) > 1e-3
    if name == "prototypes":
        assert "semantic_discriminator" not in one.params
        assert one.prototypes["seen"].tolist() == [1] * CLASSES
    else:
        assert one.prototypes is None


@pytest.mark.parametrize("unlabelled", ["student", "teacher"])
def test_logits_of_the_teacher_lie_beside_unlabelled_images_where_they_are_read(unlabelled):
    config = small_steps.make_config("ass_plus")
    config.loss.semantic_unlabelled = unlabelled
    networks, first, examples = small_steps.make_networks(config), make_first(config), make_batch()
    streams, _ = jax.eval_shape(lambda batch: train_step.add_mixed(first, batch, networks, config), examples)
    shapes = {name: leaf.shape for name, leaf in streams["unlabelled"].items()}
    size = small_steps.SIZES["unlabelled"]
    expected = {"image": (COUNTS["unlabelled"], *size, 3), "pseudo_label": (COUNTS["unlabelled"], *size)}
    if unlabelled == "teacher":
        expected["teacher_logits"] = (COUNTS["unlabelled"], size[0] // 8, size[1] // 8, CLASSES)
    assert shapes == expected
