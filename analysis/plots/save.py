"""Pictures as files: PNG for screens and text processors, SVG and PDF for print."""

from functools import partial
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from d2ft_sched.atomic_write import write_atomically
from d2ft_sched.errors import InputError

BOTH = ("png", "svg")
KINDS = (*BOTH, "pdf")
PNG_DPI = 160
_UNDATED = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a picture of the kind of the path's ending, atomically and the same bytes each time."""
    kind = path.suffix[1:]
    write = partial(figure.savefig, format=kind, dpi=PNG_DPI, metadata=_UNDATED.get(kind))
    with matplotlib.rc_context({"svg.hashsalt": "d2ft"}):
        write_atomically(path, write)
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
