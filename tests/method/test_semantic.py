"""The semantic-level term against plain NumPy, in the float64 of the formulas, and inside whole steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ass_jax.method import semantic, train_step
from ass_jax.method.class_means import class_means, soft_class_means
from ass_jax.method.losses import IGNORED
from ass_jax.models import Networks
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


def test_soft_class_means_in_bfloat16_are_means(maps):
    """The rounded weights still sum up to 1: of equal features, the mean is that feature."""
    features = jnp.full((2, *CELLS, CHANNELS), 3.0, jnp.bfloat16)
    probabilities = softmax(maps["source"]["logits"])
    found, present = jax.jit(soft_class_means)(features, probabilities)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found[present], 3.0, rtol=1e-6)


class Linear:
    """Stands for a discriminator: one product."""

    @staticmethod
    def apply(variables, vectors):
        return vectors @ variables["params"]


def cost(logits, domain):
    return np.logaddexp(0, logits) - domain * logits


@pytest.mark.parametrize("read", ["features", "logits"])
@pytest.mark.parametrize("unlabelled", ["none", "student", "teacher"])
def test_terms(maps, batch, unlabelled, read):
    """The labelled streams by their labels; unlabelled images by probabilities, which pass no gradient."""
    config = settings(semantic_unlabelled=unlabelled != "none", semantic_input=read, semantic_outputs="binary")
    networks = Networks(None, None, Linear)
    weights = np.random.default_rng(6).normal(size=(maps["source"][read].shape[-1], 1)).astype(np.float32)
    examples = batch if unlabelled == "teacher" else {**batch, "unlabelled": {}}

    def terms(maps):
        fool, learn, metrics = semantic.semantic_terms(weights, maps, examples, networks, config)
        return fool, (learn, metrics)

    (fool, (learn, metrics)), gradients = jax.jit(jax.value_and_grad(terms, has_aux=True))(maps)
    expected_fool = expected_learn = 0
    for stream, domain in (("source", 0), ("labelled", 1), ("unlabelled", 1)):
        cells, logits = (np.float64(maps[stream][name]) for name in (read, "logits"))
        if stream != "unlabelled":
            vectors, present = hard_means(cells, batch[stream]["label"])
        elif unlabelled == "none":
            continue
        else:
            of = logits if unlabelled == "student" else np.float64(batch[stream]["teacher_logits"])
            vectors, present = soft_means(cells, softmax(of))
        judged = (vectors @ weights)[..., 0]
        share = 1 if domain == 0 or unlabelled == "none" else 0.5
        expected_learn += 0.5 * share * cost(judged, domain)[present].mean()
        if domain == 1:
            expected_fool += share * cost(judged, 0)[present].mean()
    assert fool == pytest.approx(expected_fool, rel=1e-5)
    assert learn == pytest.approx(expected_learn, rel=1e-5)
    assert metrics["loss/semantic"] == fool
    reached = {stream for stream in STREAMS if np.any(gradients[stream][read])}
    assert reached == ({"labelled"} if unlabelled == "none" else {"labelled", "unlabelled"})
    if read == "features":
        assert not any(np.any(gradients[stream]["logits"]) for stream in STREAMS)


@pytest.mark.parametrize("variant", ["ass", "ass_plus"])
def test_whole_steps_on_four_devices_equal_one(variant):
    """Two steps, of which the second reads what the first has left; images without labels and absent classes occur."""
    config = small_steps.make_config(variant)
    first, mesh = make_first(config), make_mesh(COUNTS.values())
    one, several = first, jax.device_put(first, replicated(mesh))
    on_one, on_four = jit(make_step(config)), jit(make_step(config, mesh), out_shardings=replicated(mesh))
    for seed in range(2):
        one, metrics = on_one(one, make_batch(seed=seed))
        several, found = on_four(several, global_batch(make_batch(seed=seed), mesh))
    assert metrics["skipped"] == 0
    assert largest_error(several, one) < 1e-5
    for key, value in metrics.items():
        np.testing.assert_allclose(found[key], value, rtol=2e-5, err_msg=key)
    assert metrics["loss/semantic"] > 0
    assert largest_error(one.params["segmenter"], first.params["segmenter"]) > 1e-3


@pytest.mark.parametrize("unlabelled", [True, False])
def test_logits_of_the_teacher_lie_beside_unlabelled_images_where_they_are_read(unlabelled):
    config = small_steps.make_config("ass_plus")
    config.loss.semantic_unlabelled = unlabelled
    networks, first, examples = small_steps.make_networks(config), make_first(config), make_batch()
    streams, _ = jax.eval_shape(lambda batch: train_step.add_mixed(first, batch, networks, config), examples)
    shapes = {name: leaf.shape for name, leaf in streams["unlabelled"].items()}
    size = small_steps.SIZES["unlabelled"]
    expected = {"image": (COUNTS["unlabelled"], *size, 3), "pseudo_label": (COUNTS["unlabelled"], *size)}
    if unlabelled:
        expected["teacher_logits"] = (COUNTS["unlabelled"], size[0] // 8, size[1] // 8, CLASSES)
    assert shapes == expected
