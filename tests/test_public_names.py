"""The public face: what the packages show, when it is imported, and what a type checker sees."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("d2ft_sched", "sim", "runtime", "analysis")
HEAVY = ("numpy", "pandas", "scipy", "networkx", "ortools", "matplotlib", "torch")


@pytest.fixture(params=PACKAGES)
def package(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(request.param)


def test_every_name_is_there_and_no_module_takes_its_place(package: ModuleType) -> None:
    assert len(set(package.__all__)) == len(package.__all__)
    submodules = {p.stem for p in Path(str(package.__file__)).parent.iterdir()}
    for name in package.__all__:
        thing = getattr(package, name)
        assert thing.__name__ == name
        assert getattr(package, name) is thing
        assert name in dir(package)
        assert name not in submodules


def test_a_type_checker_sees_the_same_names(package: ModuleType) -> None:
    tree = ast.parse(Path(str(package.__file__)).read_text())
    (checked,) = [node for node in tree.body if isinstance(node, ast.If)]
    assert ast.unparse(checked.test) == "TYPE_CHECKING"
    imported = {}
    for node in checked.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.asname == alias.name, "what is not imported as itself is not public"
            imported[alias.name] = getattr(importlib.import_module(str(node.module)), alias.name)
    assert imported == {name: getattr(package, name) for name in package.__all__}


def test_what_is_not_there_is_named(package: ModuleType) -> None:
    with pytest.raises(AttributeError, match=f"'{package.__name__}' has no attribute 'nonsense'"):
        package.nonsense  # noqa: B018


def test_packages_alone_load_nothing_heavy() -> None:
    code = f"import sys, {', '.join(PACKAGES)}; print(*(m for m in {HEAVY} if m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.split() == []


@pytest.mark.parametrize("script", sorted(ROOT.glob("examples/*.py")), ids=lambda path: path.stem)
def test_examples_need_no_other_names(script: Path) -> None:
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in PACKAGES:
            assert node.module in PACKAGES
