"""The seeds that every random choice takes: one range, checked here."""

from d2ft_sched.errors import InputError

MAX_SEED = 2**63 - 1
"""Largest seed; any whole number from 0 to this is one."""


def check_seed(seed: int, name: str = "seed") -> int:
    """The seed, or an InputError that says which ones there are."""
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= MAX_SEED:
        raise InputError(f"{name} is {seed!r}; it must be a whole number from 0 to {MAX_SEED}")
    return seed


def following_seed(seed: int, number: int) -> int:
    """The seed of the choice with this number, where each of a row has its own."""
    return (seed + number) % (MAX_SEED + 1)
