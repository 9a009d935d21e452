"""A proven lower bound on the dense step of any placement."""

import numpy as np

from d2ft_sched.cluster.compute_curve import WorkKind
from d2ft_sched.cluster.device import Device
from d2ft_sched.costs.exchange import DIRECTIONS, SUBLAYERS
from d2ft_sched.costs.gradient_sums import EMBEDDING, trained_trunk_values
from d2ft_sched.costs.parameters import trained_trunk_parameters
from d2ft_sched.costs.trunk_work import trunk_pieces
from d2ft_sched.placement_search.dense_step import LANE_KINDS, DenseStep
from d2ft_sched.placement_search.layout import subnet_bytes

EXCHANGES = len(SUBLAYERS) * len(DIRECTIONS)
"""Dispatches of a block in the dense step; there are as many combines."""


def dense_lower_bound_s(
    step: DenseStep, *, every_device: bool = False, kept_share: float = 1.0
) -> float:
    """Seconds that no placement on ``step.devices`` beats.

    With one owner its trunk time is known, k active devices in a block mean k - 1 receivers of
    everything it owns, and memory says how many blocks it can hold alone; with q owners the
    exchange is bounded by `_unit_exchange_s`. Lanes on k devices take at least what k devices do
    that are chosen anew for every kind of lane; the bound takes the best k per block and the best
    q.

    Args:
        step: all devices of the cluster.
        every_device: every device holds a subnet of every block.
        kept_share: of what FULL operations keep for backward that must fit.
    """
    k_range = _active_range(step, every_device)
    lanes_s = np.array(
        [[_lanes_bound_s(step, b, k, every_device) for k in k_range] for b in _blocks(step)]
    )
    sent, received = _own_bandwidth(step)
    total = np.array([step.workload.activation_bytes[w].sum() for w in step.waves], dtype=float)
    best = np.inf
    memory = [step.cluster.devices[d].memory_bytes for d in step.devices]
    kinds = np.stack([step.device_type, sent, received, memory], axis=1)
    for owner in np.unique(kinds, axis=0, return_index=True)[1].tolist():
        others = np.delete(np.arange(step.num_devices), owner)
        comm_s = _one_owner_s(k_range, total, owner, others, sent, received)
        trunk_s = step.trunk_s([owner] * step.workload.num_microbatches)
        remote_s = np.inf
        if len(others):
            remote_s = float(_one_owner_s(np.array([2]), total, owner, others, sent, received)[0])
        blocks_s = _one_owner_blocks_s(step, lanes_s, comm_s, remote_s, owner, kept_share)
        best = min(best, trunk_s + blocks_s)
    for q in range(2, min(step.num_devices, step.workload.num_microbatches) + 1):
        comm_s = _many_owners_s(step, k_range, total, q, sent, received)
        fixed_s = _trunk_bound_s(step, q) + _ring_bound_s(step, q, sent)
        best = min(best, fixed_s + _sum_over_blocks(step, lanes_s, comm_s))
    return float(best + update_bound_s(step))


def _active_range(step: DenseStep, every_device: bool) -> np.ndarray:
    most = min(step.num_devices, int(step.block_counts.sum(axis=1).max()))
    return np.array([step.num_devices]) if every_device else np.arange(1, most + 1)


def _blocks(step: DenseStep) -> np.ndarray:
    """One block of each kind."""
    return np.unique(step.block_counts, axis=0, return_index=True)[1]


def _sum_over_blocks(step: DenseStep, lanes_s: np.ndarray, comm_s: np.ndarray) -> float:
    repeats = np.unique(step.block_counts, axis=0, return_counts=True)[1]
    return float(((lanes_s + comm_s).min(axis=1) * repeats).sum())


def _one_owner_blocks_s(
    step: DenseStep,
    lanes_s: np.ndarray,
    comm_s: np.ndarray,
    remote_s: float,
    owner: int,
    kept_share: float,
) -> float:
    """Seconds of all blocks if at most as many are held by the owner alone as fit its memory.

    A block's parameters, their optimizer state and its activations are there at once at the end of
    forward; any other block has at least one receiver, which costs `remote_s`.
    """
    repeats = np.unique(step.block_counts, axis=0, return_counts=True)[1]
    anywhere = np.repeat((lanes_s + comm_s).min(axis=1), repeats)
    remote = np.repeat((lanes_s + np.maximum(comm_s, remote_s)).min(axis=1), repeats)
    gradients = step.size_parameters * step.workload.parameter_bytes
    need = np.sort(step.block_counts @ (subnet_bytes(step, kept_share) - gradients))
    memory = step.cluster.devices[step.devices[owner]].memory_bytes
    num_alone = int(np.searchsorted(np.cumsum(need), memory, side="right"))
    if num_alone >= len(need):
        return float(anywhere.sum())
    dearer = np.sort(remote - anywhere)
    return float(anywhere.sum() + dearer[: len(dearer) - num_alone].sum())


def _own_bandwidth(step: DenseStep) -> tuple[np.ndarray, np.ndarray]:
    """Bytes per second that leave and that enter each device over all of its own links."""
    index = {step.cluster.devices[d].name: i for i, d in enumerate(step.devices)}
    sent, received = np.zeros((2, step.num_devices))
    for link in step.cluster.links_directed:
        if link.source in index:
            sent[index[link.source]] += link.bandwidth_bytes_per_s
        if link.target in index:
            received[index[link.target]] += link.bandwidth_bytes_per_s
    return sent, received


def _one_owner_s(
    k_range: np.ndarray,
    total: np.ndarray,
    owner: int,
    others: np.ndarray,
    sent: np.ndarray,
    received: np.ndarray,
) -> np.ndarray:
    """Exchange seconds of a block for every number of active devices, float ``[num_k]``."""
    narrowest_in, narrowest_out = (
        np.concatenate([[np.inf], np.sort(rate[others])[::-1]]) for rate in (received, sent)
    )
    num_remote = k_range - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        dispatch = np.maximum(num_remote / sent[owner], 1 / narrowest_in[num_remote])
        combine = np.maximum(num_remote / received[owner], 1 / narrowest_out[num_remote])
    return np.where(num_remote > 0, EXCHANGES * (dispatch + combine) * total.sum(), 0.0)


def _many_owners_s(
    step: DenseStep,
    k_range: np.ndarray,
    total: np.ndarray,
    q: int,
    sent: np.ndarray,
    received: np.ndarray,
) -> np.ndarray:
    """As `_one_owner_s` for q owners in the step; a wave's may be fewer."""
    smallest = float(step.workload.activation_bytes.min())
    seconds = np.empty(len(k_range))
    for j, k in enumerate(k_range):
        both = 0.0
        for out, into in ((sent, received), (received, sent)):
            widest_in, widest_out = (
                float(np.sort(r)[::-1][:n].sum()) for r, n in ((into, k), (out, q))
            )
            least = max(smallest / widest_in, smallest / widest_out)
            both += max(least, float(total.sum()) * _unit_exchange_s(int(k), q, out, into))
        seconds[j] = EXCHANGES * both
    return seconds


def _unit_exchange_s(k: int, q: int, sent: np.ndarray, received: np.ndarray) -> float:
    """Seconds per byte, at the least, to bring everything from q owners to k active devices.

    In time t a device that owns the share x receives the rest, 1 - x <= t * received, and sends its
    own at least k - 1 times, x * (k - 1) <= t * sent. There must be k devices that can do both, of
    shares that add up to at most 1, and q owners whose shares reach 1.
    """

    def possible(t: float) -> bool:
        least = np.maximum(0.0, 1 - t * received)
        most = np.minimum(1.0, t * sent / (k - 1)) if k > 1 else np.ones(len(sent))
        able = np.sort(least[least <= most * (1 + 1e-12)])
        return (
            len(able) >= k
            and able[:k].sum() <= 1 + 1e-12
            and np.sort(most)[::-1][:q].sum() >= 1 - 1e-12
        )

    low, high = 0.0, float(k / min(sent.min(), received.min()))
    if possible(low):
        return 0.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if possible(middle) else (middle, high)
    return low


def _lanes_bound_s(step: DenseStep, block: int, k: int, every_device: bool) -> float:
    """Seconds of a block's lanes on k devices, each kind of lane bounded by itself."""
    wanted = step.block_counts[block]
    if np.count_nonzero(wanted) == 1:
        return _equal_lanes_bound_s(step, wanted, k, least=int(every_device))
    seconds = 0.0
    models = [step.cluster.devices[d] for d in step.devices]
    whole = step.lane_work(wanted)
    items = [step.lane_work(one) for one in np.eye(len(wanted), dtype=np.int64)[wanted > 0]]
    for kind_index, kind in enumerate(LANE_KINDS):
        for wave in range(len(step.waves)):
            work, moved = (float(amount[kind_index, wave]) for amount in whole)
            if not work:
                continue
            leanest = moved / work  # the more a group holds, the fewer bytes of each FLOP
            of_items = np.array([[amount[kind_index, wave] for amount in item] for item in items]).T
            item_s = np.array([model.seconds(kind, *of_items) for model in models])
            rates = [best_rate(model, kind, work, 1.0, leanest) for model in models]
            fastest = float(np.sort(rates)[::-1][:k].sum())
            smallest_s = float(item_s.min(axis=1).max()) if every_device else 0.0
            seconds += max(work / fastest, float(item_s.max(axis=1).min()), smallest_s)
    return seconds


def best_rate(
    device: Device, kind: WorkKind, work: float, flops_per_unit: float, bytes_per_unit: float
) -> float:
    """A rate that a device exceeds on no part of some work of one kind.

    Args:
        device: timed by its curve or its roofline.
        kind: of the work, which is counted in FLOPs or bytes as its curve is.
        work: all of it.
        flops_per_unit, bytes_per_unit: at the least, of each unit of work.
    """
    curve = device.curves.get(kind)
    if curve is None:
        return 1 / max(
            flops_per_unit / device.compute_flops_per_s,
            bytes_per_unit / device.memory_bandwidth_bytes_per_s,
        )
    sizes = np.array([w for w in curve.work if w < work] + [work])
    return float((sizes / curve.seconds_at(sizes)).max())


def _equal_lanes_bound_s(step: DenseStep, wanted: np.ndarray, k: int, least: int) -> float:
    """Exact makespan of each kind of lane, if the best k devices could differ by kind."""
    size = int(np.flatnonzero(wanted)[0])
    num = int(wanted[size])
    held = np.zeros((num + 1, len(wanted)), dtype=np.int64)
    held[:, size] = np.arange(num + 1)
    types, first = np.unique(step.device_type, return_index=True)
    table = np.array([[step.lanes_s(d, h) for h in held] for d in first])
    per_device = table[np.searchsorted(types, step.device_type)]
    seconds = 0.0
    for wave in range(per_device.shape[2]):
        for kind in range(per_device.shape[3]):
            time_s = per_device[:, :, wave, kind]
            levels = np.unique(time_s[:, 1:])
            possible = (time_s[None, :, :] <= levels[:, None, None]).sum(axis=2) - 1
            together = np.sort(possible, axis=1)[:, ::-1][:, :k].sum(axis=1)
            enough = (together >= num) & (possible.min(axis=1) >= least)
            seconds += float(levels[np.argmax(enough)])
    return seconds


def _trunk_bound_s(step: DenseStep, q: int) -> float:
    seconds = 0.0
    for kind, flops, bytes_moved in (
        work for piece in trunk_pieces(step.workload) for work in piece.directions
    ):
        amount = bytes_moved if kind.is_memory_bound else flops
        for wave in step.waves:
            work = float(amount[wave].sum())
            leanest = [float((each[wave] / amount[wave]).min()) for each in (flops, bytes_moved)]
            rates = [best_rate(step.cluster.devices[d], kind, work, *leanest) for d in step.devices]
            seconds += work / float(np.sort(rates)[::-1][:q].sum())
    return seconds


def _ring_bound_s(step: DenseStep, q: int, sent: np.ndarray) -> float:
    # The embedding's gradients come last: no backward pass hides their sum, which it may of others.
    embedding = int(trained_trunk_values(step.workload)[EMBEDDING])
    chunk = embedding * step.workload.parameter_bytes / q
    return float(2 * (q - 1) * chunk / np.sort(sent)[::-1][q - 1])


def update_bound_s(step: DenseStep) -> float:
    """Seconds of the parameter update that no placement beats."""
    trunk = trained_trunk_parameters(step.workload) * step.update_bytes_per_parameter
    subnets = float(step.block_counts.sum(axis=0) @ step.size_parameters)
    work = subnets * step.update_bytes_per_parameter + trunk
    models = [step.cluster.devices[d] for d in step.devices]
    rates = [best_rate(model, WorkKind.OPTIMIZER, work, 0.0, 1.0) for model in models]
    trunk_s = min(float(model.seconds(WorkKind.OPTIMIZER, 0.0, trunk)) for model in models)
    return max(work / sum(rates), trunk_s)
