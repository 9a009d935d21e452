"""Text for people that holds what users named: on one line, not too long, and inert.

A terminal acts on control characters, and marks of writing direction let a name say what it is not.
Everything that is printed or put into a report or picture goes through `one_line`.
"""

import codecs

from analysis.console.formatting import NO_BREAK

LONGEST_LINE = 700
"""Characters of a message."""
LONGEST_CELL = 120
"""Characters of a cell of a table on the terminal."""
_TAIL = 0.4
"""Share of a cut text that is its end, where messages say what would be right."""
_IN_ASCII = {
    NO_BREAK: " ",
    "\N{MICRO SIGN}": "u",
    "\N{MINUS SIGN}": "-",
    "\N{PLUS-MINUS SIGN}": "+-",
    "\N{LEFT DOUBLE QUOTATION MARK}": '"',
    "\N{RIGHT DOUBLE QUOTATION MARK}": '"',
    "\N{HORIZONTAL ELLIPSIS}": "...",
}
"""Signs that d2ft itself prints, for terminals that have no others."""
NARROW = "d2ft.narrow"
"""Name of the error handler for streams whose encoding lacks a character."""


def one_line(text: object, at_most: int = LONGEST_LINE) -> str:
    """The text with everything that is not printable written as Python does (``\\x1b``), and its
    middle left out where it is longer than `at_most` characters."""
    shown = "".join(map(_printable, str(text)))
    if len(shown) <= at_most:
        return shown
    tail = int(_TAIL * at_most)
    return f"{shown[: at_most - tail - 5]} ... {shown[len(shown) - tail :]}"


def _printable(character: str) -> str:
    if character.isprintable() or character == NO_BREAK:
        return character
    return repr(character)[1:-1]


def _in_narrow_encoding(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_IN_ASCII.get(c) or ascii(c)[1:-1] for c in lacking), error.end


codecs.register_error(NARROW, _in_narrow_encoding)
