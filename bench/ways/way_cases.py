"""Clusters, models and mini-batches that plans must not lose to their own table on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from d2ft_sched.cluster import topology
from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.cluster.cluster_file import load_cluster
from d2ft_sched.cluster.device import Device
from d2ft_sched.cluster.device_presets import preset_device
from d2ft_sched.cluster.topology import Cable, Network
from d2ft_sched.model.lora import Lora
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape_file import load_model_shape
from d2ft_sched.model.workload import Workload

EXAMPLES = Path(__file__).parents[2] / "examples/clusters"
GIGABIT = 1e9 / 8
LATENCY_S = 50e-6
MODELS = (
    "vit_small_patch16_224",
    "vit_base_patch16_224",
    "vit_large_patch16_224",
    "bert-base-uncased",
)
MICROBATCHES = ((2, 16), (5, 16), (8, 16), (8, 32), (8, 64))
"""Number and samples of them: mini-batches of 32 to 512."""


@dataclass(frozen=True)
class Case:
    """A question: what to run where.

    Attributes:
        cluster: its devices and links.
        workload: its model and mini-batch.
    """

    cluster: Cluster
    workload: Workload

    @property
    def name(self) -> str:
        tuned = "LoRA" if self.workload.lora else "full"
        samples = int(self.workload.samples.sum())
        return f"{self.cluster.name}, {self.workload.shape.name}, {tuned}, {samples}"


def _presets(*presets: str) -> tuple[Device, ...]:
    return tuple(preset_device(preset, f"d{i}") for i, preset in enumerate(presets))


def _cpus(*gigaflops: float) -> tuple[Device, ...]:
    return tuple(
        Device(f"cpu{i}", 1e9 * rate, 16 * 10**9, 0.2e9 * rate) for i, rate in enumerate(gigaflops)
    )


def _star(
    name: str, devices: Sequence[Device], gigabits: float, slow: dict[int, float] | None = None
) -> Cluster:
    """On one switch; `slow` has the Gbit/s of those that differ."""
    names = [device.name for device in devices]
    cables = {names[d]: Cable(g * GIGABIT, LATENCY_S) for d, g in (slow or {}).items()}
    return _of(name, devices, topology.star(names, Cable(gigabits * GIGABIT, LATENCY_S), cables))


def _of(name: str, devices: Sequence[Device], network: Network) -> Cluster:
    return Cluster(name, tuple(devices), network.links, network.switches, network.topology)


def built_clusters() -> list[Cluster]:
    """Two to eight consumer GPUs on 1, 10 and 100 Gbit/s, islands, and CPUs."""
    pair, desk = ("rtx-4090", "rtx-3090"), ("rtx-4090", "rtx-3090", "rtx-3090", "t4")
    small = tuple(
        replace(device, memory_bytes=6 * 10**9) for device in _presets("t4", "t4", "t4", "t4")
    )
    eight = _presets(*("rtx-3090",) * 8)
    names = [device.name for device in eight]
    pairs = topology.islands(
        [names[i : i + 2] for i in range(0, 8, 2)],
        Cable(50e9, 3e-6),
        Cable(10 * GIGABIT, LATENCY_S),
    )
    uneven = _presets("a100-sxm-80gb", "a100-sxm-80gb", "l4", "l4", "l4")
    two_islands = topology.islands(
        [[d.name for d in uneven[:2]], [d.name for d in uneven[2:]]],
        Cable(200e9, 3e-6),
        Cable(25 * GIGABIT, LATENCY_S),
    )
    return [
        _star("two GPUs, 1 Gbit/s", _presets(*pair), 1),
        _star("two GPUs, 100 Gbit/s", _presets(*pair), 100),
        _star("desk, 10 Gbit/s", _presets(*desk), 10),
        _star("desk, 100 Gbit/s", _presets(*desk), 100),
        _star("four small GPUs, 10 Gbit/s", small, 10),
        _star("eight GPUs, 1 Gbit/s", eight, 1),
        _of("eight GPUs in pairs", eight, pairs),
        _of("two unequal islands", uneven, two_islands),
        _star("CPUs, 1 Gbit/s", _cpus(200, 100, 100, 50), 1),
        _star("CPUs, one slow link", _cpus(150, 150, 90, 45), 2.5, {2: 0.1, 3: 0.05}),
    ]


def example_clusters() -> list[Cluster]:
    """Those of `examples/clusters`."""
    return [load_cluster(path) for path in sorted(EXAMPLES.glob("*.yaml"))]


def cases(per_example: int = 2, per_built: int = 3) -> Iterator[Case]:
    """Some models and mini-batches on every cluster, all of them in turn."""
    number = 0
    for clusters, count in ((example_clusters(), per_example), (built_clusters(), per_built)):
        for cluster in clusters:
            for _ in range(count):
                microbatches, samples = MICROBATCHES[number % len(MICROBATCHES)]
                is_adapted = number % 7 in (1, 3, 5)
                model = MODELS[number % len(MODELS)]
                yield _case(cluster, model, (samples,) * microbatches, is_adapted)
                number += 1


def odd_cases() -> Iterator[Case]:
    """A dozen that nobody tuned for: extremes of devices, links, memory and mini-batches."""
    small, base, large, bert = MODELS
    slow = (*_presets("rtx-3090", "rtx-3090", "rtx-3090"), *_cpus(700))
    tiny = tuple(replace(d, memory_bytes=3 * 10**9) for d in _presets("t4", "t4", "t4"))
    eight = _presets(*("rtx-4090",) * 8)
    names = [device.name for device in eight]
    fours = topology.islands(
        [names[:4], names[4:]], Cable(300e9, 3e-6), Cable(25 * GIGABIT, LATENCY_S)
    )
    mixed = (*_presets("rtx-4090", "rtx-3090"), *_cpus(800, 800, 400, 400))
    desk = _presets("rtx-4090", "rtx-3090", "rtx-3090", "t4")
    four = _presets(*("rtx-3090",) * 4)
    yield _case(Cluster("one GPU", _presets("rtx-4090")), base, (16,) * 5)
    yield _case(_star("two alike, 1 Gbit/s", _presets("t4", "t4"), 1), small, (16, 16))
    yield _case(_star("one of four 50 times slower", slow, 10), base, (16,) * 5, True)
    yield _case(_star("three too small alone", tiny, 10), large, (4,) * 8)
    yield _case(_of("two islands of four", eight, fours), large, (64,) * 8)
    yield _case(_star("six CPUs", _cpus(300, 300, 200, 200, 100, 50), 1), small, (16,) * 5)
    yield _case(_star("one slow link of four", four, 10, {1: 0.1}), small, (16,) * 8)
    yield _case(_star("desk, texts", desk, 10), bert, (16,) * 5)
    yield _case(_star("desk, adapters", desk, 10), large, (64,) * 8, True)
    yield _case(_star("eight GPUs, eight samples", eight, 10), small, (1,) * 8)
    yield _case(_star("four GPUs, many samples", four, 10), large, (64,) * 8)
    yield _case(_star("GPUs and CPUs", mixed, 10), base, (16,) * 8)


def _case(
    cluster: Cluster, model: str, microbatches: tuple[int, ...], is_adapted: bool = False
) -> Case:
    shape = load_model_shape(model)
    lora = Lora(8, 16.0) if is_adapted else None
    return Case(cluster, Workload(shape, partition_by_heads(shape, 1), microbatches, lora=lora))
