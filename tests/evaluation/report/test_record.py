"""The record of an evaluation, and that a report that fails ends no run."""

import json

import jax
import numpy as np

from ass_jax.evaluation import evaluate as evaluation
from ass_jax.evaluation.report.record import EvaluationRecord
from tests.helpers.report_runs import class_table, record_of, write_run


def test_record_of_a_pass_over_several_batches():
    """Two batches of two images on four devices, the last one padding; others have a row of their own."""
    labels = np.array([[[0, 0]], [[1, 2]], [[3, 255]], [[2, 2]]], np.uint8)
    predictions = np.array([[[0, 1]], [[1, 2]], [[0, 0]], [[1, 1]]], np.uint8)
    confusions = np.zeros((4, 4, 3), np.int32)
    for image, true, predicted in ((0, 0, 0), (0, 0, 1), (1, 1, 1), (1, 2, 2), (2, 3, 0), (3, 2, 1), (3, 2, 1)):
        confusions[image, true, predicted] += 1
    names = np.array(["a", "b", "", "d"])
    table, mesh = class_table(others=("van",)), evaluation.make_mesh([])
    record = EvaluationRecord(table)

    def batches():
        for part in (slice(0, 2), slice(2, 4)):
            valid = np.array([True, part.start == 0])
            yield {
                "image": np.zeros((2, 1, 2, 3), np.uint8),
                "label": labels[part],
                "valid": valid,
                "name": names[part],
            }

    def step(variables, batch):
        """Knows the answers of the images by their labels; the device's padding has none."""
        given = np.asarray(batch["label"]).tolist()
        images = [labels.tolist().index(label) if label in labels.tolist() else 2 for label in given]
        found = jax.device_put(predictions[images], batch["label"].sharding)
        return confusions[images], batch["valid"], found

    evaluation.score(
        {}, batches(), step=step, mesh=mesh, class_table=table, visit=record.visit, take_total=record.take_total
    )
    assert record.confusion.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]]
    chosen = [
        (e.name, e.score, e.label.tolist(), e.prediction.tolist()) for k in record.examples.chosen().values() for e in k
    ]
    # The third image has no pixel of a class that is scored, the fourth is padding.
    assert chosen == [("a", 0.25, [[0, 0]], [[0, 1]]), ("b", 1.0, [[1, 2]], [[1, 2]])]


def test_images_without_a_name_are_numbered():
    record = EvaluationRecord(class_table())
    blank = np.zeros((1, 1), np.uint8)
    for _ in range(2):
        record.visit("", np.zeros((1, 1, 3), np.uint8), blank, blank, np.diag([1, 0, 0]))
    assert [example.name for example in record.examples.chosen()["worst"]] == ["image 1"]


def test_a_report_is_written_by_the_first_process_alone(tmp_path, monkeypatch):
    record, scores = record_of()
    write_run(tmp_path / "run", evaluated=False)
    before = sorted(file.name for file in (tmp_path / "run").iterdir())
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    record.report(tmp_path / "run", scores)
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == before == ["config.json", "metrics.jsonl"]
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    record.report(tmp_path / "run", scores | {"split": "test"})
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == [*before, "report.html", "report_test.json"]
    assert json.loads((tmp_path / "run/report_test.json").read_text())["confusion"] == [
        [26, 6, 0],
        [0, 0, 0],
        [0, 0, 0],
    ]


def test_a_report_that_fails_is_told_in_a_line(tmp_path, monkeypatch, capsys):
    record, scores = record_of()
    record.report(tmp_path, scores)
    before = (tmp_path / "report.html").read_text()
    monkeypatch.setattr("ass_jax.evaluation.report.page.run_page", lambda workdir: 1 / 0)
    record.report(tmp_path, scores)
    told = "report.html could not be written; the run is not affected: ZeroDivisionError: division by zero\n"
    assert capsys.readouterr().out == f"{tmp_path}/{told}"
    assert (tmp_path / "report.html").read_text() == before
    record.report(tmp_path / "absent", scores)
    assert "No such file or directory" in capsys.readouterr().out
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []
