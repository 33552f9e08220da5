"""Counts the work of a step: each image passes once, and a term of weight 0 leaves nothing behind."""

import collections
import dataclasses
import functools
from collections.abc import Iterator

import jax
import numpy as np
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn
from jax.interpreters.partial_eval import dce_jaxpr

from ass_jax.method.optimizers import make_optimizer
from ass_jax.method.state import TrainState, create_state
from ass_jax.method.train_step import train_step
from ass_jax.models import build_networks
from ass_jax.models.deeplab import DeepLab
from ass_jax.models.resnet import ResNet
from configs.base import get_config
from data.streams import streams

CLASSES = 4
SIZES = {"source": (1, 32, 96), "labelled": (1, 32, 64), "unlabelled": (1, 32, 64)}
# Images that pass the segmenter for each variant's terms, and its discriminators.
VARIANTS = {
    "joint": (("source", "labelled"), ()),
    "adaptsegnet": (("source", "labelled", "unlabelled"), ("GlobalDiscriminator",)),
    "semantic": (("source", "labelled", "unlabelled"), ("SemanticDiscriminator",)),
    "ass": (("source", "labelled", "unlabelled"), ("GlobalDiscriminator", "SemanticDiscriminator")),
    "teacher": (("source", "labelled", "mixed"), ()),
    "adaptsegnet_plus": (("source", "labelled", "mixed", "unlabelled"), ("GlobalDiscriminator",)),
    "ass_plus": (
        ("source", "labelled", "mixed", "unlabelled"),
        ("GlobalDiscriminator", "SemanticDiscriminator"),
    ),
}
RESNET_LAYERS = {"stem"} | {
    f"stage{stage}_block1/{name}" for stage in range(1, 5) for name in ("reduce", "spatial", "expand", "shortcut")
}
LAYERS = {
    "DeepLab": {f"backbone/{layer}" for layer in RESNET_LAYERS} | {"classifier"},
    "GlobalDiscriminator": {"conv1", "conv2", "conv3", "conv4", "logits"},
    "SemanticDiscriminator": {"hidden1", "hidden2", "logits"},
}


def equations(jaxpr: Jaxpr, scope: str = "") -> Iterator[tuple[str, JaxprEqn]]:
    """Yields the operations of a program and of the functions that it calls, with their scopes.

    Operations inside a function with a custom gradient have no scope and get the scope of the call. Of the alternatives
    for different platforms, only the last, which is the default, is counted, in the scope of the choice.
    """
    for equation in jaxpr.eqns:
        inner = str(equation.source_info.name_stack).removesuffix("/transpose()") or scope
        yield inner, equation
        if equation.primitive.name == "cond":
            yield from ((inner, chosen) for _, chosen in equations(equation.params["branches"][-1].jaxpr))
            continue
        for value in jax.tree.leaves(equation.params, is_leaf=lambda x: isinstance(x, (Jaxpr, ClosedJaxpr))):
            if isinstance(value, (Jaxpr, ClosedJaxpr)):
                yield from equations(getattr(value, "jaxpr", value), inner)


@functools.cache
def trace(variant: str, **loss: float) -> tuple[TrainState, dict, collections.Counter]:
    """Traces one step of a ResNet with one block per stage; `loss` overrides loss settings.

    Returns:
      Shapes of the state and the metrics, and how often each scope multiplies: matrix products and convolutions.
    """
    config = get_config(variant)
    config.data.target_size = (32, 64)
    config.loss.update(loss)
    config.discriminator.update(global_width=2, semantic_width=4)
    # So narrow that no convolution uses a custom gradient, which takes more than one product.
    segmenter = DeepLab(ResNet((1, 1, 1, 1), width=1, stem_width=4), CLASSES, branches=1)
    shared = {
        "networks": dataclasses.replace(build_networks(config, CLASSES), segmenter=segmenter),
        "config": config,
        "optimizer": make_optimizer(config),
    }
    state = jax.eval_shape(functools.partial(create_state, num_classes=CLASSES, **shared))
    batch = {}
    for stream in streams(config):
        batch[stream] = {"image": jax.ShapeDtypeStruct((*SIZES[stream], 3), np.uint8)}
        if stream != "unlabelled":
            batch[stream]["label"] = jax.ShapeDtypeStruct(SIZES[stream], np.uint8)
    program, (_, metrics) = jax.make_jaxpr(functools.partial(train_step, **shared), return_shape=True)(state, batch)
    asked, _ = dce_jaxpr(program.jaxpr, [True] * len(program.jaxpr.outvars))
    multiplications = collections.Counter(
        scope
        for scope, equation in equations(asked)
        if equation.primitive.name in ("conv_general_dilated", "dot_general")
    )
    return state, metrics, multiplications


def of_network(multiplications: collections.Counter, network: str) -> dict[str, int]:
    return {scope: count for scope, count in multiplications.items() if network in scope}


def passes(trained: int, teacher: bool) -> dict[str, int]:
    """Returns how often each layer of the segmenter multiplies.

    Images that are trained on take one product forward and two backward, for the gradients of input and kernel; the
    teacher, which has no gradient, takes one forward. The batch norm of widening convolutions takes two more products
    forward, for covariance and variance, and three backward.
    """
    expected = {}
    for layer in LAYERS["DeepLab"]:
        normalised = layer.endswith("expand")
        expected[f"jvp(DeepLab)/{layer}"] = trained * (3 if normalised else 1)
        # The gradient of the images is not needed.
        backward = 1 if layer == "backbone/stem" else 5 if normalised else 2
        expected[f"transpose(jvp(DeepLab))/{layer}"] = trained * backward
        if teacher:
            expected[f"DeepLab/{layer}"] = 1
    return expected


@pytest.mark.parametrize("variant", ["joint", "ass", "teacher", "ass_plus"])
def test_each_image_passes_the_segmenter_once(variant):
    """Mixed images pass once too, and unlabelled images pass the teacher once."""
    images = VARIANTS[variant][0]
    assert of_network(trace(variant)[2], "DeepLab") == passes(len(images), teacher="mixed" in images)


def test_unlabelled_images_pass_where_an_adversary_reads_them():
    neither = {"global_weight": 0.0, "semantic_unlabelled": False}
    for loss, trained in ((neither, 3), ({"global_weight": 0.0}, 4), ({"semantic_weight": 0.0}, 4)):
        found = trace("ass_plus", **loss)[2]
        assert (found["jvp(DeepLab)/backbone/stem"], found["DeepLab/backbone/stem"]) == (trained, 1)


@pytest.mark.parametrize("network", ["GlobalDiscriminator", "SemanticDiscriminator"])
def test_each_turn_of_a_discriminator_is_one_pass(network):
    """A discriminator runs for each target stream's loss of the segmenter and, for its own, for each stream.

    That of class means reads two target streams, the global one one. Backward, the segmenter's losses need the
    gradients of all inputs; the others need those of the parameters and of all layers' inputs but the first's.
    """
    expected, targets = {}, 2 if network == "SemanticDiscriminator" else 1
    for layer in LAYERS[network]:
        expected[f"jvp({network})/{layer}"] = 1 + 2 * targets
        first = layer in ("conv1", "hidden1")
        expected[f"transpose(jvp({network}))/{layer}"] = targets + (1 + targets) * (1 if first else 2)
    assert of_network(trace("ass")[2], network) == expected


@pytest.mark.parametrize("variant", VARIANTS)
def test_terms_of_weight_zero_leave_nothing_behind(variant):
    images, judges = VARIANTS[variant]
    state, metrics, multiplications = trace(variant)
    for network, name in (("GlobalDiscriminator", "global"), ("SemanticDiscriminator", "semantic")):
        acts = network in judges
        key = f"{name}_discriminator"
        assert (key in state.params) == acts
        paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.optimizer_state)]
        moments = [path for path in paths if f"['{key}']" in path and ".mu" in path]
        assert len(moments) == (2 * len(LAYERS[network]) if acts else 0)
        for metric in ("loss/{}", "loss/{}_discriminator", "accuracy/{}_discriminator"):
            assert (metric.format(name) in metrics) == acts
        for metric in ("gradient_norm", "learning_rate"):
            assert (f"{metric}/{key}" in metrics) == acts
        assert bool(of_network(multiplications, network)) == acts
    assert state.params.keys() == {"segmenter"} | {
        f"{name}_discriminator" for name in ("global", "semantic") if f"loss/{name}" in metrics
    }
    losses = {f"loss/segmentation_{stream}" for stream in images if stream != "unlabelled"}
    assert {name for name in metrics if name.startswith("loss/segmentation")} == losses
    assert multiplications["jvp(DeepLab)/backbone/stem"] == len(images)
    teacher = "mixed" in images
    assert multiplications["DeepLab/backbone/stem"] == teacher
    assert (state.average is not None) == teacher
    assert ("teacher/confident" in metrics) == teacher
    # Class-wise means of all three streams.
    assert multiplications["jvp(bhwc,bhwd->bcd)"] == (3 if "SemanticDiscriminator" in judges else 0)
