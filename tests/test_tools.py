"""The files of the tool chain agree with each other."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def requirements(lines):
    """Returns the requirements among lines that may have comments."""
    texts = (re.split(r"(?:^|\s)#", line)[0].strip() for line in lines)
    return [Requirement(text) for text in texts if text]


CONSTRAINTS = {
    canonicalize_name(constraint.name): constraint
    for constraint in requirements((ROOT / "constraints.txt").read_text().splitlines())
}
NEEDED = requirements((ROOT / "requirements.txt").read_text().splitlines()) + requirements(EXTRAS["tests"])


@pytest.mark.parametrize("requirement", NEEDED, ids=lambda requirement: requirement.name)
def test_tested_version_is_in_the_range(requirement):
    (exact,) = CONSTRAINTS[canonicalize_name(requirement.name)].specifier
    assert exact.operator == "=="
    assert exact.version in requirement.specifier


def test_constraints_leave_the_build_of_pytorch_open():
    assert "torch" not in CONSTRAINTS


def test_pre_commit_has_the_version_of_ruff_that_the_tests_have():
    (ruff,) = (requirement for requirement in requirements(EXTRAS["tests"]) if requirement.name == "ruff")
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert str(ruff.specifier) == f"=={repository['rev'].removeprefix('v')}"


def test_continuous_integration_runs_the_command_that_developers_run():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert "make test" in [step.get("run") for step in workflow["jobs"]["test"]["steps"]]


def test_citation_has_the_version_of_the_project():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert f"## [{PROJECT['version']}]" in (ROOT / "CHANGELOG.md").read_text()
