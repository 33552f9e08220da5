"""Imports point one way: main -> data, ass_jax; data and ass_jax never import each other."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = ("main", "ass_jax", "configs", "data", "tests", "benchmarks")

# What a package may import of ours; a file with its own entry may import just that.
ALLOWED = {
    "main": ("configs", "data", "ass_jax"),
    "configs": ("configs",),
    "data": ("data",),
    "data.labels": (),
    "ass_jax": ("ass_jax",),
    "benchmarks": ("ass_jax", "benchmarks", "configs", "data"),
    "ass_jax.losses": (),
    "ass_jax.metrics": (),
    "ass_jax.ops": ("ass_jax.ops",),
    "ass_jax.semantic": ("ass_jax.resize",),
}
# The only places that may import a library.
OWNERS = {
    "tensorflow": "data",
    "tensorflow_datasets": "data",
    "array_record": "data",
    "orbax": "ass_jax.checkpoint",
}


def within(name, package):
    return name == package or name.startswith(f"{package}.")


def source_files():
    """Returns the file of every module of ours, by dotted name."""
    files = [ROOT / "main.py"]
    for top in ("ass_jax", "benchmarks", "configs", "data"):
        files += sorted((ROOT / top).rglob("*.py"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]
    return dict(zip(names, files, strict=True))


FILES = source_files()


def imports_of(name, source, modules=FILES):
    """Returns the full names that a module's source imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively; write the full name."
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in modules else node.module)
    return found


IMPORTS = {name: imports_of(name, file.read_text()) for name, file in FILES.items()}


def wrong_imports(name, imports):
    """Returns the imports that `name` must not have."""
    rule = max((package for package in ALLOWED if within(name, package)), key=len)
    wrong = {
        imported
        for imported in imports
        if any(within(imported, top) for top in OURS)
        and not any(within(imported, allowed) for allowed in ALLOWED[rule])
    }
    return wrong | {
        imported
        for imported in imports
        for library, owner in OWNERS.items()
        if within(imported, library) and not within(name, owner)
    }


@pytest.mark.parametrize("name", FILES)
def test_imports_point_one_way(name):
    assert wrong_imports(name, IMPORTS[name]) == set()


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("ass_jax.train", "from data import labels", {"data.labels"}),
        ("data.pipeline", "def late():\n    import ass_jax.steps", {"ass_jax.steps"}),
        ("ass_jax.losses", "from ass_jax import resize", {"ass_jax.resize"}),
        ("ass_jax.semantic", "from ass_jax import resize", set()),
        ("ass_jax.train", "from orbax import checkpoint", {"orbax"}),
        ("ass_jax.train", "import tensorflow as tf", {"tensorflow"}),
        ("main", "import tensorflow", {"tensorflow"}),
        ("data.pipeline", "import tensorflow", set()),
    ],
)
def test_the_rule_itself(name, source, expected):
    modules = {"data.labels", "ass_jax.resize"}
    assert wrong_imports(name, imports_of(name, source, modules)) == expected


def test_no_import_cycles():
    done = set()

    def visit(name, path):
        assert name not in path, f"Import cycle: {' -> '.join([*path, name])}."
        if name not in done:
            for imported in sorted(IMPORTS[name] & FILES.keys()):
                visit(imported, [*path, name])
            done.add(name)

    for name in FILES:
        visit(name, [])


def test_method_needs_no_tensorflow():
    """TensorFlow takes seconds to import; a notebook that only predicts should not wait for it."""
    modules = [name for name in FILES if within(name, "ass_jax") or within(name, "configs")]
    program = (
        f"import importlib, sys\nfor name in {modules}: importlib.import_module(name)\n"
        "print([name for name in ('tensorflow', 'tensorflow_datasets', 'data') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"
