"""Documents name only what exists: files, headings, settings, variants, modules, make targets."""

import ast
import functools
import importlib
import importlib.util
import re
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from configs import base, polyps, vessels
from configs._variants import VARIANTS
from configs.backbones import BACKBONES

ROOT = Path(__file__).parent.parent
README_LIMIT = 10_000  # Bytes.
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md") if (ROOT / name).exists()),
    *sorted((ROOT / "docs").rglob("*.md")),
]
# CHANGELOG.md names old modules and settings beside the new ones.
CURRENT = [page for page in PAGES if page.name != "CHANGELOG.md"]
FOLDERS = ("ass_jax", "benchmarks", "configs", "data", "docs", "notebooks", "tests")
PLACEHOLDER = re.compile(r"[A-Z]{2,}|…|[<>]")  # As in ass_jax/models/NAME.py.
EXAMPLES = ("loss.entropy_weight",)  # Added by CONTRIBUTING.md as an example.
# Messages of other programs.
FOREIGN = ("Terminating process because", "persistent compilation cache", "Loading XLA:CPU AOT result")


def name_of(page):
    return page.relative_to(ROOT).as_posix()


every_page = pytest.mark.parametrize("page", PAGES, ids=name_of)
every_current_page = pytest.mark.parametrize("page", CURRENT, ids=name_of)


def prose(text):
    """Returns a page without its blocks of code."""
    return re.sub(r"(?ms)^```.*?^```", "", text)


def anchors(text):
    """Returns the anchors of a page's headings, as the public forge makes them."""
    headings = re.findall(r"(?m)^#+ (.+)$", prose(text))
    plain = (re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


def broken_links(page):
    """Returns the links of a page that lead nowhere."""
    broken = []
    for link in re.findall(r"\]\(([^()\s]+)\)", prose(page.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            broken.append(link)
    return broken


def missing_files(text):
    """Returns the words in backticks that look like files of the project but do not exist."""
    missing = []
    for word in re.findall(r"`([^`\s]+)`", prose(text)):
        path = word.partition(":")[0].rstrip("/")  # Without the words after a configuration file.
        ours = path.partition("/")[0] in FOLDERS and "/" in word
        if ours and not PLACEHOLDER.search(path) and not any(ROOT.glob(path)):
            missing.append(word)
    return missing


def keys(config=None, prefix=""):
    """Returns every key of the configuration, dotted, groups included."""
    found = set()
    for key, value in (base.default_config() if config is None else config).items():
        found.add(prefix + key)
        if isinstance(value, ConfigDict):
            found |= keys(value, f"{prefix}{key}.")
    return found


def unknown_keys(text):
    """Returns the settings that a page names but that do not exist."""
    valid = keys()
    named = set(re.findall(r"--(?:no)?config\.([a-z_][a-z_0-9.]*)", text))
    groups = {key.partition(".")[0] for key in valid if "." in key}
    for word in re.findall(r"`(?:config\.)?([a-z_]+\.[a-z_0-9.]+)(?:=[^`]*)?`", prose(text)):
        module = ROOT / f"{word.replace('.', '/')}.py"
        if word.partition(".")[0] in groups and not module.exists() and not word.endswith((".py", ".md", ".json")):
            named.add(word)
    return {key for key in named if key.rstrip(".") not in valid and key not in EXAMPLES}


def unknown_modules(text):
    """Returns the modules of the project that a page runs but that do not exist."""
    named = {module.rstrip(".") for module in re.findall(r"python -m ([\w.]+)", text)}
    ours = {module for module in named if module.partition(".")[0] in FOLDERS}
    return {module for module in ours if not is_module(module)}


def is_module(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def wrong_configurations(text):
    """Returns the `--config=FILE:WORDS` whose file or words do not exist."""
    wrong = []
    for file, words in re.findall(r"--config=([\w/]+\.py)(?::([\w,]+))?", text):
        unknown = [word for word in words.split(",") if word and not is_word(word)]
        if unknown or not (PLACEHOLDER.search(file) or (ROOT / file).exists()):
            wrong.append(f"{file}:{words}")
    return wrong


def is_word(word):
    own = {*polyps.WORDS, *vessels.WORDS}
    return word in {*VARIANTS, *BACKBONES, *own} or word in ("smoke", "VARIANT", "NUMBER") or word.isdigit()


def unknown_targets(text):
    """Returns the make targets that a page names but that do not exist."""
    targets = set(re.findall(r"(?m)^([a-z]+):", (ROOT / "Makefile").read_text()))
    code = re.findall(r"(?m)^make ([a-z]+)", text) + re.findall(r"`make ([a-z]+)", text)
    return set(code) - targets


def unknown_names(text):
    """Returns the names that a page's Python examples import or use but that do not exist."""
    unknown = []
    for block in re.findall(r"(?ms)^```python\n(.*?)^```", text):
        modules = {}
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Import):
                modules |= {alias.asname or alias.name: alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                unknown += [f"{node.module}.{alias.name}" for alias in node.names if not has(node.module, alias.name)]
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
                module = modules[node.value.id]
                if not has(module, node.attr):
                    unknown.append(f"{module}.{node.attr}")
    return unknown


def has(module, name):
    """Returns whether a project module has an attribute or submodule `name`; True for other modules."""
    if module != "main" and module.partition(".")[0] not in FOLDERS:
        return True
    return is_module(module) and (hasattr(importlib.import_module(module), name) or is_module(f"{module}.{name}"))


@functools.cache
def messages():
    """Returns every string in the project's source, with a placeholder for each formatted value."""
    texts = []
    for file in [ROOT / "main.py", *(file for top in FOLDERS[:4] for file in (ROOT / top).rglob("*.py"))]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "\0" for part in node.values]
                texts.append("".join(parts))
    return "\n".join(texts)


@every_page
def test_links_lead_somewhere(page):
    assert broken_links(page) == []


@every_current_page
def test_files_exist(page):
    assert missing_files(page.read_text()) == []


@every_current_page
def test_settings_exist(page):
    assert unknown_keys(page.read_text()) == set()


@every_current_page
def test_configurations_and_their_words_exist(page):
    assert wrong_configurations(page.read_text()) == []


@every_current_page
def test_modules_exist(page):
    assert unknown_modules(page.read_text()) == set()


@every_current_page
def test_names_in_examples_exist(page):
    assert unknown_names(page.read_text()) == []


@every_current_page
def test_targets_of_make_exist(page):
    assert unknown_targets(page.read_text()) == set()


def has_name_first(text):
    """Returns whether the name is spelt out in or before the first paragraph that has "ASS"."""
    paragraphs = [part for part in re.sub(r"`[^`]*`", "", prose(text)).split("\n\n") if not part.startswith("#")]
    first = next((number for number, part in enumerate(paragraphs) if re.search(r"\bASS\b", part)), None)
    return first is None or any("Alleviating Semantic-level Shift" in part for part in paragraphs[: first + 1])


@every_current_page
def test_ass_is_spelt_out_first(page):
    assert has_name_first(page.read_text())


def test_sections_that_the_code_names_exist():
    broken = []
    for file in (file for top in FOLDERS[:4] for file in (ROOT / top).rglob("*.py")):
        text = re.sub(r"\s+(?:#\s+)?", " ", file.read_text())  # Docstrings and comments span several lines.
        for page, titles in re.findall(r"(docs/[\w/]+\.md)((?:,? (?:and )?\"[^\"]+\")*)", text):
            headings = (ROOT / page).read_text() if (ROOT / page).exists() else ""
            named = re.findall(r"\"([^\"]+)\"", titles)
            broken += [(name_of(file), page, title) for title in named if f"# {title}\n" not in headings]
            broken += [(name_of(file), page)] * (not headings)
    assert broken == []


def test_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= README_LIMIT


def test_index_leads_to_every_page():
    seen, left = set(), [ROOT / "docs/index.md"]
    while left:
        page = left.pop()
        seen.add(page)
        if not page.exists():
            continue  # A broken link, which has its own test.
        targets = re.findall(r"\]\(([^()\s#:]+\.md)", prose(page.read_text()))
        left += [target for link in targets if (target := (page.parent / link).resolve()) not in seen]
    assert {name_of(page) for page in PAGES if page.is_relative_to(ROOT / "docs")} <= {name_of(page) for page in seen}


def test_pictures_and_data_are_used():
    text = "\n".join(page.read_text() for page in PAGES)
    files = [file for ending in ("png", "json") for file in (ROOT / "docs").rglob(f"*.{ending}")]
    reports = {page.with_suffix("") for page in PAGES}  # The data of a report lies beside it.
    assert [name_of(file) for file in files if file.name not in text and file.with_suffix("") not in reports] == []


def test_messages_of_troubleshooting_exist():
    """A message that changes in the code must also change on the page."""
    page, absent = (ROOT / "docs/troubleshooting.md").read_text(), []
    _, _, section = page.partition("\n## Messages\n")
    for row in re.findall(r"(?m)^\| (`.*?) \|", section.partition("\n## ")[0]):
        for message in re.findall(r"`([^`]+)`", row):
            if message.startswith(FOREIGN) or any(words in row for words in FOREIGN):
                continue
            for piece in re.split(r"…|\b(?:[NMPH]|FILE|\d+)\b|[/,;]", message):
                words = piece.strip(" :.,;%()")
                if len(words.split()) > 1 and words not in messages():
                    absent.append(words)
    assert absent == []


@pytest.mark.parametrize(
    ("check", "wrong", "right"),
    [
        (
            missing_files,
            "`docs/nowhere.md`",
            "`docs/index.md` `data/` `ass_jax/models/NAME.py` `runs/toy`",
        ),
        (unknown_keys, "`data.classez=3`", "`data.classes=3` `data.pipeline` `loss.global_weight`"),
        (unknown_keys, "--config.data.batch.sauce=3", "--config.data.batch.source=3 --noconfig.augment.flip"),
        (unknown_modules, "python -m benchmarks.nothing", "python -m benchmarks.speed.step; python -m pip"),
        (wrong_configurations, "--config=configs/toy.py:as", "--config=configs/gta5.py:500,ass,smoke"),
        (wrong_configurations, "--config=configs/none.py", "--config=configs/toy.py"),
        (
            unknown_names,
            "```python\nimport main\nmain.tray()\n```",
            "```python\nfrom configs import toy\ntoy.get_config()\n```",
        ),
        (unknown_targets, "`make coffee`", "`make test` and make sure"),
        (missing_files, "`data/toyz/*.py`", "`data/toy/*.py`"),
    ],
)
def test_the_checks_themselves(check, wrong, right):
    assert check(wrong)
    assert not check(right)


def test_the_checks_of_links(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One `two`: three\n[a](#one-two-three) [b](page.md) [c](none.md) [d](#none) [e](https://a.b)")
    assert broken_links(page) == ["none.md", "#none"]
