"""Names of other projects, against names written down from their models."""

import pytest

from ass_jax.weights.names import (
    CAFFE_PIXELS,
    LITE_PIXELS,
    TORCHVISION_PIXELS,
    adaptsegnet_name,
    find_source,
    without_prefix,
)

RESNET = {
    "params/backbone/stem/kernel": "conv1.weight",
    "params/backbone/stem_norm/scale": "bn1.weight",
    "params/backbone/stage1_block1/shortcut/kernel": "layer1.0.downsample.0.weight",
    "batch_stats/backbone/stage1_block1/shortcut_norm/var": "layer1.0.downsample.1.running_var",
    "params/backbone/stage3_block23/reduce/kernel": "layer3.22.conv1.weight",
    "params/backbone/stage3_block23/spatial_norm/bias": "layer3.22.bn2.bias",
    "batch_stats/backbone/stage4_block3/expand_norm/mean": "layer4.2.bn3.running_mean",
    "params/backbone/stage2_block1/first/kernel": "layer2.0.conv1.weight",
    "params/backbone/stage2_block1/second_norm/scale": "layer2.0.bn2.weight",
}
# After the third pool, torchvision's list has a pool that AdaptSegNet's lacks.
VGG = {
    "params/backbone/block1_conv1/kernel": ("features.0.weight", "features.0.weight"),
    "params/backbone/block2_conv2/bias": ("features.7.bias", "features.7.bias"),
    "params/backbone/block3_conv3/kernel": ("features.14.weight", "features.14.weight"),
    "params/backbone/block4_conv1/kernel": ("features.17.weight", "features.17.weight"),
    "params/backbone/block5_conv1/kernel": ("features.24.weight", "features.23.weight"),
    "params/backbone/block5_conv3/bias": ("features.28.bias", "features.27.bias"),
    "params/backbone/head_conv1/kernel": (None, "features.29.weight"),
    "params/backbone/head_conv2/bias": (None, "features.31.bias"),
    "params/classifier/dilation18/bias": (None, "classifier.conv2d_list.2.bias"),
}
EFFICIENTNET = {
    "params/backbone/stem/kernel": "_conv_stem.weight",
    "batch_stats/backbone/stem_norm/var": "_bn0.running_var",
    "params/backbone/stage1_block1/depthwise/kernel": "_blocks.0._depthwise_conv.weight",
    "params/backbone/stage2_block2/expand/kernel": "_blocks.2._expand_conv.weight",
    "params/backbone/stage2_block2/expand_norm/scale": "_blocks.2._bn0.weight",
    "batch_stats/backbone/stage5_block3/depthwise_norm/mean": "_blocks.10._bn1.running_mean",
    "params/backbone/stage7_block1/project_norm/bias": "_blocks.15._bn2.bias",
    "params/classifier/dilation6/kernel": None,
    "params/backbone/stage1_block1/reduce/kernel": None,
    "params/backbone/block1_conv1/kernel": None,
}
HED = {
    "params/backbone/block1_conv1/kernel": "block1/layers/conv2d/vars/0",
    "params/backbone/block3_conv3/bias": "block3/layers/conv2d_2/vars/1",
    "params/backbone/block5_conv2/kernel": "block5/layers/conv2d_1/vars/0",
    "params/backbone/head_conv1/kernel": None,
    "params/classifier/dilation6/bias": None,
}
KERNEL = "params/classifier/dilation24/kernel"


def source_of(*names):
    return find_source(names)


def test_torchvision_resnet():
    source = source_of("conv1.weight", "layer1.0.conv1.weight", "fc.weight")
    assert source.title == "torchvision ResNet"
    assert source.settings == TORCHVISION_PIXELS | {"stride_in": "3x3"}
    assert {path: source.name(path) for path in RESNET} == RESNET
    assert source.name(KERNEL) is None
    assert source.name("params/backbone/block1_conv1/kernel") is None


def test_torchvision_pixel_statistics_are_scaled_by_255():
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    assert TORCHVISION_PIXELS["pixel_mean"] == pytest.approx([255 * value for value in mean])
    assert TORCHVISION_PIXELS["pixel_deviation"] == pytest.approx([255 * value for value in deviation])
    assert TORCHVISION_PIXELS["pixel_order"] == "rgb"


def test_adaptsegnet_resnet_with_one_classifier():
    source = source_of("layer1.0.conv1.weight", "layer5.conv2d_list.0.weight")
    assert source.settings == CAFFE_PIXELS | {"stride_in": "1x1"}
    assert source.branches_open
    assert {path: source.name(path) for path in RESNET} == RESNET
    assert source.name(KERNEL) == "layer5.conv2d_list.3.weight"


def test_adaptsegnet_resnet_with_two_classifiers():
    source = source_of("layer1.0.conv1.weight", "layer5.conv2d_list.0.weight", "layer6.conv2d_list.0.weight")
    assert source.settings == CAFFE_PIXELS | {"stride_in": "1x1"}
    assert source.branches_open
    assert source.name(KERNEL) == "layer6.conv2d_list.3.weight"


def test_advent_resnet_with_one_classifier():
    source = source_of("layer1.0.conv1.weight", "layer6.conv2d_list.0.weight")
    assert source.settings == CAFFE_PIXELS | {"stride_in": "1x1", "branches": 4}
    assert not source.branches_open
    assert source.name(KERNEL) == "layer6.conv2d_list.3.weight"


def test_vgg():
    torchvision = source_of("features.0.weight", "classifier.0.weight")
    adaptsegnet = source_of("features.0.weight", "classifier.conv2d_list.0.weight")
    assert (torchvision.settings, adaptsegnet.settings) == (TORCHVISION_PIXELS, CAFFE_PIXELS)
    assert (torchvision.branches_open, adaptsegnet.branches_open) == (False, True)
    assert {path: (torchvision.name(path), adaptsegnet.name(path)) for path in VGG} == VGG
    assert torchvision.name("params/backbone/stem/kernel") is adaptsegnet.name("params/backbone/stem/kernel") is None


def test_efficientnet():
    source = source_of("_conv_stem.weight", "_blocks.0._depthwise_conv.weight")
    assert (source.settings, source.layout) == (LITE_PIXELS, "pytorch")
    assert {path: source.name(path) for path in EFFICIENTNET} == EFFICIENTNET


def test_hed_vgg():
    source = source_of("block1/layers/conv2d/vars/0", "dsn1/vars/0")
    assert (source.settings, source.layout) == (CAFFE_PIXELS, "ours")
    assert {path: source.name(path) for path in HED} == HED


def test_own_names():
    source = source_of("params/backbone/stem/kernel")
    assert (source.title, source.settings, source.layout) == ("ass_jax", {}, "ours")
    assert source.name(KERNEL) == KERNEL


@pytest.mark.parametrize("names", [(), ("trunk.conv1.weight",), ("encoder.0.weight", "fc.weight")])
def test_unknown_names(names):
    assert find_source(names) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("module.conv1.weight", "conv1.weight"),
        ("Scale.layer5.conv2d_list.3.weight", "layer5.conv2d_list.3.weight"),
        ("module.Scale.bn1.bias", "bn1.bias"),
        ("model.backbone.blocks.1.5.ls1.gamma", "blocks.5.ls1.gamma"),
        ("modules.conv1.weight", "modules.conv1.weight"),
        ("conv1.module.weight", "conv1.module.weight"),
    ],
)
def test_prefixes(name, expected):
    assert without_prefix(name) == expected


def test_names_for_adaptsegnet():
    assert {path: adaptsegnet_name(path, "resnet101") for path in RESNET} == RESNET
    assert adaptsegnet_name(KERNEL, "resnet_tiny") == "layer5.conv2d_list.3.weight"
    assert {path: adaptsegnet_name(path, "vgg16") for path in VGG} == {path: names[1] for path, names in VGG.items()}


def test_backbone_without_foreign_names_is_refused():
    with pytest.raises(ValueError, match=r"no backbone 'mine'.* \.safetensors or \.jaxexport"):
        adaptsegnet_name("params/backbone/stem/kernel", "mine")
