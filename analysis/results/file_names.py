"""Names of users as parts of file names."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable

_LONGEST = 60
"""Characters of a name's readable part; file systems take 255 bytes in all."""


def file_names(names: Iterable[str]) -> dict[str, str]:
    """A part of a file name for each name: letters, digits, dots, dashes; no two alike.

    A name that is changed, or like another but for capitals, ends in a digest of what it was.
    """
    known = list(dict.fromkeys(names))
    readable = {name: re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:_LONGEST] for name in known}
    number = Counter(part.casefold() for part in readable.values())
    return {
        name: part
        if part == name and number[part.casefold()] == 1
        else f"{part}-{hashlib.sha256(name.encode('utf-8', 'backslashreplace')).hexdigest()[:8]}"
        for name, part in readable.items()
    }
