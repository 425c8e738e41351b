"""The site that `make docs` builds: nothing public is missing, and what the docstrings say is legible."""

import html
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import keras_models
import keras_models.layers
import keras_models.optimizers

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "api"
REFERENCED = set(re.findall(r"^::: (\S+)$", "".join(page.read_text() for page in PAGES.glob("*.md")), re.MULTILINE))


@pytest.mark.parametrize(
    "package", [keras_models.layers, keras_models.optimizers], ids=lambda package: package.__name__
)
def test_each_public_class_has_its_place(package):
    names = (f"{package.__name__}.{module.name}" for module in pkgutil.iter_modules(package.__path__))
    for name in names:
        if not name.rpartition(".")[2].startswith("_"):
            assert [target for target in REFERENCED if target.startswith(f"{name}.")], f"no page of docs/api has {name}"


def test_each_layer_is_in_the_table():
    table = (ROOT / "docs/layers.md").read_text()
    for target in REFERENCED:
        if target.startswith("keras_models.layers."):
            name = target.rpartition(".")[2]
            assert f"| [{name}](api/layers.md#{name.lower()}) |" in table


def test_what_is_referenced_exists():
    for target in REFERENCED:
        module, _, name = target.rpartition(".")
        if name[0].isupper():
            assert hasattr(importlib.import_module(module), name), target
        else:
            importlib.import_module(target)


def test_what_is_shown_of_the_example_stands_in_it():
    shown = re.findall(r"^.*# added$", (ROOT / "docs/layers.md").read_text(), re.MULTILINE)
    example = (ROOT / "examples/embed_in_your_ranker.py").read_text()
    added = [line.strip() for line in re.findall(r"^.*# added$", example, re.MULTILINE)]
    assert shown == [line for line in added if "import" not in line]


@pytest.mark.slow
def test_builds_without_a_warning_and_keeps_the_lines_of_formulas(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    page = html.unescape(re.sub(r"<[^>]+>", "", (tmp_path / "api" / "layers.html").read_text()))
    for name in (target for target in REFERENCED if target.startswith("keras_models.layers.")):
        module, _, name = name.rpartition(".")
        documentation = getattr(importlib.import_module(module), name).__doc__
        formulas = [line.strip() for line in documentation.partition("Args:")[0].splitlines() if line[:8].isspace()]
        for line in formulas:
            assert line in page, f"{name}: {line}"
        assert ">>> " in page
    for path in tmp_path.rglob("*.html"):
        loaded = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(?:https?:)?//[^"]*', path.read_text())
        assert not loaded, f"{path.name} loads {loaded}"
