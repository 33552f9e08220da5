"""Checks the adversarial terms of a step: their values, and that each player's term leaves the other alone."""

from collections.abc import Callable

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from ass_jax.method import semantic, train_step
from ass_jax.method.class_means import class_means
from ass_jax.method.losses import SOURCE, TARGET, domain_logits, semantic_loss
from ass_jax.models import build_networks
from configs.base import get_config

CLASSES = 4
SIZES = {"source": (32, 96), "labelled": (32, 64), "unlabelled": (48, 64)}
OPTIONS = {"xla_backend_optimization_level": 0}  # Optimising the tiny programs takes longer than running them.


def make_config(**loss) -> ConfigDict:
    config = get_config()
    config.discriminator.update(global_width=4, semantic_width=8)
    config.loss.update(loss)
    return config


def random_like(shapes: object, seed: int, scale: float = 1.0) -> object:
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: (scale * random.normal(size=leaf.shape)).astype(np.float32), shapes)


def random_maps() -> dict:
    """Returns maps of two images per stream, each stream with its own size."""
    shapes = {
        stream: {
            "features": jax.ShapeDtypeStruct((2, height // 8, width // 8, 6), np.float32),
            "logits": jax.ShapeDtypeStruct((2, height // 8, width // 8, CLASSES), np.float32),
            "scores": jax.ShapeDtypeStruct((2, height, width, CLASSES), np.float32),
        }
        for stream, (height, width) in SIZES.items()
    }
    return random_like(shapes, seed=0)


def random_params(discriminator, *shape: int) -> dict:
    shapes = jax.eval_shape(discriminator.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, np.float32))
    return random_like(shapes["params"], seed=1, scale=0.3)


def run_terms(terms: Callable, judge: Callable, params: dict) -> tuple:
    """Evaluates terms on random maps.

    Returns:
      What `terms` and `judge` return, and gradients by (parameters, maps) of `fool` and of `learn`.
    """

    def run(params: dict, maps: dict) -> tuple:
        def values(params: dict, maps: dict) -> tuple:
            fool, learn, metrics = terms(params, maps)
            return (fool, learn), metrics

        (fool, learn), pull, metrics = jax.vjp(values, params, maps, has_aux=True)
        one, zero = np.float32(1), np.float32(0)
        return (fool, learn, metrics), judge(params, maps), pull((one, zero)), pull((zero, one))

    return jax.device_get(jax.jit(run, compiler_options=OPTIONS)(params, random_maps()))


def assert_players_are_apart(by_fool: tuple, by_learn: tuple, stream: str, read: str) -> None:
    """Checks that the segmenter learns through one map alone, and the discriminator through its parameters."""
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(by_fool[0]))
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(by_learn[1]))
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(by_learn[0]))
    moved = {(name, key) for name, maps in by_fool[1].items() for key, leaf in maps.items() if np.any(leaf != 0)}
    assert moved == {(stream, read)}


@pytest.mark.parametrize("kind", ["bce", "least_squares"])
def test_global_terms(kind):
    config = make_config(global_kind=kind)
    networks = build_networks(config, CLASSES)
    discriminator = networks.global_discriminator
    params = random_params(discriminator, 1, 32, 64, CLASSES)
    # Small logits on both sides of 0 and of 1/2, the decision thresholds of the two kinds.
    params["logits"] = {"kernel": 0.05 * params["logits"]["kernel"], "bias": np.full(1, 0.1, np.float32)}

    def terms(params: dict, maps: dict) -> tuple:
        return train_step._global_terms(params, maps, networks, config)

    def judge(params: dict, maps: dict) -> tuple:
        scores = (maps[stream]["scores"] for stream in ("source", "unlabelled"))
        return tuple(discriminator.apply({"params": params}, jax.nn.softmax(each)) for each in scores)

    (fool, learn, metrics), (source, target), *gradients = run_terms(terms, judge, params)
    assert_players_are_apart(*gradients, "unlabelled", "scores")
    for logits in (source, target):
        assert np.unique(np.digitize(logits, [0, 0.5])).tolist() == [0, 1, 2]
    if kind == "bce":
        cost = {SOURCE: lambda z: np.logaddexp(0, z), TARGET: lambda z: np.logaddexp(0, -z)}
        right = [np.mean(source < 0), np.mean(target > 0)]
    else:
        cost = {SOURCE: lambda z: z**2, TARGET: lambda z: (z - 1) ** 2}
        right = [np.mean(source < 0.5), np.mean(target > 0.5)]
    assert fool == pytest.approx(cost[SOURCE](target).mean(), rel=1e-5)
    expected = (cost[SOURCE](source).mean() + cost[TARGET](target).mean()) / 2
    assert learn == pytest.approx(expected, rel=1e-5)
    assert metrics == {
        "loss/global": fool,
        "loss/global_discriminator": learn,
        "accuracy/global_discriminator": pytest.approx(np.mean(right)),
    }


@pytest.mark.parametrize(("kind", "read"), [("binary", "logits"), ("class_domain", "features")])
def test_semantic_terms(kind, read):
    config = make_config(semantic_outputs=kind, semantic_input=read, semantic_unlabelled=False)
    networks = build_networks(config, CLASSES)
    discriminator = networks.semantic_discriminator
    params = random_params(discriminator, 1, random_maps()["source"][read].shape[-1])
    random = np.random.default_rng(2)
    # The second labelled image has only one class, so a mean over vectors differs from a mean over images.
    labels = {
        "source": np.stack([random.choice(classes, SIZES["source"]) for classes in ([0, 1, 255], [1, 2, 3])]),
        "labelled": np.stack([random.choice(classes, SIZES["labelled"]) for classes in ([0, 1, 3], [2, 255])]),
    }
    batch = {stream: {"label": label.astype(np.uint8)} for stream, label in labels.items()}

    def terms(params: dict, maps: dict) -> tuple:
        return semantic.semantic_terms(params, maps, batch, networks, config)

    def judge(params: dict, maps: dict) -> dict:
        found = {}
        for stream, domain in (("source", SOURCE), ("labelled", TARGET)):
            means, present = class_means(maps[stream][read], batch[stream]["label"], CLASSES)
            outputs = discriminator.apply({"params": params}, means)
            found[stream] = {
                "right": semantic_loss(outputs, domain, present, kind),
                "wrong": semantic_loss(outputs, 1 - domain, present, kind),
                "target": domain_logits(outputs, kind) > 0,
                "present": present,
            }
        return found

    (fool, learn, metrics), found, *gradients = run_terms(terms, judge, params)
    assert_players_are_apart(*gradients, "labelled", read)
    source, target = found["source"], found["labelled"]
    np.testing.assert_array_equal(source["present"], [[1, 1, 0, 0], [0, 1, 1, 1]])
    np.testing.assert_array_equal(target["present"], [[1, 1, 0, 1], [0, 0, 1, 0]])
    assert fool == pytest.approx(target["wrong"], rel=1e-5)
    assert learn == pytest.approx((source["right"] + target["right"]) / 2, rel=1e-5)
    right = np.mean(~source["target"][source["present"]]), np.mean(target["target"][target["present"]])
    assert metrics == {
        "loss/semantic": fool,
        "loss/semantic_discriminator": learn,
        "accuracy/semantic_discriminator": pytest.approx(np.mean(right)),
    }
