"""Curves of `metrics.jsonl`: what is read, what is thinned out, and what stands in one plot."""

import json

import numpy as np
import pytest

from ass_jax.evaluation.report.curves import Curve, by_plot, parse_curves, read_curves, thin


def lines(*entries):
    return [entry if isinstance(entry, str) else json.dumps(entry) for entry in entries]


def test_later_values_of_a_step_count():
    """A killed run went on from step 20, and had left step 30."""
    before = [{"step": step, "loss/global": 1.0} for step in (10, 20, 30)]
    after = [{"step": step, "loss/global": 2.0} for step in (30, 40)]
    curves, damaged = parse_curves(lines(*before, *after, {"step": 40, "validation/mIoU_toy": 0.5}))
    assert damaged == 0
    assert curves["loss/global"].steps.tolist() == [10, 20, 30, 40]
    assert curves["loss/global"].values.tolist() == [1, 1, 2, 2]
    assert curves["validation/mIoU_toy"].steps.tolist() == [40]


def test_torn_and_foreign_lines_are_counted_and_left_out():
    wrong = ['{"step": 3, "loss/glo', "[1]", '{"loss/global": 1}', '{"step": "4"}', '{"step": true}', '{"step": -1}']
    curves, damaged = parse_curves(lines({"step": 2, "loss/global": 1.5}, "", *wrong))
    assert damaged == len(wrong)
    assert list(curves) == ["loss/global"]
    assert curves["loss/global"].steps.tolist() == [2]


def test_what_is_no_finite_number_is_a_gap():
    values = ["NaN", "Infinity", "-Infinity", "null", "2.5"]
    text = [f'{{"step": {step}, "loss/global": {value}}}' for step, value in enumerate(values)]
    text += ['{"step": 5, "loss/global": "<b>"}', f'{{"step": 6, "loss/global": 1{"0" * 400}}}']
    curve = parse_curves(text)[0]["loss/global"]
    np.testing.assert_array_equal(curve.values, [np.nan] * 4 + [2.5] + [np.nan] * 2)


def test_missing_and_strange_files(tmp_path):
    assert read_curves(tmp_path / "metrics.jsonl") == ({}, 0)
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1, "loss/global": 2}\n\xff\xfe{"st')
    curves, damaged = read_curves(tmp_path / "metrics.jsonl")
    assert (curves["loss/global"].values.tolist(), damaged) == ([2], 1)


def test_thinning_keeps_ends_peaks_and_gaps():
    values = np.sin(np.arange(3000) / 50)
    values[1234], values[2345], values[500:520] = 9, -9, np.nan
    steps = 50 * np.arange(1, 3001)
    found = thin(Curve(steps, values), 302)
    assert len(found.steps) <= 302
    assert (found.steps[0], found.steps[-1]) == (50, 150_000)
    assert (np.nanmax(found.values), np.nanmin(found.values)) == (9, -9)
    assert found.steps[np.nanargmax(found.values)] == 50 * 1235
    assert (np.diff(found.steps) > 0).all()
    assert np.isnan(found.values).sum() == 1  # Bins of 20 values: that of 500 to 519 has nothing else.


def test_thinning_takes_the_lowest_and_the_highest_of_each_bin():
    values = np.array([5.0, 1, 3, 4, 6, 2, 9, 7, 0, 8])
    found = thin(Curve(np.arange(10), values), 6)  # Two bins of five, and the ends.
    assert found.steps.tolist() == [0, 1, 4, 6, 8, 9]
    assert found.values.tolist() == [5, 1, 6, 9, 0, 8]


@pytest.mark.parametrize("count", [0, 1, 6])
def test_short_curves_stay(count):
    curve = Curve(np.arange(count), np.ones(count))
    assert thin(curve, 6) is curve


def test_metrics_of_one_kind_share_a_plot():
    names = [
        "loss/global",
        "images_per_second",
        "validation_IoU/road",
        "validation/mIoU_toy",
        "validation_average/mIoU_toy",
        "validation/dice_by_image",
        "validation/images",
        "gradient_norm/segmenter",
        "loss/segmentation_source",
    ]
    plots = by_plot({name: Curve(np.array([1]), np.array([0.5])) for name in names})
    assert {title: list(plot) for title, plot in plots.items()} == {
        "mIoU in %": ["mIoU toy, validation", "mIoU toy, teacher"],
        "Other scores in %": ["Dice by image, validation"],
        "IoU by class in %, validation": ["road"],
        "Losses": ["global", "segmentation source"],
        "Gradient norm": ["segmenter"],
        "Images per second": ["images per second"],
    }
    assert list(plots)[:3] == ["mIoU in %", "Other scores in %", "IoU by class in %, validation"]
    assert plots["mIoU in %"]["mIoU toy, teacher"].values.tolist() == [50]
    assert plots["Losses"]["global"].values.tolist() == [0.5]
