"""The public names of the package: imported on first use, and complete."""

import subprocess
import sys
from pathlib import Path

import pytest

import ass_jax

ROOT = Path(__file__).parent.parent


def test_importing_the_package_imports_no_library():
    program = "import ass_jax, sys; print([name for name in ('jax', 'flax', 'numpy') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout == "[]\n", result.stderr


def test_names_are_there():
    for name in ass_jax.__all__:
        assert getattr(ass_jax, name).__name__ == name
    assert set(ass_jax.__all__) == {"Predictor", "class_means", "evaluate", "open_run", "train"}
    assert set(ass_jax.__all__) <= set(dir(ass_jax))


def test_an_unknown_name_lists_the_public_ones():
    with pytest.raises(AttributeError, match=r"no attribute 'trian'; public names: Predictor, .*, train\."):
        _ = ass_jax.trian
