"""One look for all pictures: a colour-blind safe palette, fonts that print, units on axes."""

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.console.formatting import si_unit
from d2ft_sched.schedule.operations import Operation

BLACK, ORANGE, SKY_BLUE, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
"""Okabe and Ito's palette (Color Universal Design, 2008)."""
SEQUENTIAL = "viridis"
"""Colour map of magnitudes: even steps in lightness, told apart by all kinds of colour vision."""
PALE, GREY = "#E8E8E8", "#5A5A5A"

OPERATION_COLOURS = {
    Operation.SHORTCUT: PALE,
    Operation.FORWARD_ONLY: ORANGE,
    Operation.FULL: BLUE,
    Operation.REST: SKY_BLUE,
}
WORK_COLOURS = {
    "forward lanes": SKY_BLUE,
    "backward lanes": BLUE,
    "trunk": GREEN,
    "optimizer": PURPLE,
    "messages": BLACK,
}
"""Kinds of work in a step, in the order of legends and stacks."""

WIDTH_IN = 8.0
"""Width of a picture; its 9 pt text is legible across a printed page."""

_RUN_STYLES = {
    "dense": (BLACK, "o", "-"),
    "plan": (BLUE, "s", "-"),
    "fewer": (VERMILION, "^", "--"),
}
_MORE_COLOURS = (GREEN, PURPLE, ORANGE, GREY, SKY_BLUE, BLUE, BLACK, VERMILION)
_MORE_MARKERS = ("D", "v", "P", "X", "<", ">", "h", "p", "s", "^", "d")
_MORE_LINES = ("-.", ":", "--", "-.", "-", ":", "--", "-.")
_RUN_TITLES = {"dense": "dense", "plan": "D2FT plan", "fewer": "fewer samples"}

_RC: Any = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.edgecolor": GREY,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "hatch.linewidth": 0.6,
}


@contextmanager
def plot_style() -> Iterator[None]:
    """Settings under which every picture of this package is made."""
    with matplotlib.rc_context(_RC):
        yield


def new_figure(height_in: float, width_in: float = WIDTH_IN) -> Figure:
    """An empty figure outside pyplot's registry, so that nothing has to be closed."""
    return Figure(figsize=(width_in, height_in), layout="constrained")


def legend_label(name: str) -> str:
    """The name, so that a legend has it: matplotlib leaves out labels that begin with ``_``."""
    return f" {name}" if name.startswith("_") else name


def run_title(name: str) -> str:
    """What a run is called for people; unknown names as they are."""
    return _RUN_TITLES.get(name, name)


def run_styles(names: Iterable[str]) -> dict[str, tuple[str, str, str]]:
    """Colour, marker and line style of each run, no two alike up to 88 runs of other names."""
    more = map(_more_style, itertools.count())
    return {name: _RUN_STYLES.get(name) or next(more) for name in names}


def _more_style(index: int) -> tuple[str, str, str]:
    around = index // len(_MORE_COLOURS)
    return (
        _MORE_COLOURS[index % len(_MORE_COLOURS)],
        _MORE_MARKERS[index % len(_MORE_MARKERS)],
        _MORE_LINES[(index + around) % len(_MORE_LINES)],
    )


def scaled_axis(axes: Axes, which: str, largest: float, quantity: str, unit: str) -> float:
    """Label the "x" or "y" axis with quantity and prefixed unit; returns the factor of values."""
    factor, prefixed = si_unit(largest, unit)
    getattr(axes, f"set_{which}label")(f"{quantity} ({prefixed})")
    return 1 / factor
