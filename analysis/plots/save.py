"""Pictures as files: PNG for screens and text processors, SVG and PDF for print."""

import io
from collections.abc import Callable
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from d2ft_sched.errors import InputError
from d2ft_sched.files.atomic_write import write_bytes

BOTH = ("png", "svg")
KINDS = (*BOTH, "pdf")
PNG_DPI = 160
Drawing = tuple[Callable[[], Figure], str]
"""What makes a picture, and what it shows, for those who do not see it."""
_UNDATED = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}


def render(figure: Figure, kind: str) -> bytes:
    """The content of a picture file of one of `KINDS`, the same bytes each time."""
    content = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "d2ft"}):
        figure.savefig(content, format=kind, dpi=PNG_DPI, metadata=_UNDATED.get(kind))
    return content.getvalue()


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a picture of the kind of the path's ending, atomically."""
    write_bytes(path, render(figure, path.suffix[1:]))
    return path


def save_both(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a picture as PNG and as SVG; the paths."""
    return [save_figure(figure, folder / f"{name}.{kind}") for kind in BOTH]


def picture_paths(path: Path) -> list[Path]:
    """What a user's path asks for: the file of that ending, or without one PNG and SVG.

    Raises:
        InputError: the ending is of another kind.
    """
    if not path.suffix:
        return [path.with_name(f"{path.name}.{kind}") for kind in BOTH]
    if path.suffix[1:] not in KINDS:
        raise InputError(
            f"{path}: a picture ends in {', '.join(f'.{kind}' for kind in KINDS)}, or in nothing "
            f"for the first two"
        )
    return [path]
