"""The notebook's cells run unchanged but for the size; the notebook has no outputs."""

import json
import subprocess
import sys
from pathlib import Path

from tests.helpers import quick_compilation

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "notebooks" / "ass_colab.ipynb"
# Replaced for the test: a small run, outside the project.
CHANGES = {
    'config = toy.get_config("ass")': 'config = toy.get_config("ass,smoke")',
    "config.steps = config.optimizer.decay_steps = 200": "config.steps = config.optimizer.decay_steps = 2",
    "photographs = root / medical.data.target_root": "photographs = Path('nowhere')",
    'workdir = Path("runs/notebook")': "workdir = Path(os.environ['NOTEBOOK_WORKDIR'])",
}


def cells():
    return json.loads(NOTEBOOK.read_text())["cells"]


def test_outputs_are_cleared():
    for cell in cells():
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None


def test_cells_run(tmp_path):
    script = "\n\n".join("".join(cell["source"]) for cell in cells() if cell["cell_type"] == "code")
    for whole, small in CHANGES.items():
        assert script.count(whole) == 1, whole
        script = script.replace(whole, small)
    environment = quick_compilation.environment(
        NOTEBOOK_WORKDIR=str(tmp_path / "run"),
        TFDS_DATA_DIR=str(tmp_path / "data"),
        MPLBACKEND="agg",
        PYTHONPATH=str(ROOT),  # As if the project were installed.
    )
    # Jupyter starts in the notebook's folder.
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=NOTEBOOK.parent, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "Installing" not in result.stdout
    assert "mIoU" in result.stdout
    assert "Mean probability of the labels: " in result.stdout
    assert "To train, run first: git clone" in result.stdout
    assert {"classes.json", "config.json", "eval.json", "model.safetensors", "predictions.png"} <= {
        path.name for path in (tmp_path / "run").iterdir()
    }
