"""Reports of the metrics, and warnings about discriminators and teacher."""

import json
import math

import numpy as np
import pytest

from ass_jax.runtime.console import format_seconds
from ass_jax.runtime.workdir import METRICS
from ass_jax.training.metric_writer import MetricWriter
from ass_jax.training.monitor import DivergedError, Monitor
from configs import base


class Silent:
    def write_scalars(self, step, scalars):
        pass


def monitor(tmp_path, start=0, **settings):
    config = base.get_config("ass")
    config.update_from_flattened_dict(settings)
    return Monitor(
        config, MetricWriter(Silent(), tmp_path, start), start, {"source": {"image": np.zeros((3, 1, 1, 3))}}
    )


def metrics(loss=0.4, accuracy=0.8, name="global"):
    return {
        f"loss/{name}": 1.0,
        f"loss/{name}_discriminator": loss,
        f"accuracy/{name}_discriminator": accuracy,
        "skipped": 0.0 if math.isfinite(loss) else 1.0,
    }


def feed(watch, steps, **values):
    for step in range(1, steps + 1):
        watch.add(metrics(**values))
        watch.report(step)


@pytest.mark.parametrize(
    ("values", "settings", "word"),
    [
        ({"accuracy": 1.0, "loss": 0.01}, {}, "global discriminator has won"),
        ({"accuracy": 0.5, "loss": math.log(2)}, {}, "global discriminator has learnt nothing"),
        ({"loss": math.log(2), "name": "semantic"}, {}, "semantic discriminator has learnt nothing"),
        ({"loss": 0.25}, {"loss.global_kind": "least_squares"}, "global discriminator has learnt nothing"),
        (
            {"loss": math.log(2), "name": "semantic"},
            {"loss.semantic_outputs": "class_domain"},
            "semantic discriminator has learnt nothing",
        ),
    ],
)
def test_one_warning_about_a_useless_discriminator_after_ten_reports(tmp_path, caplog, values, settings, word):
    watch = monitor(tmp_path, **settings)
    feed(watch, 9, **values)
    assert word not in caplog.text
    feed(watch, 11, **values)
    assert caplog.text.count(word) == 1


def test_no_warning_about_balanced_discriminators(tmp_path, caplog):
    feed(monitor(tmp_path), 30, loss=0.4, accuracy=0.8)
    assert caplog.text == ""


def test_one_warning_about_a_teacher_without_confident_pixels(tmp_path, caplog):
    watch, word = monitor(tmp_path, **{"teacher.threshold": 0.97}), "Lower teacher.threshold, now 0.97."
    shares = [0.0] * 9 + [0.01] + [0.009] * 9
    for step, share in enumerate(shares, start=1):
        watch.add(metrics() | {"teacher/confident": share})
        watch.report(step)
    assert word not in caplog.text
    for step in range(20, 40):
        watch.add(metrics() | {"teacher/confident": 0.009})
        watch.report(step)
    assert caplog.text.count(word) == 1
    assert "Less than 1% of the teacher's pixels are confident" in caplog.text


def test_report_is_the_mean_of_its_steps(tmp_path, capsys):
    watch = monitor(tmp_path, steps=10)
    watch.add(metrics(loss=0.2))
    watch.add(metrics(loss=0.6))
    watch.report(2)
    (line,) = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert line["step"] == 2
    assert line["loss/global_discriminator"] == pytest.approx(0.4)
    assert "step 2/10" in (shown := capsys.readouterr().out)
    assert "global_discriminator 0.400" in shown
    assert "images/s" in shown
    assert "left" in shown


def test_resumed_log_drops_repeated_steps_and_a_torn_line(tmp_path):
    kept = [{"step": 1, "a": 1.0}, {"step": 2, "a": 2.0}]
    (tmp_path / METRICS).write_text("".join(json.dumps(line) + "\n" for line in [*kept, {"step": 3}]) + '{"st')
    monitor(tmp_path, start=2)
    assert [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()] == kept


def test_skipped_steps_are_named_counted_and_left_out_of_the_means(tmp_path, caplog):
    watch = monitor(tmp_path, start=5)
    for loss in (0.2, math.nan, 0.4):
        watch.add(metrics(loss=loss))
    watch.report(8)
    assert "Step 7: loss/global_discriminator not finite; its update was skipped, 1 so far." in caplog.text
    line = json.loads((tmp_path / METRICS).read_text())
    assert line["loss/global_discriminator"] == pytest.approx(0.3)
    assert line["skipped"] == 1


def test_too_many_skipped_steps_in_a_row_end_the_run(tmp_path):
    watch = monitor(tmp_path, skipped_limit=3)
    for step, losses in enumerate([(math.nan, math.inf), (0.1, math.nan), (math.nan,)]):
        for loss in losses:
            watch.add(metrics(loss=loss))
        watch.report(step)
    watch.add(metrics(loss=math.nan))
    with pytest.raises(DivergedError, match=r"loss/global_discriminator not finite.*3 updates in a row"):
        watch.report(6)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (125, "2:05"), (3723, "1:02:03")])
def test_durations_are_readable(seconds, text):
    assert format_seconds(seconds) == text
