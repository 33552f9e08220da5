"""Checks whole steps: one device equals four, running statistics, averages, the warm-up, and evaluation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from ass_jax.evaluation import evaluate as evaluation
from ass_jax.method import train_step, views
from ass_jax.method.losses import IGNORED, dice_loss
from ass_jax.method.state import TrainState
from ass_jax.models import preprocess
from ass_jax.ops import resize_bilinear
from ass_jax.runtime.sharding import global_batch, make_mesh, replicated
from tests.helpers.small_steps import (
    CLASSES,
    COUNTS,
    assert_trees_equal,
    jit,
    largest_error,
    make_batch,
    make_config,
    make_first,
    make_networks,
    make_step,
)


@pytest.fixture(scope="module")
def states() -> list[tuple[TrainState, dict | None]]:
    """The full method on one device: the first state, then state and metrics after each of three steps."""
    found = [(make_first(make_config()), None)]
    for seed in range(3):
        found.append(compiled_step()(found[-1][0], make_batch(seed=seed)))
    return found


@functools.cache
def compiled_step():
    return jit(make_step(make_config()))


def test_four_devices_equal_one(states):
    """To 1e-5 of each leaf's norm, since sums run in another order: parameters, statistics, optimisers, average."""
    mesh = make_mesh(COUNTS.values())
    assert mesh.size == 4
    step = jit(make_step(make_config(), mesh), out_shardings=replicated(mesh))
    state = jax.device_put(states[0][0], replicated(mesh))
    for seed, (expected_state, expected_metrics) in enumerate(states[1:]):
        batch = global_batch(make_batch(seed=seed), mesh)
        assert len(batch["source"]["image"].sharding.device_set) == 4
        state, metrics = step(state, batch)
        assert metrics.keys() == expected_metrics.keys()
        for name, value in metrics.items():
            np.testing.assert_allclose(value, expected_metrics[name], rtol=1e-5, err_msg=name)
        assert largest_error(state, expected_state) < 1e-5
    # The tolerance is tight: three steps changed every trained part a thousand times as much.
    for network, params in states[0][0].params.items():
        assert largest_error(params, states[-1][0].params[network]) > 1e-2


def test_dice_loss_of_both_labelled_streams_is_added_on_any_number_of_devices():
    config, mesh = make_config("joint"), make_mesh(COUNTS.values())
    batch = {stream: make_batch()[stream] for stream in ("source", "labelled")}
    first, plain = make_first(config), make_step(config)
    config = config.copy_and_resolve_references()
    config.loss.dice_weight = 0.5
    one, metrics = jit(make_step(config))(first, batch)
    four, metrics_of_four = jit(make_step(config, mesh), out_shardings=replicated(mesh))(
        jax.device_put(first, replicated(mesh)), global_batch(batch, mesh)
    )
    without, plain_metrics = jit(plain)(first, batch)
    assert metrics.keys() - plain_metrics.keys() == {"loss/dice_source", "loss/dice_labelled"}
    assert largest_error(four, one) < 1e-5
    assert largest_error(one.params["segmenter"], without.params["segmenter"]) > 1e-3
    for name, value in metrics.items():
        np.testing.assert_allclose(value, metrics_of_four[name], rtol=1e-5, err_msg=name)

    networks = make_networks(config)

    def loss(params, stream):
        images = preprocess.normalise(batch[stream]["image"], config)
        variables = {"params": params, "batch_stats": first.batch_stats}
        (_, logits), _ = networks.segmenter.apply(variables, images, train=True, mutable=["batch_stats"])
        return dice_loss(resize_bilinear(logits, images.shape[1:3]), batch[stream]["label"])

    losses = jit(loss, static_argnames="stream")
    for stream in batch:
        np.testing.assert_allclose(
            metrics[f"loss/dice_{stream}"], losses(first.params["segmenter"], stream=stream), rtol=1e-5
        )


def stem_outputs(params: dict, images: np.ndarray) -> np.ndarray:
    """The 3x3 convolution of stride 4 in float64, from the formula."""
    mean = np.array([104.00698793, 116.66876762, 122.67891434])
    pixels = np.pad((images[..., ::-1] - mean) / 64, [(0, 0), (1, 1), (1, 1), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (3, 3), axis=(1, 2))[:, ::4, ::4]
    return np.einsum("bijcyx,yxco->bijo", windows, np.float64(params["backbone"]["stem"]["kernel"]))


def assert_statistics_follow(found: dict, params: dict, streams: tuple[str, ...]) -> None:
    batch, mean, variance = make_batch(seed=0), np.zeros(4), np.ones(4)
    for stream in streams:
        outputs = stem_outputs(params["segmenter"], batch[stream]["image"])
        mean = 0.9 * mean + 0.1 * outputs.mean((0, 1, 2))
        variance = 0.9 * variance + 0.1 * outputs.var((0, 1, 2), ddof=1)
    running = found["backbone"]["stem_norm"]
    np.testing.assert_allclose(running["mean"], mean, rtol=1e-4)
    np.testing.assert_allclose(running["var"], variance, rtol=1e-4)


def test_running_statistics_of_a_domain_follow_its_streams_in_order(states):
    params, after = states[0][0].params, states[1][0]
    assert_statistics_follow(after.batch_stats, params, ("labelled", "unlabelled"))
    assert_statistics_follow(after.source_stats, params, ("source",))


def test_shared_running_statistics_follow_all_streams_in_order(states):
    config = make_config()
    config.model.running_statistics = "shared"
    first = make_first(config)
    assert first.source_stats is None
    after, metrics = jit(make_step(config))(first, make_batch(seed=0))
    assert_statistics_follow(after.batch_stats, first.params, ("source", "labelled", "unlabelled"))
    # They are not read in training.
    assert_trees_equal(after.params, states[1][0].params)
    assert_trees_equal(metrics, states[1][1])


def test_adapted_statistics_follow_unlabelled_images_and_change_no_weight():
    """`source_adabn` trains as `source_only`."""
    batch, found = make_batch(seed=0), {}
    for variant, streams in (("source_only", ("source",)), ("source_adabn", ("source", "unlabelled"))):
        config = make_config(variant)
        first = make_first(config)
        chosen = {stream: batch[stream] for stream in streams}
        found[variant], _ = jit(make_step(config))(first, chosen)
    adapted, plain = found["source_adabn"], found["source_only"]
    assert_trees_equal(adapted.params, plain.params)
    assert plain.source_stats is None
    assert_trees_equal(adapted.source_stats, plain.batch_stats)
    assert_statistics_follow(adapted.batch_stats, first.params, ("unlabelled",))


def test_streams_are_normalised_separately(states):
    first, batch = states[0][0], make_batch(seed=0)
    batch["labelled"]["image"] = 255 - batch["labelled"]["image"]
    _, metrics = compiled_step()(first, batch)
    for name in ("loss/segmentation_source", "loss/global", "loss/global_discriminator"):
        assert metrics[name] == states[1][1][name]
    for name in ("loss/segmentation_labelled", "loss/semantic"):
        assert metrics[name] != states[1][1][name]


def test_average_by_hand(states):
    """The decay rises as 0, 1/2, 2/3 towards 0.9."""
    tracks = [{"params": state.params["segmenter"], "batch_stats": state.batch_stats} for state, _ in states]
    assert_trees_equal(states[0][0].average, tracks[0])
    for number, ((before, _), (after, _), track) in enumerate(zip(states, states[1:], tracks[1:], strict=False)):
        old, new = (jax.tree.map(np.float64, tree) for tree in (before.average, track))
        expected = jax.tree.map(lambda one, other, n=number: (n * one + other) / (n + 1), old, new)
        assert largest_error(after.average, expected) < 1e-6
    assert largest_error(states[2][0].average, tracks[2]) > 1e-3


def test_states_count_steps_and_freeze_the_affine_of_batch_norm(states):
    for number, (state, metrics) in enumerate(states):
        assert state.step == number
        assert_trees_equal(
            state.params["segmenter"]["backbone"]["stem_norm"], {"scale": np.ones(4), "bias": np.zeros(4)}
        )
        if metrics is not None:
            decay = (1 - (number - 1) / 10) ** 0.9
            assert metrics["learning_rate/backbone"] == pytest.approx(0.01 * decay)
            assert metrics["learning_rate/classifier"] == pytest.approx(0.1 * decay)
            assert metrics["learning_rate/global_discriminator"] == pytest.approx(1e-4 * decay)


def test_gradient_norm_covers_only_trained_parameters(states):
    """Recovers the gradient from the first update, `-rate * (gradient + decay * params)`."""
    before, after = (state.params["segmenter"] for state, _ in states[:2])
    gradients = [
        (before[part][layer][name] - np.float64(after[part][layer][name])) / rate - 5e-4 * before[part][layer][name]
        for part, layer, name, rate in (
            ("backbone", "stem", "kernel", 0.01),
            ("backbone", "top", "kernel", 0.01),
            ("classifier", "dilation6", "kernel", 0.1),
            ("classifier", "dilation6", "bias", 0.1),
        )
    ]
    norm = np.sqrt(sum(np.sum(gradient**2) for gradient in gradients))
    assert states[1][1]["gradient_norm/segmenter"] == pytest.approx(norm, rel=1e-4)


def test_frozen_parameters_have_no_gradient():
    params = {"segmenter": {"backbone": {"norm": {"scale": 3.0}, "conv": {"kernel": 2.0}}}, "other": {"kernel": 5.0}}

    def squares(params: dict, config: ConfigDict) -> jax.Array:
        return sum(leaf**2 for leaf in jax.tree.leaves(train_step._freeze(params, config)))

    for train, expected in ((False, 0), (True, 6)):
        config = make_config()
        config.model.train_norm_affine = train
        gradient = jax.grad(squares)(params, config)
        backbone = {"norm": {"scale": expected}, "conv": {"kernel": 4}}
        assert gradient == {"segmenter": {"backbone": backbone}, "other": {"kernel": 10}}


def test_adversaries_wait_for_the_warm_up(states):
    """The segmenter first learns without the adversaries, then from their terms in proportion to the ramp."""
    first, config = states[0][0], make_config("joint")
    joint = make_first(config)
    assert_trees_equal(joint.params["segmenter"], first.params["segmenter"])
    batch = {stream: examples for stream, examples in make_batch().items() if stream != "unlabelled"}
    joint, _ = jit(make_step(config))(joint, batch)
    assert joint.average is None

    def segmenter_at(number: int) -> dict:
        """Returns the segmenter after one step from the first state, with the ramp of step `number`."""
        state, _ = compiled_step()(first.replace(step=jnp.int32(number)), make_batch())
        return state.params["segmenter"]

    start, half, full, later = (segmenter_at(number) for number in (0, 1, 2, 7))
    assert largest_error(start, joint.params["segmenter"]) < 1e-6
    assert largest_error(full, start) > 1e-3
    assert largest_error(half, jax.tree.map(lambda a, b: (a + b) / 2, start, full)) < 1e-6
    assert_trees_equal(later, full)
    for network in ("global_discriminator", "semantic_discriminator"):
        # The discriminators learn from the first step on. Adam's first step moves each weight by its rate.
        moved = jax.tree.map(lambda a, b: np.abs(a - b), states[1][0].params[network], first.params[network])
        assert max(leaf.max() for leaf in jax.tree.leaves(moved)) == pytest.approx(1e-4, rel=1e-2)


def test_frozen_statistics_do_not_change(states):
    """With frozen batch norm, a training step sees what evaluation sees, whatever the batch."""
    config, first = make_config(), states[1][0]
    config.model.batch_norm = "frozen"
    networks, batch = make_networks(config), {"labelled": make_batch()["labelled"]}

    @jit
    def forward(params: dict, batch_stats: dict) -> tuple:
        statistics = {"target": batch_stats, "source": None}
        images = preprocess.normalise(batch["labelled"]["image"], config)
        evaluated = networks.segmenter.apply({"params": params, "batch_stats": batch_stats}, images, train=False)
        return *train_step._forward(params, statistics, batch, first.step, networks, config), evaluated

    maps, statistics, (features, logits) = forward(first.params["segmenter"], first.batch_stats)
    assert_trees_equal(statistics["target"], first.batch_stats)
    assert_trees_equal(maps["labelled"]["features"], features)
    assert_trees_equal(maps["labelled"]["logits"], logits)
    assert maps["labelled"]["scores"].shape == (4, 32, 64, CLASSES)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_step_changes_only_the_step_number(bad):
    config = make_config("ass")
    state = make_first(config)
    params = jax.tree.map(np.copy, state.params)
    params["semantic_discriminator"]["kernel"][0, 0] = bad
    state = state.replace(params=params)
    found, metrics = compiled_step()(state, make_batch())
    assert metrics["skipped"] == 1
    assert not np.isfinite(metrics["loss/semantic"])
    assert_trees_equal(found, state.replace(step=np.int32(1)))


def upsample(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Interpolates bilinearly with aligned corners, one axis after the other."""
    for axis, cells in ((1, size[0]), (2, size[1])):
        old = np.linspace(0, 1, logits.shape[axis])
        new = np.linspace(0, 1, cells)
        logits = np.apply_along_axis(lambda line, old=old, new=new: np.interp(new, old, line), axis, logits)
    return logits


def test_evaluation_counts_pixels_on_any_number_of_devices(states):
    config, variables = make_config(), states[-1][0].segmenter
    networks = make_networks(config)
    images, size = make_batch()["labelled"]["image"], (40, 72)
    labels = np.random.default_rng(5).choice([0, 1, 2, 3, IGNORED], (4, *size)).astype(np.uint8)
    labels[1] = IGNORED
    batch = {"image": images, "label": labels, "valid": np.array([True, True, True, False])}
    confusions, valid, predictions = evaluation.make_evaluation_step(networks, config, make_mesh([1]))(variables, batch)
    mesh = make_mesh([4])
    evaluate = evaluation.make_evaluation_step(networks, config, mesh)
    on_four = evaluate(jax.device_put(variables, replicated(mesh)), global_batch(batch, mesh))
    assert len(on_four[2].sharding.device_set) == 4
    assert_trees_equal(on_four, (confusions, valid, predictions))
    np.testing.assert_array_equal(valid, batch["valid"])
    assert predictions.dtype == jnp.uint8

    normalised = ((images[..., ::-1] - np.array(config.model.pixel_mean)) / 64).astype(np.float32)
    _, logits = jit(functools.partial(networks.segmenter.apply, train=False))(variables, normalised)
    scores = upsample(np.float64(logits), size)
    best, second = -np.partition(-scores, 1, axis=-1)[..., :2].transpose(3, 0, 1, 2)
    clear = best - second > 1e-4  # Elsewhere rounding may decide.
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(np.asarray(predictions)[clear], scores.argmax(-1)[clear])
    assert len(np.unique(predictions)) > 1
    expected = np.zeros((4, CLASSES, CLASSES), np.int64)
    images = np.broadcast_to(np.arange(4)[:, None, None], labels.shape)
    counted = labels != IGNORED
    np.add.at(expected, (images[counted], labels[counted], np.asarray(predictions)[counted]), 1)
    np.testing.assert_array_equal(confusions, expected)


def test_labels_of_another_size_compile_no_network_again(states, monkeypatch):
    config, traced, scores_step = make_config(), [], views.scores_step

    def counted(*arguments, **options):
        traced.append(arguments)
        return scores_step(*arguments, **options)

    monkeypatch.setattr(views, "scores_step", counted)
    evaluate = evaluation.make_evaluation_step(make_networks(config), config, make_mesh([1]))
    images = make_batch()["labelled"]["image"]
    for size in ((40, 72), (17, 31), (40, 72)):
        batch = {"image": images, "label": np.zeros((4, *size), np.uint8), "valid": np.ones(4, bool)}
        confusions, _, predictions = evaluate(states[-1][0].segmenter, batch)
        assert predictions.shape == (4, *size)
        assert confusions.sum() == predictions.size
    assert len(traced) == 1


def test_normalise_by_hand():
    config = make_config()
    config.model.pixel_mean, config.model.pixel_deviation = (1.0, 2.0, 3.0), (2.0, 4.0, 8.0)
    image = np.array([[[[11, 22, 255]]]], np.uint8)
    config.model.pixel_order = "rgb"
    pixels = preprocess.normalise(image, config)
    assert pixels.dtype == jnp.float32
    np.testing.assert_array_equal(pixels, [[[[10 / 2, 20 / 4, 252 / 8]]]])
    config.model.pixel_order = "bgr"
    np.testing.assert_array_equal(preprocess.normalise(image, config), [[[[254 / 2, 20 / 4, 8 / 8]]]])
