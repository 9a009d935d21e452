"""What a simulated step costs: times, bytes, FLOPs and memory, with the timeline behind them."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.cluster.compute_curve import WorkKind
from d2ft_sched.costs.memory import DeviceMemory
from sim.network.exchange_time import channel_seconds, link_loads

if TYPE_CHECKING:
    import pandas as pd

TOGETHER = -1
"""As a phase's replica: all of them."""


@dataclass(frozen=True)
class Phase:
    """An interval in which devices compute or links carry messages, ended by a barrier.

    Attributes:
        wave: index of the group of micro-batches.
        direction: "forward", "backward" or "update".
        block: transformer block, or -1 outside blocks.
        name: such as "attention lanes" or "mlp dispatch".
        start_s: when it starts, for all.
        duration_s: until its last participant is done.
        device_s: busy seconds of each device, float ``[num_devices]``; None for an exchange.
        pair_bytes: bytes from row to column device, ``[num_devices, num_devices]``; None for
            computation.
        device_start_s: when each device starts to compute, float ``[num_devices]``; None where
            all start at `start_s`.
        replica: that it belongs to; -1 for what all replicas do together.
        yielded_s: of a sum of gradients, seconds in which exchanges had the links that it needs.
    """

    wave: int
    direction: str
    block: int
    name: str
    start_s: float
    duration_s: float
    device_s: np.ndarray | None = None
    pair_bytes: np.ndarray | None = None
    device_start_s: np.ndarray | None = None
    replica: int = 0
    yielded_s: float = 0.0

    def moved(self, **changes: object) -> "Phase":
        """As `dataclasses.replace`, for fields that nothing checks: a step has hundreds of
        phases."""
        other = object.__new__(Phase)
        vars(other).update(vars(self), **changes)
        return other

    @property
    def alone_s(self) -> float:
        """How long it takes without what it yields to."""
        return self.duration_s - self.yielded_s

    @property
    def is_sum(self) -> bool:
        """Whether it sums gradients over devices, while backward goes on."""
        return self.pair_bytes is not None and self.replica == TOGETHER

    @property
    def end_s(self) -> float:
        """When its last participant is done."""
        return self.start_s + self.duration_s

    def device_interval_s(self) -> tuple[np.ndarray, np.ndarray]:
        """Start and end of each device's computation, float ``[num_devices]``; of one that has
        nothing to do they are equal."""
        assert self.device_s is not None
        start_s = np.broadcast_to(
            self.start_s if self.device_start_s is None else self.device_start_s,
            self.device_s.shape,
        )
        return start_s, start_s + self.device_s


@dataclass(frozen=True)
class OutOfMemory:
    """A device whose memory the step exceeds.

    Attributes:
        device: its name.
        needed_bytes: peak of the step.
        memory_bytes: what it has.
    """

    device: str
    needed_bytes: float
    memory_bytes: float

    @property
    def shortfall_bytes(self) -> float:
        """What is missing."""
        return self.needed_bytes - self.memory_bytes


@dataclass(frozen=True)
class Prediction:
    """The simulator's answer for one training step: a prediction, never a measurement.

    Attributes:
        cluster: the devices and links.
        phases: every phase in the order of issue; those of different replicas, and of different
            waves, may overlap in time, and sums of gradients all others but the update.
        flops: that the plan asks for in the whole step, trunk included.
        memory: peak bytes of each device by purpose.
        is_overlapped: whether the waves' phases overlap.
        wasted_flops: computed besides, and masked, where that is cheaper than another lane group.
    """

    cluster: Cluster
    phases: tuple[Phase, ...]
    flops: float
    memory: DeviceMemory
    is_overlapped: bool = False
    wasted_flops: float = 0.0

    @property
    def step_s(self) -> float:
        """Seconds until the last phase is done."""
        return max(p.end_s for p in self.phases)

    @cached_property
    def device_busy_s(self) -> np.ndarray:
        """Seconds that each device computes, float ``[num_devices]``."""
        return sum(
            (p.device_s for p in self.phases if p.device_s is not None),
            start=np.zeros(len(self.cluster.devices)),
        )

    @property
    def device_idle_s(self) -> np.ndarray:
        """Seconds that each device waits for others or for links, float ``[num_devices]``."""
        return self.step_s - self.device_busy_s

    @property
    def workload_cv(self) -> float:
        """Coefficient of variation of the busy seconds of the devices that compute."""
        busy_s = self.device_busy_s[self.device_busy_s > 0]
        return float(np.std(busy_s) / np.mean(busy_s))

    @cached_property
    def exchange_s(self) -> float:
        """Seconds in which the step waits for messages: some are under way, no device computes."""
        computing = [p.device_interval_s() for p in self.phases if p.device_s is not None]
        moving = [([p.start_s], [p.end_s]) for p in self.phases if p.pair_bytes is not None]
        none = np.empty((2, 0))
        intervals = [np.concatenate([none, *part], axis=1) for part in (computing, moving)]
        moment = np.unique(np.concatenate(intervals, axis=1))
        under_way = np.zeros((2, len(moment)), dtype=int)
        for kind, (start_s, end_s) in zip(under_way, intervals, strict=True):
            np.add.at(kind, np.searchsorted(moment, start_s), 1)
            np.add.at(kind, np.searchsorted(moment, end_s), -1)
        computes, moves = under_way.cumsum(axis=1) > 0
        return float(np.diff(moment)[(moves & ~computes)[:-1]].sum())

    @property
    def exposed_sums_s(self) -> float:
        """Seconds that the update waits for sums of gradients when backward has ended."""
        sums = [p.end_s for p in self.phases if p.is_sum]
        others = [p.end_s for p in self.phases if not p.is_sum and p.replica != TOGETHER]
        return max(0.0, max(sums, default=0.0) - max(others, default=0.0))

    @cached_property
    def pair_bytes(self) -> np.ndarray:
        """Bytes of the step from row to column device, ``[num_devices, num_devices]``."""
        num_devices = len(self.cluster.devices)
        return sum(
            (p.pair_bytes for p in self.phases if p.pair_bytes is not None),
            start=np.zeros((num_devices, num_devices)),
        )

    @property
    def exchange_bytes(self) -> float:
        """Bytes handed to the network by dispatch and combine and by the sums of gradients."""
        return float(self.pair_bytes.sum())

    @property
    def peak_memory_bytes(self) -> np.ndarray:
        """Peak bytes of each device, float ``[num_devices]``."""
        return self.memory.total

    @property
    def out_of_memory(self) -> tuple[OutOfMemory, ...]:
        """The devices that the step does not fit, in the cluster's order."""
        return tuple(
            OutOfMemory(device.name, float(needed), device.memory_bytes)
            for device, needed in zip(self.cluster.devices, self.peak_memory_bytes, strict=True)
            if needed > device.memory_bytes
        )

    @property
    def is_calibrated(self) -> bool:
        """Whether all work of every device is timed by measured curves, none by a roofline."""
        return all(d.is_calibrated(kind) for d in self.cluster.devices for kind in WorkKind)

    def link_bytes(self) -> "pd.DataFrame":
        """Bytes of every directed link that carries some, and for how much of the step its channel
        is busy: both directions together where they share it (half duplex)."""
        import pandas as pd

        carried = link_loads(self.cluster, self.pair_bytes)
        busy_s = channel_seconds(self.cluster, carried)[self.cluster.link_channel]
        rows = [
            {
                "link": f"{link.source} -> {link.target}",
                "bytes": float(carried[index]),
                "utilisation": float(busy_s[index] / self.step_s),
            }
            for index, link in enumerate(self.cluster.links_directed)
            if carried[index]
        ]
        return pd.DataFrame(rows, columns=["link", "bytes", "utilisation"])

    def timeline(self) -> "pd.DataFrame":
        """One row per device and phase in which it computes, and per phase of messages.

        Columns: wave, direction, block, phase, resource (a device's name, or "network"), start_s,
        end_s, bytes.
        """
        import pandas as pd

        names = [d.name for d in self.cluster.devices]
        rows: list[dict[str, Any]] = []
        for p in self.phases:
            common = {"wave": p.wave, "direction": p.direction, "block": p.block, "phase": p.name}
            if p.device_s is not None:
                starts_s, ends_s = p.device_interval_s()
                rows.extend(
                    {
                        **common,
                        "resource": names[d],
                        "start_s": starts_s[d],
                        "end_s": ends_s[d],
                        "bytes": 0.0,
                    }
                    for d in np.flatnonzero(p.device_s)
                )
            elif p.pair_bytes is not None and p.duration_s:
                rows.append(
                    {
                        **common,
                        "resource": "network",
                        "start_s": p.start_s,
                        "end_s": p.end_s,
                        "bytes": float(p.pair_bytes.sum()),
                    }
                )
        return pd.DataFrame(rows)

    def summary(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return {
            "kind": "prediction",
            "calibrated": self.is_calibrated,
            "step_s": self.step_s,
            "exchange_s": self.exchange_s,
            "flops": self.flops,
            "exchange_bytes": self.exchange_bytes,
            "devices": [
                {
                    "name": device.name,
                    "busy_s": float(self.device_busy_s[d]),
                    "idle_s": float(self.device_idle_s[d]),
                    "peak_memory_bytes": float(self.peak_memory_bytes[d]),
                    "memory_bytes": device.memory_bytes,
                }
                for d, device in enumerate(self.cluster.devices)
            ],
            "links": self.link_bytes().to_dict(orient="records"),
        }
