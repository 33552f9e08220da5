"""The command that writes a report."""

import json

import pytest

from ass_jax.evaluation.report.__main__ import main
from tests.evaluation.report.test_page import LADDER
from tests.helpers.report_runs import Page, write_run


def test_where_reports_are_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runs = [str(write_run(tmp_path / name, name, evaluated=False)) for name in ("joint", "ass")]
    (tmp_path / "ladder.json").write_text(json.dumps(LADDER))
    assert main(runs[:1]) == 0
    assert capsys.readouterr().out == f"Report: {tmp_path}/joint/report.html\n"
    assert main(runs) == 0
    assert capsys.readouterr().out == "Report: report.html\n"
    assert "2 runs side by side" in Page((tmp_path / "report.html").read_text()).words
    assert main([runs[0], "ladder.json", "--output=both.html"]) == 0
    words = Page((tmp_path / "both.html").read_text()).words
    assert "Paired differences" in words
    assert "joint" in words
    monkeypatch.setenv("HOME", str(tmp_path / "joint"))
    assert main([runs[0], "--output=~/home.html"]) == 0
    assert (tmp_path / "joint" / "home.html").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "Writes a report: python -m ass_jax.evaluation.report RUN"),
        (["--help"], "Writes a report: python -m ass_jax.evaluation.report RUN"),
        (["absent"], "absent: expected the working directory of a run"),
        (["run", "--output=absent/a.html"], "absent/a.html cannot be written"),
        (["run", "--output=a", "--output=b"], "Writes a report"),
        (["note.txt"], "note.txt: it is not JSON"),
    ],
)
def test_mistakes_are_told(tmp_path, monkeypatch, capsys, arguments, told):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "run", evaluated=False)
    (tmp_path / "note.txt").write_text("note")
    assert main(arguments) == 2
    assert told in capsys.readouterr().err
