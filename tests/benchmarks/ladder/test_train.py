"""The ladder from its command line to its report, with a stand-in for the training program."""

import json
import sys

import pytest

from benchmarks.common import machine
from benchmarks.common.runs import plan
from benchmarks.ladder import train as ladder

# Fails for the variant named by its first argument; for others, writes the files of a training run.
PROGRAM = """
import json, os, pathlib, shutil, sys
given = dict(argument.split("=", 1) for argument in sys.argv[2:])
variant = given["--config"].split(":")[1]
print("training", variant)
print("programs in", os.environ["JAX_COMPILATION_CACHE_DIR"])
if variant == sys.argv[1]:
    print("a last word")
    sys.exit(3)
folder = pathlib.Path(given["--workdir"])
shutil.copyfile(folder.parent / f"{folder.name}.json", folder / "config.json")
score = {"joint": 0.5, "ass": 0.625}[variant]
scores = {"variant": variant, "step": 1500, "class_iou": {"road": score}, "mean_iou": {"toy": score}}
(folder / "eval.json").write_text(json.dumps(scores))
(folder / "predictions.png").write_bytes(folder.name.encode())
"""
FEW = "--variants=joint,ass"


@pytest.fixture
def climb(tmp_path, request, monkeypatch):
    """Returns a function that runs the ladder in an empty repository."""
    monkeypatch.chdir(request.config.rootpath)
    monkeypatch.setattr(machine, "describe", lambda environment: {"packages": {}} | dict.fromkeys(FACTS, "?"))
    for run in plan("configs/toy.py", ["joint", "ass"], [0, 1], [], tmp_path / "runs"):
        run.folder.parent.mkdir(exist_ok=True)
        (run.folder.parent / f"{run.folder.name}.json").write_text(run.config.to_json())

    def climb(*arguments, fails=""):
        command = (sys.executable, "-c", PROGRAM, fails)
        given = ["--seeds=0,1", "--jobs=2", f"--workdir={tmp_path}/runs", *arguments]
        return ladder.main(given, command=command, root=tmp_path)

    return climb


FACTS = ("cpu", "cores", "memory_gib", "system", "python", "devices")


def test_trains_reports_and_skips_finished_runs(climb, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")  # A folder chosen by the user would be used.
    assert climb(FEW) == 0
    output = capsys.readouterr().out
    assert "4 runs, 0 finished earlier" in output
    lines = [line for line in output.splitlines() if "/4  " in line]
    assert len(lines) == 4
    assert any("ass seed 1: mIoU 62.5 %, 0:0" in line and "left)" in line for line in lines)
    assert "`ass` − `joint` | +12.5 ± 0.0" in (tmp_path / "runs/ladder.md").read_text()
    assert (
        json.loads((tmp_path / "runs/ladder.json").read_text())["variants"]["ass"]["mean_iou"]["toy"]["mean"] == 0.625
    )
    assert (tmp_path / "runs/ladder.png").stat().st_size > 1000
    assert (tmp_path / "runs/predictions.png").read_bytes() == b"ass_seed0"
    lines = {file.read_text().splitlines()[1] for file in (tmp_path / "runs").glob("*/log.txt")}
    assert lines == {f"programs in {tmp_path}/runs/compilation_cache"}  # All share them.
    # Only part of the variants: no report for the documentation.
    assert not (tmp_path / "docs").exists()

    (tmp_path / "runs/joint_seed1/eval.json").unlink()
    assert climb(FEW, fails="ass") == 0  # It is finished, so its program is not called.
    assert "4 runs, 3 finished earlier" in capsys.readouterr().out
    logs = {
        folder.name: (folder / "log.txt").read_text().count("training") for folder in (tmp_path / "runs").glob("*_*/")
    }
    assert logs == {"joint_seed0": 1, "joint_seed1": 2, "ass_seed0": 1, "ass_seed1": 1}


def test_failed_run_is_reported_and_the_others_continue(climb, tmp_path, capsys):
    assert climb(FEW, fails="joint") == 1
    output, errors = capsys.readouterr()
    assert "joint seed 0: FAILED, exit code 3" in output
    assert "      | a last word" in output
    assert "2 runs failed: " in errors
    assert "**Missing: joint seed 0, joint seed 1.**" in (tmp_path / "runs/ladder.md").read_text()


def test_whole_ladder_goes_to_the_documentation(climb, tmp_path, capsys, monkeypatch, finish):
    (tmp_path / "README.md").write_text("<!-- ladder -->\n<!-- /ladder -->\n")
    for run in plan("configs/toy.py", list(ladder.VARIANTS), [0, 1], [], tmp_path / "runs"):
        finish(run, 0.5)
    assert climb("--report_only") == 0
    folder, readme = tmp_path / "docs/results/ladder", (tmp_path / "README.md").read_text()
    assert sorted(file.name for file in folder.iterdir()) == ["ladder.json", "ladder.md", "ladder.png"]
    assert "`ass_plus`" in readme
    assert "`ass_all`" not in readme
    assert "python -m benchmarks.ladder.train --seeds=0,1`" in (folder / "ladder.md").read_text()


def test_counts_apply_to_variants_with_some_target_labels(climb, tmp_path, finish):
    rows = ["source_only", "joint,4", "joint,16", "oracle"]
    for run in plan("configs/toy.py", rows, [0, 1], [], tmp_path / "runs"):
        finish(run, 0.5)
    assert climb("--variants=source_only,joint,oracle", "--counts=4,16", "--report_only") == 0
    text = (tmp_path / "runs/ladder.md").read_text()
    assert "from 8 finished runs of 8" in text
    assert "ladder.train --variants=source_only,joint,oracle --seeds=0,1 --counts=4,16`" in text
    assert all(f"| `{row}` |" in text for row in rows)


def test_each_configuration_has_its_folder(request, monkeypatch):
    monkeypatch.chdir(request.config.rootpath)
    for config, folder in (("toy.py", "ladder"), ("toy.py:smoke", "ladder"), ("camvid.py", "ladder_camvid")):
        options, _ = ladder._parse([f"--config=configs/{config}"])
        assert options.workdir.as_posix() == f"runs/{folder}"


def test_report_goes_to_the_output_folder(climb, tmp_path):
    assert climb(FEW, f"--output={tmp_path}/else/where") == 0
    files = ["ladder.json", "ladder.md", "ladder.png", "predictions.png"]
    assert sorted(file.name for file in (tmp_path / "else/where").iterdir()) == files
    assert not (tmp_path / "runs/ladder.md").exists()


def test_report_only_trains_nothing(climb, tmp_path, capsys):
    assert climb(FEW, "--report_only") == 1
    assert "No run has finished" in capsys.readouterr().err
    assert not list((tmp_path / "runs").glob("*/"))


def test_runs_with_other_settings_are_an_error(climb, tmp_path, capsys):
    assert climb(FEW) == 0
    assert climb(FEW, "--config.steps=10") == 2
    assert "steps 1500 there, 10 here" in capsys.readouterr().err
    assert climb(FEW, "--config.data.directory=/elsewhere") == 0
    assert "elsewhere" not in (tmp_path / "runs/ladder.md").read_text() + (tmp_path / "runs/ladder.json").read_text()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--variants=ass,as", "unknown variant 'as'"),
        ("--variants=ass,ass", "named twice"),
        ("--seeds=0,one", "expected numbers"),
        ("--seeds=", "--seeds=: expected numbers such as 0,1,2"),
        ("--counts=4,all", "--counts=4,all: expected numbers such as 4,8,16"),
        ("--counts=4,4", "--counts: one is named twice"),
        ("--jobs=0", "expected 1 or more"),
        ("--config.seed=4", "set by the ladder"),
        ("--config.steps", "--config.KEY=VALUE"),
        ("stray", "unexpected argument 'stray'"),
    ],
)
def test_wrong_argument_is_an_error(climb, capsys, argument, message):
    with pytest.raises(SystemExit, match="2"):
        climb(argument)
    assert message in capsys.readouterr().err


def test_counts_and_the_setting_exclude_each_other(climb, capsys):
    with pytest.raises(SystemExit, match="2"):
        climb("--counts=4", "--config.data.labelled_count=8")
    assert "data.labelled_count is set by --counts" in capsys.readouterr().err


def test_unknown_setting_is_an_error(climb, capsys):
    assert climb("--config.stebs=4") == 2
    assert "stebs" in capsys.readouterr().err


def test_machine_is_described_without_its_name():
    facts = machine.describe({"JAX_PLATFORMS": "cpu"})
    assert facts["cores"] == len(machine.usable_cores()) >= 1
    assert facts["devices"] == "cpu"
    assert machine.platform.node() not in machine.describe_in_words(facts).split()
