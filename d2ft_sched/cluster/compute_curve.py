"""Measured time of a kind of computation over its size."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike

from d2ft_sched.errors import InputError


class WorkKind(StrEnum):
    """Kinds of computation that are timed apart, because they reach different rates."""

    ATTENTION_FORWARD = "attention_forward"
    ATTENTION_BACKWARD = "attention_backward"
    MLP_FORWARD = "mlp_forward"
    MLP_BACKWARD = "mlp_backward"
    TRUNK_FORWARD = "trunk_forward"
    TRUNK_BACKWARD = "trunk_backward"
    OPTIMIZER = "optimizer"

    @property
    def is_memory_bound(self) -> bool:
        """Whether its size is counted in bytes moved through memory instead of FLOPs."""
        return self in (WorkKind.TRUNK_FORWARD, WorkKind.TRUNK_BACKWARD, WorkKind.OPTIMIZER)


@dataclass(frozen=True)
class ComputeCurve:
    """Seconds over work, measured at a few sizes and linear between them.

    Attributes:
        work: sizes measured, strictly increasing and above 0; FLOPs, or bytes where the kind
            `WorkKind.is_memory_bound`.
        seconds: time of each, above 0 and never decreasing.
    """

    work: tuple[float, ...]
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.work) != len(self.seconds) or len(self.work) < 2:
            raise InputError(
                f"a compute curve has {len(self.work)} sizes and {len(self.seconds)} times; it "
                f"needs as many of both, at least 2"
            )
        for name, values in (("work", self.work), ("seconds", self.seconds)):
            if not all(0 < v < float("inf") for v in values):
                raise InputError(
                    f"a compute curve's {name} is {list(values)}; every value must be above 0 and "
                    f"finite"
                )
        if any(b <= a for a, b in zip(self.work, self.work[1:], strict=False)):
            raise InputError(f"a compute curve's work is {list(self.work)}; it must increase")
        if any(b < a for a, b in zip(self.seconds, self.seconds[1:], strict=False)):
            raise InputError(
                f"a compute curve's seconds are {list(self.seconds)}; they must not decrease"
            )

    @property
    def calibrated_range(self) -> tuple[float, float]:
        """Smallest and largest size measured."""
        return self.work[0], self.work[-1]

    def seconds_at(self, work: ArrayLike) -> np.ndarray:
        """Seconds of each size, same shape as `work`.

        No work takes no time. Below the first point its time is a floor (launching costs as much);
        above the last one the slope of the last segment goes on.
        """
        size = np.asarray(work, dtype=float)
        slope = (self.seconds[-1] - self.seconds[-2]) / (self.work[-1] - self.work[-2])
        beyond = np.maximum(size - self.work[-1], 0.0) * slope
        return np.where(size > 0, np.interp(size, self.work, self.seconds) + beyond, 0.0)

    def scaled(self, speed: float) -> "ComputeCurve":
        """The curve of something `speed` times as fast at every size."""
        return ComputeCurve(self.work, tuple(s / speed for s in self.seconds))
