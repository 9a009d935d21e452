"""What to do about a sample that cannot be read, by name."""

from enum import StrEnum


class OnBadFileName(StrEnum):
    """A value of ``--on-bad-file``; as `runtime.data.load_data.OnBadFile`."""

    FAIL = "fail"
    SKIP = "skip"
