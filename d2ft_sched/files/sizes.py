"""Bounds on what is allocated, told before it is: beyond them a number is a mistake."""

from d2ft_sched.errors import InputError

MOST_CELLS = 10_000_000
"""Operations of a plan: subnets times micro-batches. Planning takes some 80 bytes for each."""
MOST_MICROBATCHES = 10_000
"""Of a mini-batch as users cut it: searches of ways and placements take milliseconds for each."""
MOST_SAMPLES = 100_000
"""Of a micro-batch, and of a mini-batch that is dealt anew: shares are priced sample by sample."""
MOST_LINKS = 1_000_000
MOST_DRAWS = 20_000_000
"""Random numbers held at once, 8 bytes each."""
MOST_POINTS = 1_000_000
"""Of a grid."""


def check_at_most(said: str, number: int, most: int, right: str) -> None:
    """Refuse a size.

    Args:
        said: what has it, as a plural: "72 subnets x 5 micro-batches".
        number: of things that would be made.
        most: of them that are allowed.
        right: what would be right.

    Raises:
        InputError: there are more.
    """
    if number > most:
        raise InputError(f"{said} are more than {most:,}; {right}")
