"""Folders that Hugging Face's ``datasets`` saved to disk, by the name ``hf-dataset:FOLDER``.

Their rows stay in Arrow files that are mapped into memory.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from d2ft_sched.errors import InputError

HF_DATASET = "hf-dataset"
_TEST_SPLITS = ("test", "validation")


def open_saved(name: str, folder: Path) -> dict[str, Any]:
    """Its rows to train on, and if there are such, those to test on, each by the split's name.

    Args:
        name: of the data set, as the user calls it.
        folder: that was saved.

    Raises:
        InputError: ``datasets`` is not installed, it saved no such folder, or no split is for
            training.
    """
    try:
        from datasets import DatasetDict, disable_progress_bars, load_from_disk
    except ImportError:
        raise InputError(f"data {name}: is read with datasets; run: pip install datasets") from None
    if not folder.exists():
        raise InputError(f"data {name}: there is no {folder}")
    disable_progress_bars()
    try:
        saved: Any = load_from_disk(str(folder))
    except Exception as error:  # datasets and arrow have kinds of their own
        reason = " ".join(str(error).split())
        raise InputError(f"data {name}: is no data set saved to disk ({reason})") from None
    splits = dict(saved) if isinstance(saved, DatasetDict) else {"train": saved}
    if "train" not in splits:
        raise InputError(f"data {name}: has no split train, but {', '.join(splits)}")
    tests = [split for split in _TEST_SPLITS if split in splits]
    return {split: splits[split] for split in ("train", *tests[:1])}


def parts_of(saved: Mapping[str, Any]) -> str:
    """Where the parts of `open_saved` are from, for people; empty if there is one."""
    return f"splits {' and '.join(saved)}" if len(saved) > 1 else ""
