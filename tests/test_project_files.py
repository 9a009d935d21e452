"""What those who join rely on: typed packages, templates, completion, and files that agree."""

import importlib
import inspect
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import pandas as pd
import platformdirs
import pytest
import yaml

ROOT = Path(__file__).parents[1]
PACKAGES = ("d2ft_sched", "sim", "runtime", "analysis")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_tests_keep_out_of_the_users_cache() -> None:
    assert Path.home() / ".cache" not in platformdirs.user_cache_path("d2ft").parents


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_say_that_they_are_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").exists()
    assert package in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert package in PROJECT["tool"]["mypy"]["packages"]
    assert PROJECT["tool"]["mypy"]["disallow_untyped_defs"]


def _public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    for name in module.__all__:
        thing = getattr(module, name)
        yield f"{module.__name__}.{name}", thing
        if inspect.isclass(thing):
            for attribute, value in vars(thing).items():
                value = value.fget if isinstance(value, property) else value
                value = getattr(value, "__func__", value)
                if inspect.isfunction(value) and not attribute.startswith("_"):
                    yield f"{module.__name__}.{name}.{attribute}", value


PUBLIC = dict(named for package in PACKAGES for named in _public(importlib.import_module(package)))


@pytest.mark.parametrize("name", PUBLIC)
def test_the_public_api_is_typed_and_described(name: str) -> None:
    thing = PUBLIC[name]
    assert inspect.getdoc(thing)
    hints = get_type_hints(thing, localns={"pd": pd})  # which sim imports late
    if inspect.isfunction(thing):
        parameters = [p for p in inspect.signature(thing).parameters if p not in ("self", "cls")]
        assert {*parameters, "return"} <= set(hints)


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))]
)
def test_files_that_pages_name_are_there(page: str) -> None:
    folders = "|".join((*PACKAGES, "bench", "tests", "examples", "docs"))
    named = re.findall(rf"(?<![\w/.-])(?:{folders})/[a-z_/.0-9-]+\.\w+", (ROOT / page).read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_no_two_files_have_one_name() -> None:
    folders = (*PACKAGES, "bench", "tests", "examples")
    names = Counter(p.name for folder in folders for p in (ROOT / folder).rglob("*.py"))
    assert {n for n, number in names.items() if number > 1} <= {"__init__.py", "conftest.py"}


def test_changelog_and_package_have_the_same_version() -> None:
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest
    assert newest[1] == PROJECT["project"]["version"]


def test_issue_forms_are_whole_and_ask_for_versions() -> None:
    forms = {p.stem: yaml.safe_load(p.read_text()) for p in ROOT.glob(".github/ISSUE_TEMPLATE/*")}
    assert set(forms) == {"bug", "idea", "prediction", "config"}
    for name, form in forms.items():
        if name == "config":
            continue
        assert {"name", "description", "body"} <= set(form)
        ids = [field["id"] for field in form["body"] if field["type"] != "markdown"]
        assert len(ids) == len(set(ids)) >= 2
    for name in ("bug", "prediction"):
        assert "d2ft --version" in str(forms[name])


def test_hooks_are_the_linters() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    lint = (ROOT / "Makefile").read_text().partition("lint: $(READY)\n")[2].partition("\n\n")[0]
    wanted = [line.strip().replace("$(BIN)/", ".venv/bin/") for line in lint.splitlines()]
    assert [hook["entry"] for hook in hooks] == wanted


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_can_complete(shell: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "analysis.cli"],
        env={**os.environ, "_D2FT_COMPLETE": f"source_{shell}"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "d2ft" in done.stdout
    assert "_D2FT_COMPLETE" in done.stdout


def test_completion_knows_commands_and_options() -> None:
    def complete(words: str, index: int) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-m", "analysis.cli"],
            env={
                **os.environ, "_D2FT_COMPLETE": "complete_bash", "COMP_WORDS": words,
                "COMP_CWORD": str(index),
            },
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.stdout.split()

    assert {"simulate", "study"} <= set(complete("d2ft s", 1))
    assert "--budget-compute" in complete("d2ft plan --bud", 2)
