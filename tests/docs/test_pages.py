"""The documentation does what it says: its commands run, its links lead somewhere."""

import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from analysis import cli

sys.path.insert(0, str(Path(__file__).parent))
from pages import PAGES, ROOT, blocks, commands

WITH_COMMANDS = {**PAGES, "README of the project": ROOT / "README.md"}


def _of_d2ft(line: str) -> list[str] | None:
    """The arguments of d2ft in a command line; None where it does not call it."""
    found = re.search(r"(?:^|\s|/)(?:d2ft|-m analysis\.cli) (.*)", line)
    return shlex.split(found[1]) if found else None


@pytest.mark.parametrize("name", WITH_COMMANDS)
def test_every_command_and_option_exists(name: str) -> None:
    known = typer.main.get_command(cli.app).commands
    for block in blocks(WITH_COMMANDS[name]):
        if block.kind not in ("", "sh"):
            continue
        for line in commands(block.text):
            arguments = _of_d2ft(line)
            if not arguments or arguments[0].startswith("-"):
                continue
            assert arguments[0] in known, line
            options = {o for p in known[arguments[0]].params for o in (*p.opts, *p.secondary_opts)}
            own = arguments[: arguments.index("--")] if "--" in arguments else arguments
            given = {word.partition("=")[0] for word in own[1:] if word.startswith("--")}
            assert given <= options | {"--help"}, line


@pytest.mark.parametrize("name", PAGES)
def test_commands_run(
    d2ft: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """In order, in one folder, with the files that the page shows."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for block in blocks(PAGES[name]):
        if block.kind == "yaml":
            file = re.match(r"# (\S+\.yaml)\n", block.text)
            assert file, block.text
            (tmp_path / file[1]).write_text(block.text)
        if block.reason is not None:
            assert len(block.reason.split()) >= 4
            continue
        if block.kind == "python":
            exec(compile(block.text, str(PAGES[name]), "exec"), {"__name__": "page"})
        if block.kind == "sh":
            for line in commands(block.text):
                words = shlex.split(line)
                assert words[0] == "d2ft", f"{line}: say with a comment why it is not run"
                code, _, err = d2ft(*words[1:])
                assert code == 0, f"{line}\n{err}"


@pytest.mark.parametrize(
    "page", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/**/*.md")), ids=str
)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("http"):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file) if file else page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in slugs, target


def test_the_index_names_every_page() -> None:
    index = PAGES["README"].read_text()
    for name in PAGES:
        assert name == "README" or f"({name}.md)" in index
