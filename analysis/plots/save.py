"""Pictures as files: PNG for screens and text processors, SVG and PDF for print."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter

from analysis.console.plain_text import one_line
from d2ft_sched.errors import InputError
from d2ft_sched.files.atomic_write import write_bytes

BOTH = ("png", "svg")
KINDS = (*BOTH, "pdf")
PNG_DPI = 160
Drawing = tuple[Callable[[], Figure], str]
"""What makes a picture, and what it shows, for those who do not see it."""
_LONGEST_LABEL = 160
_FORMATTED = r"\mathdefault"
"""In what matplotlib writes beside logarithmic axes."""
_UNDATED = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}


def render(figure: Figure, kind: str) -> bytes:
    """The content of a picture file of one of `KINDS`, the same bytes each time.

    What is rendered again, as another kind, is laid out as it was the first time.
    """
    content = io.BytesIO()
    _make_inert(figure)
    with matplotlib.rc_context({"svg.hashsalt": "d2ft"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a box stands in its place
        figure.savefig(content, format=kind, dpi=PNG_DPI, metadata=_UNDATED.get(kind))
    figure.set_layout_engine(None)
    return content.getvalue()


def _make_inert(figure: Figure) -> None:
    """Show names as they are: neither control characters, which no SVG may hold, nor formulas
    between dollar signs."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            formatter = axis.get_major_formatter()
            if isinstance(formatter, FixedFormatter):
                formatter.seq = [_inert(label) for label in formatter.seq]
    for artist in figure.findobj(Text):
        assert isinstance(artist, Text)
        if _FORMATTED not in artist.get_text():
            artist.set_text(_inert(artist.get_text()))
            artist.set_parse_math(False)


def _inert(label: str) -> str:
    return "\n".join(one_line(line, _LONGEST_LABEL) for line in label.split("\n"))


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
