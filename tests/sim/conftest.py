"""Steps of small models on random unequal clusters, for tests of the simulator's results."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from d2ft_sched.cluster import topology
from d2ft_sched.cluster.cluster import Cluster, Duplex
from d2ft_sched.cluster.device import Device
from d2ft_sched.cluster.topology import Cable
from d2ft_sched.deployment import deploy
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import ModelShape
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.placement import Placement
from sim.prediction import Prediction
from sim.step import simulate_step

SHAPE = ModelShape(
    "m",
    num_blocks=2,
    num_heads=4,
    head_dim=8,
    width=32,
    mlp_hidden=64,
    num_tokens=5,
    embed_flops=1000,
    classifier_flops=640,
    trunk_parameters=4321,
)


@dataclass(frozen=True)
class Step:
    """Everything that a step is simulated from."""

    workload: Workload
    cluster: Cluster
    placement: Placement
    schedule: np.ndarray
    num_waves: int

    def on(self, cluster: Cluster, overlap: bool = False) -> Prediction:
        return simulate_step(
            deploy(self.workload, cluster, self.placement, self.num_waves),
            self.schedule,
            overlap=overlap,
        )

    def predicted(self, overlap: bool = False) -> Prediction:
        return self.on(self.cluster, overlap)


def _random_step(
    seed: int,
    *,
    num_devices: int | None = None,
    launch_s: float = 0.0,
    duplexes: Sequence[Duplex] = ("full", "half"),
) -> Step:
    """Few devices of unequal speed behind unequal cables on a switch."""
    rng = np.random.default_rng(seed)
    num_devices = num_devices or int(rng.integers(2, 6))
    names = [f"d{i}" for i in range(num_devices)]
    devices = tuple(
        Device(n, 1e9 * rng.uniform(0.2, 5), 10**9, 1e9 * rng.uniform(1, 5), launch_s=launch_s)
        for n in names
    )
    cables = {
        n: Cable(1e6 * rng.uniform(0.5, 5), 1e-4 * rng.uniform(0, 5), rng.choice(duplexes))
        for n in names
    }
    network = topology.star(names, Cable(1e6, 1e-4), cables)
    workload = Workload(SHAPE, partition_by_heads(SHAPE, 1), (4, 3, 5))
    return Step(
        workload,
        Cluster("random", devices, network.links, network.switches, network.topology),
        Placement(
            num_devices,
            tuple(rng.integers(0, num_devices, workload.num_subnets).tolist()),
            tuple(rng.integers(0, num_devices, 3).tolist()),
        ),
        rng.integers(0, 4, (workload.num_subnets, 3)).astype(np.int8),
        num_waves=int(rng.integers(1, 4)),
    )


@pytest.fixture(scope="session")
def random_step() -> Callable[..., Step]:
    """``random_step(seed, num_devices=..., launch_s=..., duplexes=...)``."""
    return _random_step


@pytest.fixture(scope="session")
def overfull() -> Step:
    """A step that fits one of two devices and exceeds the other's memory."""
    step = _random_step(0, num_devices=2)
    first, second = step.cluster.devices
    devices = (replace(first, memory_bytes=1000), second)
    return replace(step, cluster=replace(step.cluster, devices=devices))
