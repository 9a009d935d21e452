"""The code blocks of a page of the documentation."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = {page.stem: page for page in sorted((ROOT / "docs").glob("*.md"))}
_BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^>]*?) -->\n)?```(?P<kind>\w*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        kind: the word behind the fence.
        text: what stands in it.
        reason: why it is not run; None where it is.
    """

    kind: str
    text: str
    reason: str | None


def blocks(page: Path) -> list[Block]:
    """All blocks of a page, in order."""
    return [Block(m["kind"], m["text"], m["reason"]) for m in _BLOCK.finditer(page.read_text())]


def commands(text: str) -> list[str]:
    """The commands of a block, a line each."""
    return [line.partition(" #")[0].strip() for line in text.splitlines() if line.strip()]
