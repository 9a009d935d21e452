"""Who does which run, where several processes work on one study's folder."""

from contextlib import AbstractContextManager
from pathlib import Path

from analysis.results.file_lock import hold

FOLDER = "claims"


def claim(folder: Path, name: str, *, wait: bool = False) -> AbstractContextManager[bool]:
    """Have a name for this process alone until the block ends, or the process in whatever way.

    Args:
        folder: of the study's results.
        name: fit for a file's name.
        wait: until another process that has it lets it go.

    Returns:
        What yields whether this process has it.
    """
    return hold(folder / FOLDER / name, wait=wait)
