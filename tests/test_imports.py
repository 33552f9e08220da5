"""Imports point one way: main -> data, ass_jax; data and ass_jax never import each other."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = ("main", "ass_jax", "configs", "data", "tests", "benchmarks")

# The ladder of folders, lowest step first: a folder imports from lower steps and from itself.
LADDERS = {
    "ass_jax": (
        ("class_table", "ops", "visualization"),
        ("runtime",),
        ("models", "checkpoints"),
        ("method",),
        ("weights",),
        ("inference",),
        ("evaluation",),
        ("training",),
    ),
    "data": (
        ("classes",),
        ("streams", "augment"),
        ("raw", "toy"),
        ("datasets",),
        ("preparation",),
        ("reading",),
        ("sampling",),
        ("checking", "pipeline"),
    ),
}
# The project's packages that each package may import; a file with its own entry follows that entry alone.
ALLOWED = {
    "main": ("configs", "data", "ass_jax"),
    "configs": ("configs", "data.classes", "data.datasets", "data.streams"),
    "configs.user_error": (),
    "data": ("data", "configs.user_error"),
    "data.classes": ("configs.user_error",),
    "ass_jax": ("ass_jax", "configs.user_error"),
    "benchmarks": ("ass_jax", "benchmarks", "configs", "data"),
    "ass_jax.method.losses": ("ass_jax.ops",),
    "ass_jax.evaluation.metrics": ("ass_jax.class_table",),
    "ass_jax.ops": ("ass_jax.ops", "configs.user_error"),
    "ass_jax.method.class_means": ("ass_jax.ops",),
}
# The only modules that may import each library.
OWNERS = {
    "tensorflow": ("data.augment", "data.reading", "data.sampling.epoch_order", "data.pipeline"),
    "tensorflow_datasets": ("data.reading",),
    "array_record": ("data.preparation.shards",),
    "orbax": ("ass_jax.checkpoints.manager",),
    "nibabel": ("data.raw.nifti",),
}


def within(name, package):
    return name == package or name.startswith(f"{package}.")


def source_files():
    """Returns the file of every module of the project, by dotted name."""
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


def folder_of(name, top):
    """Returns the folder of a module in the package `top`, or the module itself if it is in none."""
    return name.removeprefix(f"{top}.").partition(".")[0]


def wrong_steps(name, imports):
    """Returns the imports of `name` that do not go down the ladder."""
    top = name.partition(".")[0]
    if top not in LADDERS or name == top:
        return set()
    heights = {folder: height for height, folders in enumerate(LADDERS[top]) for folder in folders}
    own = folder_of(name, top)
    assert own in heights, f"{name}: put {own} on its step of LADDERS."
    below = {imported for imported in imports if within(imported, top) and imported != top}
    return {
        imported
        for imported in below
        if folder_of(imported, top) != own and heights[folder_of(imported, top)] >= heights[own]
    }


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
        for library, owners in OWNERS.items()
        if within(imported, library) and not any(within(name, owner) for owner in owners)
    }


@pytest.mark.parametrize("name", FILES)
def test_imports_point_one_way(name):
    assert wrong_imports(name, IMPORTS[name]) == set()


@pytest.mark.parametrize("name", FILES)
def test_imports_of_folders_form_a_ladder(name):
    assert wrong_steps(name, IMPORTS[name]) == set()


def test_the_ladder_itself():
    assert wrong_steps("ass_jax.method.teacher", {"ass_jax.ops", "ass_jax.method.mixing", "numpy"}) == set()
    assert wrong_steps("ass_jax.models.resnet", {"ass_jax.method.losses"}) == {"ass_jax.method.losses"}
    assert wrong_steps("ass_jax.models.resnet", {"ass_jax.checkpoints"}) == {"ass_jax.checkpoints"}


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("ass_jax.training.loop", "from data import classes", {"data.classes"}),
        ("data.pipeline", "def late():\n    import ass_jax.method.train_step", {"ass_jax.method.train_step"}),
        ("ass_jax.method.losses", "from data import classes", {"data.classes"}),
        ("ass_jax.method.class_means", "from ass_jax import ops", set()),
        ("ass_jax.training.loop", "from orbax import checkpoint", {"orbax"}),
        ("ass_jax.training.loop", "import tensorflow as tf", {"tensorflow"}),
        ("main", "import tensorflow", {"tensorflow"}),
        ("data.preparation.prepare", "import tensorflow", {"tensorflow"}),
        ("data.raw.faults", "from configs import user_error", set()),
        ("data.raw.faults", "from configs import base", {"configs.base"}),
        ("data.pipeline", "import tensorflow", set()),
    ],
)
def test_the_rule_itself(name, source, expected):
    modules = {"data.classes", "ass_jax.ops", "configs.user_error", "configs.base"}
    assert wrong_imports(name, imports_of(name, source, modules)) == expected


@pytest.mark.parametrize("name", [name for name in FILES if not within(name, "ass_jax.ops")])
def test_operations_are_imported_from_the_package_only(name):
    assert {imported for imported in IMPORTS[name] if imported.startswith("ass_jax.ops.")} == set()


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


LIGHT = ("configs", "data.classes", "data.streams", "data.raw", "data.toy", "data.datasets", "data.preparation")


@pytest.mark.parametrize(
    ("packages", "absent"),
    [
        (("ass_jax",), ("tensorflow", "tensorflow_datasets", "data")),  # A notebook that only predicts.
        ((*LIGHT, "data.checking"), ("tensorflow", "tensorflow_datasets", "jax")),  # The command line and the check.
    ],
)
def test_light_packages_import_no_heavy_library(packages, absent):
    """TensorFlow and JAX take seconds to import."""
    modules = [name for name in FILES if any(within(name, package) for package in packages)]
    program = (
        f"import importlib, sys\nfor name in {modules}: importlib.import_module(name)\n"
        f"print([name for name in {absent} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"
