"""Seconds of the dense step of a placement, in closed form: what placements are ranked by.

The phases are those of the simulator: in every block and sub-layer dispatch, lanes and combine,
each as long as its slowest participant; then the sum of the trunk's gradients, priced as if no
backward pass hid any of it, and the parameter update.
An exchange lasts as long as its busiest link, after the longest latency. Where only adapters train,
the first block is priced as the others, though its attention hands no gradient on, and their
all-reduce is left out: it hardly depends on the placement. Targets are of the simulator's step
there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from scipy.sparse import csr_array

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.cluster.compute_curve import WorkKind
from d2ft_sched.costs.exchange import DIRECTIONS, SUBLAYERS
from d2ft_sched.costs.flops import (
    attention_flops_of,
    mlp_flops_of,
    shared_factor_flops,
)
from d2ft_sched.costs.lanes.lane_traffic import lane_bytes_of, shared_factor_bytes
from d2ft_sched.costs.parameters import (
    trained_shared_parameters,
    trained_subnet_parameters,
    trained_trunk_parameters,
)
from d2ft_sched.costs.trunk_work import trunk_pieces
from d2ft_sched.errors import InputError
from d2ft_sched.files.counted import counted
from d2ft_sched.model.optimizer_states import OPTIMIZER_STATES
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.waves import wave_microbatches

LANE_KINDS = (
    WorkKind.ATTENTION_FORWARD,
    WorkKind.ATTENTION_BACKWARD,
    WorkKind.MLP_FORWARD,
    WorkKind.MLP_BACKWARD,
)


@dataclass(frozen=True, eq=False)
class DenseStep:
    """Prices placements on some devices of a cluster.

    A layout says how many subnets of each size every device holds in every block: counts, int
    ``[num_blocks, num_devices, num_sizes]``. Devices are counted within `devices`.

    Attributes:
        workload: model, partition and mini-batch.
        cluster: devices and links.
        devices: indices of the cluster's devices that may be used.
        num_waves: groups of micro-batches that pass through the model one after another.
        recomputing: those of them that compute forward again in backward, indices of the cluster's
            devices, sorted.
    """

    workload: Workload
    cluster: Cluster
    devices: tuple[int, ...]
    num_waves: int = 1
    recomputing: tuple[int, ...] = ()
    _lanes: dict[tuple[int, bytes], np.ndarray] = field(default_factory=dict, repr=False)
    _exchanges: dict[bytes, float] = field(default_factory=dict, repr=False)
    _trunks: dict[tuple[int, int], tuple[float, float]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not 1 <= self.num_waves <= self.workload.num_microbatches:
            raise InputError(
                f"number of waves is {self.num_waves}; it must be between 1 and the "
                f"{counted(self.workload.num_microbatches, 'micro-batch')}"
            )

    @property
    def num_devices(self) -> int:
        return len(self.devices)

    @cached_property
    def sizes(self) -> tuple[np.ndarray, np.ndarray]:
        """A subnet of each size, int ``[num_sizes]``, and the size of every subnet, int
        ``[num_subnets]``; the largest size first."""
        partition = self.workload.partition
        pairs = np.stack([partition.heads, partition.hidden], axis=1)
        _, example, size = np.unique(-pairs, axis=0, return_index=True, return_inverse=True)
        return example, size.ravel()

    @cached_property
    def block_counts(self) -> np.ndarray:
        """Subnets of each size in every block, int ``[num_blocks, num_sizes]``."""
        example, size = self.sizes
        counts = np.zeros((self.workload.shape.num_blocks, len(example)), dtype=np.int64)
        np.add.at(counts, (self.workload.partition.block, size), 1)
        return counts

    @cached_property
    def waves(self) -> list[np.ndarray]:
        return wave_microbatches(self.workload.num_microbatches, self.num_waves)

    @cached_property
    def wave_tokens(self) -> np.ndarray:
        """Tokens of each wave, int ``[num_waves]``."""
        return np.array([self.workload.tokens[wave].sum() for wave in self.waves])

    def lane_work(
        self, held: np.ndarray, recomputes: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """FLOPs and bytes moved by the lane group of a block's subnets on one device, float
        ``[4 kinds, num_waves]`` each.

        Args:
            held: subnets of each size, int ``[num_sizes]``.
            recomputes: whether the device computes forward again in backward.
        """
        example, _ = self.sizes
        heads, hidden = (
            units[example] @ held
            for units in (self.workload.partition.heads, self.workload.partition.hidden)
        )
        tokens = self.wave_tokens
        attention = attention_flops_of(self.workload, heads, tokens, recomputes=recomputes)
        mlp = mlp_flops_of(self.workload, hidden, tokens, recomputes=recomputes)
        moved = lane_bytes_of(self.workload, heads, hidden, tokens, recomputes=recomputes)
        return (
            np.array([attention.forward, attention.backward, mlp.forward, mlp.backward]),
            np.array(
                [
                    moved.attention_forward,
                    moved.attention_backward,
                    moved.mlp_forward,
                    moved.mlp_backward,
                ]
            ),
        )

    @cached_property
    def shared_work(self) -> tuple[np.ndarray, np.ndarray]:
        """FLOPs and bytes moved by any device with a subnet of a block besides, for adapters'
        shared factors; float ``[4 kinds, num_waves]`` each."""
        tokens = self.wave_tokens
        flops: list[np.ndarray] = []
        moved: list[np.ndarray] = []
        for maps_in in self.workload.shape.num_maps_in:
            of_maps = shared_factor_flops(self.workload, maps_in, tokens, tokens, tokens, tokens)
            flops += [of_maps.forward, of_maps.backward]
            moved += shared_factor_bytes(self.workload, maps_in, tokens, tokens, tokens)
        return np.array(flops), np.array(moved)

    @cached_property
    def device_type(self) -> np.ndarray:
        """Equal numbers for devices that compute alike, int ``[num_devices]``."""
        known: dict[tuple[object, ...], int] = {}
        types = []
        for d in self.devices:
            device = self.cluster.devices[d]
            key = (
                device.compute_flops_per_s,
                device.memory_bandwidth_bytes_per_s,
                device.launch_s,
                device.overlaps,
                d in self.recomputing,
                tuple(sorted((k.value, c.work, c.seconds) for k, c in device.curves.items())),
            )
            types.append(known.setdefault(key, len(known)))
        return np.array(types)

    def lanes_s(self, device: int, held: np.ndarray) -> np.ndarray:
        """Seconds of a device's lanes in one block, float ``[num_waves, 4 kinds]``.

        Args:
            device: index within `devices`.
            held: subnets of each size, int ``[num_sizes]``.
        """
        key = (int(self.device_type[device]), held.tobytes())
        if key not in self._lanes:
            model = self.cluster.devices[self.devices[device]]
            work = [self.lane_work(held, self.devices[device] in self.recomputing)]
            if self.workload.lora is not None and held.any():
                work.append(self.shared_work)
            seconds = [
                sum(model.seconds(kind, flops[k], moved[k]) for flops, moved in work)
                for k, kind in enumerate(LANE_KINDS)
            ]
            self._lanes[key] = np.array(seconds).T
        return self._lanes[key]

    @cached_property
    def seconds_per_byte(self) -> csr_array:
        """Seconds per byte on every channel of a message between two devices,
        ``[num_channels, num_devices ** 2]``."""
        num = self.num_devices
        source, target = np.divmod(np.arange(num * num), num)
        index = np.array(self.devices)
        routes = self.cluster.routes(index[source], index[target])
        pair = np.repeat(np.arange(num * num), np.diff(routes.offsets))
        channel = self.cluster.link_channel[routes.links]
        per_byte = 1 / self.cluster.link_bandwidth_bytes_per_s[routes.links]
        num_channels = max(1, len(self.cluster.link_bandwidth_bytes_per_s))
        return csr_array((per_byte, (channel, pair)), shape=(num_channels, num * num))

    @cached_property
    def latency_s(self) -> np.ndarray:
        """Of the route between two devices, ``[num_devices, num_devices]``."""
        return self.cluster.path_latency_s()[np.ix_(self.devices, self.devices)]

    def messages_s(self, pair_bytes: np.ndarray) -> float:
        """Seconds of one exchange, bytes from row to column device, ``[num_devices] * 2``."""
        if not pair_bytes.any():
            return 0.0
        busiest_s = (self.seconds_per_byte @ pair_bytes.ravel()).max()
        return float(busiest_s + self.latency_s[pair_bytes > 0].max())

    def exchange_s(self, active: np.ndarray, owned_bytes: np.ndarray) -> float:
        """Seconds of all exchanges of a block.

        Args:
            active: devices that hold a subnet of it, bool ``[num_devices]``.
            owned_bytes: bytes of the messages that each device owns, ``[num_waves, num_devices]``.
        """
        key = active.tobytes() + owned_bytes.tobytes()
        if key not in self._exchanges:
            total_s = 0.0
            for owned in owned_bytes:
                dispatch = owned[:, None] * active[None, :]
                np.fill_diagonal(dispatch, 0.0)
                total_s += self.messages_s(dispatch) + self.messages_s(dispatch.T)
            self._exchanges[key] = len(SUBLAYERS) * len(DIRECTIONS) * total_s
        return self._exchanges[key]

    def block_s(self, held: np.ndarray, owned_bytes: np.ndarray) -> float:
        """Seconds of one block: lanes and exchanges; `held` is int ``[num_devices, num_sizes]``."""
        active = np.asarray(held.any(axis=1))
        lanes_s = np.max(
            [self.lanes_s(d, held[d]) for d in np.flatnonzero(active).tolist()], axis=0
        )
        return float(lanes_s.sum()) + self.exchange_s(active, owned_bytes)

    def owned_bytes(self, owner: Sequence[int]) -> np.ndarray:
        """Message bytes owned by each device in each wave, float ``[num_waves, num_devices]``."""
        owner_array, size = np.array(owner), self.workload.activation_bytes.astype(float)
        return np.array(
            [
                np.bincount(owner_array[w], weights=size[w], minlength=self.num_devices)
                for w in self.waves
            ]
        )

    def trunk_s(self, owner: Sequence[int]) -> float:
        """Seconds of the trunk, forward and backward, on its owners."""
        owner_array, samples = np.array(owner), self.workload.samples
        total_s = 0.0
        for wave in self.waves:
            owned = np.bincount(owner_array[wave], weights=samples[wave]).astype(int).tolist()
            per_device = [
                self._owner_trunk_s(d, number) for d, number in enumerate(owned) if number
            ]
            total_s += sum(map(max, zip(*per_device, strict=True)))
        return total_s

    def _owner_trunk_s(self, device: int, num_samples: int) -> tuple[float, float]:
        """Seconds of the trunk of so many samples on one device, forward and backward."""
        key = (int(self.device_type[device]), num_samples)
        if key not in self._trunks:
            one = replace(self.workload, microbatch_samples=(num_samples,))
            model = self.cluster.devices[self.devices[device]]
            forward_s, backward_s = np.sum(
                [
                    [float(model.seconds(*work)[0]) for work in piece.directions]
                    for piece in trunk_pieces(one)
                ],
                axis=0,
            ).tolist()
            self._trunks[key] = forward_s, backward_s
        return self._trunks[key]

    def all_reduce_s(self, owner: Sequence[int]) -> float:
        """Seconds of the ring that sums the trunk's gradients."""
        owners = sorted(set(owner), key=lambda d: self.devices[d])
        if len(owners) == 1:
            return 0.0
        trunk_bytes = trained_trunk_parameters(self.workload) * self.workload.parameter_bytes
        step_bytes = np.zeros((self.num_devices, self.num_devices))
        for source, target in zip(owners, (*owners[1:], owners[0]), strict=True):
            step_bytes[source, target] = trunk_bytes / len(owners)
        return 2 * (len(owners) - 1) * self.messages_s(step_bytes)

    @cached_property
    def size_parameters(self) -> np.ndarray:
        """Parameters of a subnet of each size that train, ``[num_sizes]``."""
        return trained_subnet_parameters(self.workload)[self.sizes[0]]

    @property
    def update_bytes_per_parameter(self) -> int:
        """Bytes that the optimizer moves for each parameter that trains."""
        states = OPTIMIZER_STATES[self.workload.optimizer]
        return (3 + 2 * states) * self.workload.parameter_bytes

    def update_s(self, counts: np.ndarray, owner: Sequence[int]) -> float:
        """Seconds of the parameter update on the slowest device."""
        held = (counts.sum(axis=0) @ self.size_parameters).astype(float)
        held += counts.any(axis=2).sum(axis=0) * trained_shared_parameters(self.workload)
        held[sorted(set(owner))] += trained_trunk_parameters(self.workload)
        moved = held * self.update_bytes_per_parameter
        return max(
            float(self.cluster.devices[self.devices[d]].seconds(WorkKind.OPTIMIZER, 0.0, moved[d]))
            for d in np.flatnonzero(held)
        )

    def seconds(self, counts: np.ndarray, owner: Sequence[int]) -> float:
        """Seconds of the dense step of a layout and the owners of the micro-batches."""
        owned = self.owned_bytes(owner)
        blocks, repeats = np.unique(counts, axis=0, return_counts=True)
        blocks_s = sum(
            n * self.block_s(held, owned) for held, n in zip(blocks, repeats, strict=True)
        )
        return float(
            blocks_s + self.trunk_s(owner) + self.all_reduce_s(owner) + self.update_s(counts, owner)
        )
