"""Numbers with their nouns."""

import pytest

from d2ft_sched.files.counted import counted


@pytest.mark.parametrize(
    ("number", "what", "said"),
    [
        (0, "class", "0 classes"),
        (1, "class", "1 class"),
        (2, "micro-batch", "2 micro-batches"),
        (1, "epoch", "1 epoch"),
        (12_000, "sample", "12,000 samples"),
    ],
)
def test_one_is_singular(number: int, what: str, said: str) -> None:
    assert counted(number, what) == said
