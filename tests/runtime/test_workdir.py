"""The files of a run: only one module names them, and failed writes report the name."""

import ast
from pathlib import Path

import pytest

from ass_jax.runtime import workdir
from ass_jax.runtime.workdir import make_folder, read_json, replace_text, write_json, writing
from configs.user_error import UserError

ROOT = Path(__file__).parents[2]
NAMES = {value for name, value in vars(workdir).items() if name.isupper()} - {"damaged", "deleted"}


def texts_of(file):
    """Returns the texts in a file's code, without docstrings."""
    tree = ast.parse(file.read_text())
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
    }


def test_only_the_module_of_the_working_directory_names_its_files():
    files = [ROOT / "main.py", *(ROOT / "ass_jax").rglob("*.py")]
    found = {str(file.relative_to(ROOT)): texts_of(file) & NAMES for file in files}
    # "checkpoints" is also a key of the report.
    allowed = {"checkpoints"}
    named = {name: texts - allowed for name, texts in found.items() if texts - allowed}
    assert set(named) == {"ass_jax/runtime/workdir.py"}


def test_failed_writes_name_the_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/new cannot be written \(.*\)\. Make room on the disk"):
        make_folder(tmp_path / "file" / "new")
    with pytest.raises(UserError, match=r"absent/a\.json cannot be written \(No such file or directory\)"):
        write_json(tmp_path / "absent" / "a.json", {})
    with pytest.raises(RuntimeError, match="other"), writing(tmp_path):
        raise RuntimeError("other")


def test_json_round_trip(tmp_path):
    write_json(tmp_path / "a.json", {"a": {"b": [1, None]}, "c": 2})
    assert read_json(tmp_path / "a.json", {"a.b": list, "c": float}) == {"a": {"b": [1, None]}, "c": 2}


def test_a_text_that_is_not_written_to_the_end_leaves_the_one_before(tmp_path):
    file = tmp_path / "report.html"
    replace_text(file, "one\n")
    with pytest.raises(UnicodeEncodeError):
        replace_text(file, "two \udcff")
    assert list(tmp_path.iterdir()) == [file]
    assert file.read_bytes() == b"one\n"
    replace_text(file, "three\n")
    assert file.read_bytes() == b"three\n"
