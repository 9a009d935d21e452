"""Kinds of ways and what rests by name, apart so that help needs no heavy import."""

from enum import StrEnum


class WayName(StrEnum):
    """What ``--way`` takes."""

    ONE_DEVICE = "one-device"
    """The whole model on one device."""
    DATA_PARALLEL = "data-parallel"
    """A whole model on each of several devices, which share the samples."""
    CUT = "cut"
    """One model cut over several devices."""
    HYBRID = "hybrid"
    """Several models, some of them cut over several devices."""

    @property
    def kind(self) -> str:
        """As `sim.ways.way.WayKind` has it."""
        return self.value.replace("-", " ")


class RestingName(StrEnum):
    """What ``--resting`` takes; keys of `d2ft_sched.problem.resting.POLICIES`."""

    DRAWN = "drawn"
    """Other blocks in each step, drawn by the seed."""
    TURNS = "turns"
    """One after another, so that all train equally often."""
