"""A device: how fast it computes, what its memory holds and how long its work takes."""

import dataclasses
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from d2ft_sched.cluster.compute_curve import ComputeCurve, WorkKind
from d2ft_sched.errors import InputError

MOST_MEMORY_BYTES = 10**18
"""An exabyte: sums over the devices of a cluster stay within 64 bits."""


class OutOfCalibrationWarning(UserWarning):
    """Work was timed beyond the sizes that were measured."""


_warned: set[tuple[str, WorkKind, tuple[float, float]]] = set()


def warn_anew() -> None:
    """Let `OutOfCalibrationWarning` be given again for what has been warned of."""
    _warned.clear()


def roofline_seconds(
    flops: np.ndarray,
    bytes_moved: np.ndarray,
    flops_per_s: ArrayLike,
    bytes_per_s: ArrayLike,
    launch_s: ArrayLike,
    overlaps: ArrayLike = True,
) -> np.ndarray:
    """The roofline model (Williams, Waterman and Patterson, CACM 2009), arrays that broadcast.

    The slower of computing and moving bytes, or both where they do not overlap, after the launch;
    without either no time.
    """
    compute_s, memory_s = flops / flops_per_s, bytes_moved / bytes_per_s
    limit_s = np.where(overlaps, np.maximum(compute_s, memory_s), compute_s + memory_s)
    return np.where(limit_s > 0, launch_s + limit_s, 0.0)


def check_node_name(kind: str, name: str) -> None:
    """Refuse a name that no command line could say.

    Raises:
        InputError: it is empty, or has a character that stands between names and factors.
    """
    if not name.strip() or set(name) & set("=:"):
        raise InputError(
            f"{kind} {name!r}: name is {name!r}; it must not be empty and have neither '=' nor "
            f"':', which what-ifs name devices and links by"
        )


@dataclass(frozen=True)
class Device:
    """One accelerator or CPU of a cluster.

    Attributes:
        name: unique in its cluster, without ``=`` and ``:``.
        compute_flops_per_s: sustained rate of this work, not the datasheet peak.
        memory_bytes: what model, optimizer state and activations may fill.
        memory_bandwidth_bytes_per_s: sustained rate of its memory.
        launch_s: least time of one piece of work, where there is no curve.
        overlaps: whether it computes while it moves bytes, where there is no curve; a processor
            waits for most of them.
        curves: measured time of each kind of work; a kind without one is timed by the roofline.
        price_per_hour: in the currency of whoever wrote the cluster file.
        power_w: drawn while it computes, watts; a preset gives the datasheet's limit, which is an
            upper bound.
        idle_power_w: drawn while it waits, watts; at most `power_w`.
        source: where the figures come from, for people.
    """

    name: str
    compute_flops_per_s: float
    memory_bytes: int
    memory_bandwidth_bytes_per_s: float
    launch_s: float = 0.0
    overlaps: bool = True
    curves: Mapping[WorkKind, ComputeCurve] = field(default_factory=dict, hash=False)
    price_per_hour: float | None = None
    power_w: float | None = None
    idle_power_w: float | None = None
    source: str = ""

    def __post_init__(self) -> None:
        check_node_name("device", self.name)
        for name in ("compute_flops_per_s", "memory_bytes", "memory_bandwidth_bytes_per_s"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise InputError(
                    f"device {self.name!r}: {name} is {value}; it must be above 0 and finite"
                )
        if self.memory_bytes > MOST_MEMORY_BYTES:
            raise InputError(
                f"device {self.name!r}: memory_bytes is {self.memory_bytes}; it must be at "
                f"most {MOST_MEMORY_BYTES}"
            )
        for name in ("launch_s", "price_per_hour", "power_w", "idle_power_w"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise InputError(
                    f"device {self.name!r}: {name} is {value}; it must be 0 or more and finite"
                )
        busy_w, idle_w = self.power_w, self.idle_power_w
        if busy_w is not None and idle_w is not None and idle_w > busy_w:
            raise InputError(
                f"device {self.name!r}: idle_power_w is {idle_w}; it must be at most power_w, "
                f"which is {busy_w}"
            )

    def is_calibrated(self, kind: WorkKind) -> bool:
        """Whether this kind of work is timed by a measured curve."""
        return kind in self.curves

    def seconds(
        self,
        kind: WorkKind,
        flops: ArrayLike,
        bytes_moved: ArrayLike,
        *,
        is_trial: bool = False,
    ) -> np.ndarray:
        """Time of each piece of work, by the kind's curve or else by the roofline model.

        A piece with neither FLOPs nor bytes takes no time.

        Args:
            kind: which curve to read.
            flops: FLOPs of each piece; any shape.
            bytes_moved: bytes each piece moves through memory; broadcast against `flops`.
            is_trial: whether sizes are only tried, so that none is warned of.

        Warns:
            OutOfCalibrationWarning: once for a device, kind and range.
        """
        work, moved = np.broadcast_arrays(
            np.asarray(flops, dtype=float), np.asarray(bytes_moved, dtype=float)
        )
        curve = self.curves.get(kind)
        if curve is None:
            return roofline_seconds(
                work,
                moved,
                self.compute_flops_per_s,
                self.memory_bandwidth_bytes_per_s,
                self.launch_s,
                self.overlaps,
            )
        size = moved if kind.is_memory_bound else work
        if not is_trial:
            self._warn_outside(kind, curve, size)
        return curve.seconds_at(size)

    def _warn_outside(self, kind: WorkKind, curve: ComputeCurve, size: np.ndarray) -> None:
        low, high = curve.calibrated_range
        outside = size[(size > 0) & ((size < low) | (size > high))]
        if not outside.size or (self.name, kind, (low, high)) in _warned:
            return
        _warned.add((self.name, kind, (low, high)))
        unit = "bytes" if kind.is_memory_bound else "FLOPs"
        warnings.warn(
            f"device {self.name!r}: {kind} is calibrated from {low:.3g} to {high:.3g} {unit}; "
            f"{outside.flat[0]:.3g} {unit} is outside and its time extrapolated",
            OutOfCalibrationWarning,
            stacklevel=3,
        )

    def scaled(
        self, *, compute: float = 1.0, memory_bandwidth: float = 1.0, memory: float = 1.0
    ) -> "Device":
        """This device with its rates and memory multiplied, for what-if questions.

        A curve is divided as a whole, launch floor included: by `memory_bandwidth` where its kind
        is memory-bound, else by `compute`.
        """
        for name, factor in (
            ("compute", compute),
            ("memory_bandwidth", memory_bandwidth),
            ("memory", memory),
        ):
            if not 0 < factor < math.inf:
                raise InputError(f"{name} is scaled by {factor}; the factor must be above 0")
        return dataclasses.replace(
            self,
            compute_flops_per_s=self.compute_flops_per_s * compute,
            memory_bandwidth_bytes_per_s=self.memory_bandwidth_bytes_per_s * memory_bandwidth,
            memory_bytes=round(self.memory_bytes * memory),
            curves={
                kind: curve.scaled(memory_bandwidth if kind.is_memory_bound else compute)
                for kind, curve in self.curves.items()
            },
        )
