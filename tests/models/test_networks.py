import pytest

from ass_jax.models import build_networks
from configs import base

CLASSES = 5


@pytest.fixture
def config():
    config = base.default_config()
    config.model.backbone = "resnet_tiny"
    return config


@pytest.mark.parametrize(("global_weight", "semantic_weight"), [(0.0, 0.0), (0.1, 0.0), (0.0, 0.1), (0.1, 0.1)])
def test_a_loss_of_weight_zero_has_no_discriminator(config, global_weight, semantic_weight):
    config.loss.update(global_weight=global_weight, semantic_weight=semantic_weight)
    networks = build_networks(config, CLASSES)
    assert networks.segmenter.num_classes == CLASSES
    assert (networks.global_discriminator is not None) == (global_weight > 0)
    assert (networks.semantic_discriminator is not None) == (semantic_weight > 0)


@pytest.mark.parametrize(("kind", "outputs"), [("binary", 1), ("class_domain", 2 * CLASSES)])
def test_outputs_of_the_semantic_discriminator(config, kind, outputs):
    config.loss.semantic_outputs = kind
    assert build_networks(config, CLASSES).semantic_discriminator.outputs == outputs


def test_widths_and_type_come_from_the_configuration(config):
    config.discriminator.update(global_width=3, semantic_width=7)
    config.model.dtype = "bfloat16"
    networks = build_networks(config, CLASSES)
    assert networks.global_discriminator.width == 3
    assert networks.semantic_discriminator.width == 7
    modules = (networks.segmenter, networks.segmenter.backbone, networks.global_discriminator)
    for module in (*modules, networks.semantic_discriminator):
        assert module.dtype == "bfloat16"
