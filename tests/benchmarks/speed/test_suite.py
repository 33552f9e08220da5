"""What `make bench` runs, stores and reports."""

import json

import pytest

from benchmarks.common.parts import Part, run_all
from benchmarks.speed import report, scaling, suite

SECONDS = {"median": 0.5, "lower": 0.4, "upper": 0.6, "samples": 5}
FACTS = {"cpu": "abacus", "cores": 2, "memory_gib": 1, "system": "wood", "python": "3"}
MACHINE = FACTS | {"packages": {"jax": "1.0"}, "devices": "1 cpu"}
STEP = {
    "command": "python -m benchmarks.speed.step",
    "machine": MACHINE,
    "platform": "cpu",
    "devices": 1,
    "config": "configs/toy.py:ass",
    "backbone": "resnet_tiny",
    "dtype": "float32",
    "classes": 10,
    "streams": {"source": [1, 64, 128], "labelled": [1, 64, 128]},
    "images_per_step": 2,
    "steps_of_run": 3600,
    "seconds": SECONDS,
    "images_per_second": 4.0,
    "compile_seconds": 7.0,
    "tflop": 0.1,
    "tflop_per_second": 0.2,
    "limit_tflop_per_second": 0.4,
    "share_of_limit": 0.5,
    "memory": {"device": None, "compiled": 2**29, "process": 2**31},
}
PEER = {"setting": "channels_last", "seconds": SECONDS, "images_per_second": 2.0, "machine": MACHINE}
PEER["memory"] = {"device": None, "process": 2**30}
RESULTS = {
    "step_toy": STEP,
    "compare_toy": {
        "command": "python -m benchmarks.speed.against_pytorch",
        "ratio": {"median": 1.5, "lower": 1.25, "upper": 1.75, "samples": 5},
        "sides": {"jax": STEP | {"cores": {"median": 1.9}}, "torch": PEER | {"cores": {"median": 1.8}}},
        "tried": {"plain": 1.25, "compile": "exit code 1\nno compiler"},
    },
    "largest_jax_float32": {
        "command": "python -m benchmarks.speed.largest",
        "machine": MACHINE,
        "framework": "jax",
        "dtype": "float32",
        "images_per_stream": 2,
        "trials": {"1": STEP, "2": STEP},
    },
    "evaluate_toy": {
        "command": "python -m benchmarks.speed.evaluation",
        "machine": MACHINE,
        "backbone": "resnet_tiny",
        "dtype": "float32",
        "batch": 2,
        "image_size": [64, 128],
        "label_size": [64, 128],
        "views": {"scales": [1.0], "flip": True, "window": [0, 0], "stride": [0, 0]},
        "evaluation": {"seconds": SECONDS, "images_per_second": 4.0, "memory": STEP["memory"]},
        "prediction": {"seconds": SECONDS, "images_per_second": 4.0, "memory": STEP["memory"]},
    },
    "input": {
        "command": "python -m benchmarks.speed.input",
        "machine": MACHINE,
        "config": "configs/toy.py",
        "records": [
            {"set": "gta5", "size": [720, 1280], "augmentation": "none", "cores": 2}
            | {"rate": 90.0, "rate_per_core": 45.0, "decoder": 100.0, "share": 0.9}
        ],
        "loading": dict.fromkeys(("constant", "loaded", "alone", "share", "hidden"), SECONDS),
    },
    "start_toy": {
        "command": "python -m benchmarks.speed.start",
        "machine": MACHINE,
        "config": "configs/toy.py",
        "backbone": "resnet_tiny",
    }
    | {name: SECONDS | {"median": median} for name, median in (("help", 0.2), ("compiling", 31.4), ("kept", 12.0))},
    "scaling/pixels_64x128": STEP,
    "scaling/pixels_128x256": STEP | {"streams": {"source": [1, 128, 256]}},
    "scaling/devices_2": STEP | {"devices": 2},
}


def test_report_of_stored_results(tmp_path):
    suite.write(RESULTS, tmp_path)
    text = (tmp_path / "performance.md").read_text()
    assert json.loads((tmp_path / "performance.json").read_text()) == RESULTS
    assert (tmp_path / "performance.png").stat().st_size > 0
    assert "| ass, resnet_tiny, float32, 1 source 64×128, 1 labelled 64×128 | 4.00 | 2.00 (`channels_last`) " in text
    assert "**1.50** (1.25 to 1.75)" in text
    assert "| 0.2 | 50% | 2.0 and 1.0 | 1.9 and 1.8 |" in text
    assert "`plain` 1250, `compile` failed (exit code 1)" in text
    assert "| 500.0 (400.0 to 600.0) | 4.00 | 0.1 | 0.2 | 50% of 0.4 | 0.5 | 7 | 3,600: 0.5 h |" in text
    assert "| ours, float32 | **2** |" in text
    assert "to 64×128, flip True | 4.00 |" in text
    assert "| 2 | 90.0 | 45.0 | 100.0 | 90% |" in text
    assert "| configs/toy.py, resnet_tiny | 0.2 | 31 | 12 |" in text
    assert "share the cores" in text
    assert text.count("On abacus") == 1
    assert "python -m benchmarks.speed.against_pytorch" in text


def test_precisions_of_one_benchmark_are_separate_cases():
    case = RESULTS["compare_toy"]
    low = case | {"sides": case["sides"] | {"jax": case["sides"]["jax"] | {"dtype": "bfloat16"}}}
    both = {"compare_paper": {"command": "python -m benchmarks.speed.precisions", "precisions": {"a": low, "b": case}}}
    text = report.markdown(both, {})
    assert "resnet_tiny, bfloat16" in text
    assert "resnet_tiny, float32" in text
    assert text.count("python -m benchmarks.speed.precisions") == 1


def test_the_index_of_results_shows_both_kinds_of_machine(ran_parts, tmp_path, monkeypatch):
    folder = tmp_path / "docs/results"
    folder.mkdir(parents=True)
    (folder / "index.md").write_text("<!-- speed -->\nold\n<!-- /speed -->\n")
    monkeypatch.setattr(suite.machine, "describe", lambda _: MACHINE)
    suite.write(RESULTS, folder, "performance_gpu")
    suite.write(RESULTS, folder)
    monkeypatch.setattr(Part, "result", lambda part, _: RESULTS.get(part.name))
    assert suite.main(["--report_only"], root=tmp_path) == 0
    assert (folder / "index.md").read_text().count("| training step |") == 2
    assert (folder / "performance_gpu.json").exists()


def test_short_table():
    text = report.short_table(RESULTS)
    assert "64×128 | 4.00 | 2.00 | 1.50 |" in text
    assert text.endswith("devices of JAX: cpu.")
    assert report.short_table({}) == ""


def test_report_without_results():
    assert "How it was measured" in report.markdown({}, {})


@pytest.mark.parametrize("parts", [suite.parts_of_cpu(), suite.parts_of_accelerator(4)])
def test_parts_have_unique_names_and_their_own_commands(parts):
    assert len({part.name for part in parts}) == len(parts)
    assert all(part.command.startswith(f"python -m benchmarks.{part.module} ") for part in parts)
    assert sum(part.seconds for part in parts if part.name.startswith("scaling/")) > 0


def test_scaling_uses_only_available_devices():
    names = {part.name for part in scaling.parts("gpu", 2)}
    assert {"scaling/devices_1", "scaling/devices_2"} <= names
    assert "scaling/devices_4" not in names
    assert not any(part.name.startswith("scaling/devices") for part in scaling.parts("gpu", 1))


def test_accelerators_are_counted():
    found = {"cpu": 0, "1 cpu": 0, "unknown": 0, "8 NVIDIA H100": 8}
    assert {text: suite.accelerators(text) for text in found} == found


@pytest.fixture
def ran_parts(monkeypatch):
    """Makes parts write a result without measuring; returns the names of those that ran, in order."""
    ran = []

    def run(part, folder):
        ran.append(part.name)
        if part.name == "bad":
            return "exit code 1"
        (folder / f"{part.name}.json").write_text(json.dumps({"command": part.command}))
        return ""

    monkeypatch.setattr(Part, "run", run)
    return ran


def test_results_are_stored(ran_parts, tmp_path, capsys):
    parts = [Part(name, "speed.step", (f"--config={name}",), 10) for name in ("one", "bad", "two")]
    assert set(run_all(parts, tmp_path)) == {"one", "two"}
    assert "FAILED: python -m benchmarks.speed.step --config=bad" in capsys.readouterr().err
    run_all(parts, tmp_path)
    assert ran_parts == ["one", "bad", "two", "bad"]
    run_all(parts[:1], tmp_path, fresh=True)
    assert ran_parts[4:] == ["one"]
    run_all([Part("one", "speed.step", ("--config=other",), 10)], tmp_path)
    assert ran_parts[5:] == ["one"]


def test_a_part_that_fails_shows_its_log(tmp_path):
    problem = Part("bad", "speed.step", ("--config=nowhere.py",), 1).run(tmp_path)
    assert "exit code 2" in problem
    assert "no configuration file" in problem
