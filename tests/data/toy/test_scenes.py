import numpy as np
import pytest

from data.classes import IGNORED, class_table
from data.toy import layout
from data.toy.looks import CLASSES, SWAPS
from data.toy.scenes import render

ROAD, SIDEWALK = CLASSES.index("road"), CLASSES.index("sidewalk")


def scenes(domain, count, **options):
    return [render(domain, 0, "scenes", index, 64, 128, **options) for index in range(count)]


def test_classes_match_the_table():
    assert class_table("toy").names == CLASSES
    assert SWAPS.keys() | set(SWAPS.values()) <= set(CLASSES)
    assert all(look != name for name, look in SWAPS.items())


@pytest.mark.parametrize("domain", ["source", "target"])
def test_a_scene_depends_on_its_arguments_alone(domain):
    image, label = render(domain, 1, "a", 2, 32, 64)
    np.random.seed(7)  # noqa: NPY002 (must have no effect)
    render(domain, 0, "b", 0, 48, 48)
    again_image, again_label = render(domain, 1, "a", 2, 32, 64)
    np.testing.assert_array_equal(image, again_image)
    np.testing.assert_array_equal(label, again_label)
    for seed, split, index in [(0, "a", 2), (1, "b", 2), (1, 0, 2), (1, "a", 3)]:
        other_image, other_label = render(domain, seed, split, index, 32, 64)
        assert (image != other_image).mean() > 0.5
        assert (label != other_label).mean() > 0.05


@pytest.mark.parametrize("size", [(16, 16), (24, 40), (33, 65), (64, 128), (63, 17), (150, 301)])
@pytest.mark.parametrize("domain", ["source", "target"])
def test_scenes_have_any_size(domain, size):
    for index in range(4):
        image, label = render(domain, 0, "a", index, *size)
        assert image.shape == (*size, 3)
        assert label.shape == size
        assert image.dtype == label.dtype == np.uint8
        assert set(np.unique(label)) <= {*range(len(CLASSES)), IGNORED}


def test_a_scene_is_the_same_at_every_size():
    small, large = render("source", 0, "a", 0, 64, 128)[1], render("source", 0, "a", 0, 192, 384)[1]
    # The centres of the small pixels are the centres of every third large one.
    assert (small == large[1::3, 1::3]).mean() > 0.99


def test_class_shares_are_in_range():
    labels = np.stack([label for _, label in scenes("source", 200)])
    counts = np.stack([np.bincount(label.ravel(), minlength=256) for label in labels])
    shares = dict(zip(CLASSES, counts.sum(0) / counts.sum(), strict=False))
    present = dict(zip(CLASSES, (counts > 0).mean(0), strict=False))
    bounds = {
        "road": (0.25, 0.40),
        "sidewalk": (0.05, 0.13),
        "building": (0.10, 0.25),
        "pole": (0.007, 0.025),
        "traffic sign": (0.003, 0.018),
        "vegetation": (0.04, 0.15),
        "terrain": (0.01, 0.08),
        "sky": (0.12, 0.30),
        "person": (0.005, 0.03),
        "car": (0.02, 0.08),
    }
    for name, (least, most) in bounds.items():
        assert least <= shares[name] <= most, name
        assert present[name] >= 0.9, name
    assert 0.01 <= (labels == IGNORED).mean() <= 0.03
    assert 0.3 <= (labels == IGNORED).any((1, 2)).mean() <= 0.7


def test_domains_are_equal_without_shift():
    for source, target in zip(scenes("source", 3), scenes("target", 3, shift=0.0), strict=True):
        np.testing.assert_array_equal(source[0], target[0])
        np.testing.assert_array_equal(source[1], target[1])


def test_shift_changes_images_but_not_labels():
    source = scenes("source", 8)
    distances = []
    for shift in (0.0, 0.3, 1.0):
        target = scenes("target", 8, shift=shift)
        for (_, label), (_, shifted_label) in zip(source, target, strict=True):
            np.testing.assert_array_equal(label, shifted_label)
        pairs = zip(source, target, strict=True)
        distances.append(np.mean([np.abs(np.int16(image) - other) for (image, _), (other, _) in pairs]))
    assert distances[0] < distances[1] < distances[2]
    assert distances[1] > 3.0
    for image, _ in scenes("target", 2, shift=3.0):
        assert image.std() > 10.0


def test_target_road_looks_like_source_sidewalk():
    def mean_colour(examples, train_id):
        return np.mean([image[label == train_id].mean(0) for image, label in examples], axis=0)

    source, target = scenes("source", 40), scenes("target", 40)
    target_road = mean_colour(target, ROAD)
    to_sidewalk = np.linalg.norm(target_road - mean_colour(source, SIDEWALK))
    to_road = np.linalg.norm(target_road - mean_colour(source, ROAD))
    assert to_sidewalk < to_road


def test_unknown_domain_is_refused():
    with pytest.raises(ValueError, match=r"'both'.*source, target"):
        render("both", 0, "a", 0, 32, 64)


def class_shares(domain, count=60, **shifts):
    labels = np.stack([label for _, label in scenes(domain, count, **shifts)])
    counts = np.bincount(labels.ravel(), minlength=256)[: len(CLASSES)]
    return dict(zip(CLASSES, counts / counts.sum(), strict=True))


def test_label_shift_changes_shares_and_places_in_the_target_alone():
    (image, label), (shifted_image, shifted_label) = (scenes("source", 1, label_shift=shift)[0] for shift in (0.0, 1.0))
    np.testing.assert_array_equal(image, shifted_image)
    np.testing.assert_array_equal(label, shifted_label)
    before, after = class_shares("target"), class_shares("target", label_shift=1.0)
    for name in ("building", "car", "person"):
        assert after[name] < 0.7 * before[name], name
    for name in ("sidewalk", "vegetation", "terrain"):
        assert after[name] > 1.7 * before[name], name
    horizons = [
        np.mean([np.nonzero((label == ROAD).any(1))[0][0] for _, label in scenes("target", 20, label_shift=shift)])
        for shift in (0.0, 0.5, 1.0)
    ]
    assert horizons[0] - 2 > horizons[1] > horizons[2] + 2  # Rows of 64.


def test_layouts_between_city_and_suburb():
    assert layout.between(0.0) == layout.CITY
    assert layout.between(1.0) == layout.SUBURB
    half = layout.between(0.5)
    assert half.hedge_share == 0.5
    assert half.trees == (4, 8)  # 4 and 7.5, rounded.
    assert half.verge_width == (2.5, 7.0)
