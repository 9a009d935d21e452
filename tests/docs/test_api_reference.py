"""The API reference that `make docs` writes."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def _run(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_public_names_are_described(tmp_path: Path) -> None:
    """Planning's own pages; those of torch code take longer and are made the same way."""
    lines = _run("make", "-n", "docs").splitlines()  # `make test` adds lines of its own
    recipe = next(line for line in lines if "/pdoc " in line).split()
    start = recipe.index("--docformat")
    assert recipe[start - 1].endswith("/pdoc")
    assert {"d2ft_sched", "sim", "runtime", "analysis", "d2ft_sched.plan"} <= set(recipe)
    modules = [name for name in recipe if name.startswith("d2ft_sched")]
    options = ["--docformat", "google", "--no-show-source", "--output-directory", str(tmp_path)]
    _run(sys.executable, "-m", "pdoc", *options, *modules)
    page = (tmp_path / "d2ft_sched.html").read_text()
    for name in ("Problem", "Solution", "solve", "register_solver"):
        assert f'id="{name}"' in page
    assert "Choose an operation per (subnet, micro-batch) item" in page
    for module in (*modules[1:], "d2ft_sched.plan.plan_file"):
        assert (tmp_path / f"{module.replace('.', '/')}.html").exists()
