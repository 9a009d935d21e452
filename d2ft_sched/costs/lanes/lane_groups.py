"""How a schedule becomes batched work: the lane groups of every block on every device.

The runtime executes these groups and the simulator prices them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np

from d2ft_sched.cluster.device import Device
from d2ft_sched.costs.input_gradients import needs_input_gradient
from d2ft_sched.costs.lanes.lane_seconds import LaneSizes, lane_seconds
from d2ft_sched.cutting.lane_rectangles import Runs, whole_rectangle
from d2ft_sched.cutting.lane_search import Cut, Price, cheapest_cut
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.lane_sites import LaneSites, lane_sites
from d2ft_sched.schedule.lanes import LaneGroup
from d2ft_sched.schedule.operations import Operation, runs_backward
from d2ft_sched.schedule.placement import Placement

MOST_REMEMBERED = 16

_MASK_S = 1e9
"""What must not be costs, beside seconds, or 1 for a group where groups stay apart."""


@dataclass(frozen=True, eq=False)
class LaneGroups:
    """The groups of one wave, ordered by device.

    Attributes:
        site: of each group, the number among all that were asked for, int ``[num_groups]``.
        device, block: of each group, int ``[num_groups]``.
        sizes: of each.
        subnets: of each group's site, -1 beyond the last, int ``[num_groups, R]``.
        microbatches: of the wave, int ``[C]``.
        cells: bool ``[num_groups, R]`` and ``[num_groups, C]``, what each group has of them, and
            its operations there, int8 ``[num_groups, R, C]``.
        trained: subnets whose dW each makes, see `LaneGroup`, bool ``[num_groups, R]``.
    """

    site: np.ndarray
    device: np.ndarray
    block: np.ndarray
    sizes: LaneSizes
    subnets: np.ndarray
    microbatches: np.ndarray
    has_subnet: np.ndarray
    has_microbatch: np.ndarray
    cells: np.ndarray
    trained: np.ndarray

    def cells_in_sublayer(self, units: np.ndarray, needs_dx: np.ndarray) -> np.ndarray:
        """`cells` in a sub-layer of so many units of every subnet, int ``[num_subnets]``, that
        hands on gradients of some micro-batches alone, bool ``[num_groups, C]``: without one to
        hand on, REST is FORWARD_ONLY."""
        unneeded = (self.cells == Operation.REST) & ~needs_dx[:, None, :]
        cells = np.where(unneeded, np.int8(Operation.FORWARD_ONLY), self.cells)
        return np.where((units[self.subnets] > 0)[:, :, None], cells, np.int8(Operation.SHORTCUT))

    def runs_backward_on(self, units: np.ndarray, needs_dx: np.ndarray) -> np.ndarray:
        """On which of their micro-batches groups run backward in a sub-layer, bool
        ``[num_groups, C]``; arguments as in `cells_in_sublayer`.

        A group with REST and without FULL leaves out those on which it has nothing to hand on, if
        it has REST there; any other runs on all or none.
        """
        if needs_dx.all():
            has_units = (units[self.subnets] > 0)[:, :, None]
            runs = np.any(runs_backward(self.cells) & has_units, axis=(1, 2))
            return np.asarray(self.has_microbatch & runs[:, None])
        cells = self.cells_in_sublayer(units, needs_dx)
        passes = np.asarray(runs_backward(cells).any(axis=1))
        unneeded = (self.cells == Operation.REST) & ~needs_dx[:, None, :]
        changed = unneeded.any(axis=(1, 2))
        trains = (cells == Operation.FULL).any(axis=(1, 2))
        whole = passes.any(axis=1) & (trains | ~changed)
        return self.has_microbatch & (whole[:, None] | passes)

    @cached_property
    def _numbers(self) -> dict[tuple[int, int], list[int]]:
        numbers: dict[tuple[int, int], list[int]] = {}
        for number, site in enumerate(zip(self.device.tolist(), self.block.tolist(), strict=True)):
            numbers.setdefault(site, []).append(number)
        return numbers

    def at(self, device: int, block: int) -> tuple[LaneGroup, ...]:
        """Those of a block on a device."""
        return tuple(self._group(number) for number in self._numbers.get((device, block), []))

    def _group(self, number: int) -> LaneGroup:
        rows, columns = self.has_subnet[number], self.has_microbatch[number]
        return LaneGroup(
            tuple(self.subnets[number][rows].tolist()),
            tuple(self.microbatches[columns].tolist()),
            self.cells[number][np.ix_(rows, columns)],
            self.trained[number][rows],
        )


def lane_groups(
    workload: Workload,
    placement: Placement,
    schedule: np.ndarray,
    microbatches: np.ndarray,
    devices: Sequence[Device | None] | None = None,
    subnets: np.ndarray | None = None,
) -> LaneGroups:
    """The groups that take each device the fewest seconds.

    Groups may compute cells that the schedule leaves out, where that is cheaper than another group.

    Args:
        workload: model, partition and mini-batch.
        placement: device of every subnet.
        schedule: as it is executed, int ``[num_subnets, num_microbatches]``.
        microbatches: indices of the wave's micro-batches, sorted.
        devices: what things cost there; None, for all or one, for the fewest groups that compute
            nothing else and mask nothing.
        subnets: indices of those that count, sorted; default all.
    """
    if subnets is None:
        subnets = np.arange(workload.num_subnets)
    schedule = np.ascontiguousarray(schedule, dtype=np.int8)
    return _remembered(
        workload,
        placement,
        tuple(devices or [None] * placement.num_devices),
        schedule.tobytes(),
        np.asarray(microbatches, dtype=np.int64).tobytes(),
        np.asarray(subnets, dtype=np.int64).tobytes(),
    )


@lru_cache(maxsize=MOST_REMEMBERED)
def _remembered(
    workload: Workload,
    placement: Placement,
    devices: tuple[Device | None, ...],
    schedule_bytes: bytes,
    microbatch_bytes: bytes,
    subnet_bytes: bytes,
) -> LaneGroups:
    """Simulator and memory ask for the same groups, one after the other."""
    size = (workload.num_subnets, -1)
    schedule = np.frombuffer(schedule_bytes, dtype=np.int8).reshape(size)
    microbatches = np.frombuffer(microbatch_bytes, dtype=np.int64)
    subnets = np.frombuffer(subnet_bytes, dtype=np.int64)
    sites = lane_sites(workload, placement, subnets)
    needs_dx = np.any(needs_input_gradient(workload, schedule)[..., microbatches], axis=2)
    operations = sites.operations(schedule[:, microbatches])
    return groups_of_sites(
        workload, placement, sites, operations, needs_dx[sites.block], microbatches, devices
    )


def groups_of_sites(
    workload: Workload,
    placement: Placement,
    sites: LaneSites,
    operations: np.ndarray,
    needs_dx: np.ndarray,
    microbatches: np.ndarray,
    devices: Sequence[Device | None],
) -> LaneGroups:
    """As `lane_groups`, of any sites, be they of one schedule or of several.

    Args:
        workload, placement, microbatches, devices: as of `lane_groups`.
        sites: ordered by device.
        operations: of their subnets, int8 ``[S, R, C]``.
        needs_dx: whether the gradient goes on to each sub-layer's input, bool ``[S, 2]``.
    """
    runs = np.flatnonzero((operations != Operation.SHORTCUT).any(axis=(1, 2)))
    if not len(runs):
        return _groups(workload, sites, runs, microbatches, _no_cut(operations[runs]))
    operations, running = operations[runs], sites.select(runs)
    owned = np.array(placement.owner)[microbatches] == running.device[:, None]
    has_gradient = np.asarray(runs_backward(operations).any(axis=1))
    has_gradient |= owned & (owned & has_gradient).any(axis=1, keepdims=True)
    tokens = workload.tokens[microbatches]
    price = _price(workload, running, needs_dx[runs], tokens, has_gradient, devices)
    merges_rest = workload.lora is None and not workload.shape.query_key_norm
    cut = cheapest_cut(operations, running.rows >= 0, owned, price, merges_rest=merges_rest)
    return _groups(workload, sites, runs, microbatches, cut)


def _price(
    workload: Workload,
    sites: LaneSites,
    needs_dx: np.ndarray,
    tokens: np.ndarray,
    has_gradient: np.ndarray,
    devices: Sequence[Device | None],
) -> Price:
    """Of rectangles that can run: backward has gradients of micro-batches that are `has_gradient`,
    bool ``[S, C]``, alone; what others send is what the schedule asks for."""
    stays_apart = np.array([device is None for device in devices])
    known = [device for device in devices if device is not None]
    known_index = np.cumsum(~stays_apart) - 1
    # What a core trains gets gradients from all that passes one on.
    in_core = workload.shape.query_key_norm

    def price(
        which: np.ndarray, subnets: np.ndarray, columns: np.ndarray, made: Runs
    ) -> np.ndarray:
        apart = stays_apart[sites.device[which]]
        is_masked, trained = _masked_and_trained(workload, made, subnets)
        seconds = np.where(is_masked, _MASK_S, 1.0)
        lacks = (columns & ~has_gradient[which][:, None]).any(axis=2) & made.runs_backward
        never = lacks | (in_core & made.mixes_rest)
        merges = ~apart
        if not merges.any():
            return seconds + np.where(never, _MASK_S, 0.0)
        own = which[merges]
        sizes = _sizes(
            sites,
            own,
            subnets[merges],
            columns[merges],
            tokens,
            made.runs_backward[merges],
            trained[merges],
            is_masked[merges],
        )
        shape = sizes.heads.shape
        flat = LaneSizes(
            **{
                name: values.reshape(2, -1) if name == "is_copied" else values.ravel()
                for name, values in vars(sizes).items()
            }
        )
        flat = replace(flat, device=known_index[flat.device])
        needed = np.repeat(needs_dx[own], shape[1], axis=0).T
        of_each = lane_seconds(workload, known, flat, needed, is_trial=True)
        seconds[merges] = of_each.sum(axis=(0, 1)).reshape(shape)
        return seconds + np.where(never, _MASK_S, 0.0)

    return price


def _sizes(
    sites: LaneSites,
    which: np.ndarray,
    subnets: np.ndarray,
    microbatches: np.ndarray,
    tokens_of: np.ndarray,
    runs_backward: np.ndarray,
    trained: np.ndarray,
    is_masked: np.ndarray,
) -> LaneSizes:
    """Of rectangles of some sites, ``[n, K]`` each; `subnets` is bool ``[n, K, R]``, `trained`
    those of them that train, `microbatches` bool ``[n, K, C]``, `tokens_of` theirs, int ``[C]``."""

    def units(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        heads = np.einsum("nkr,nr->nk", chosen, sites.heads[which])
        return heads, np.einsum("nkr,nr->nk", chosen, sites.hidden[which])

    heads, hidden = units(subnets)
    trained_heads, trained_hidden = units(trained)
    all_heads, all_hidden = sites.heads[which].sum(axis=1), sites.hidden[which].sum(axis=1)
    has_hidden = subnets & (sites.hidden[which] > 0)[:, None, :]
    return LaneSizes(
        device=np.broadcast_to(sites.device[which][:, None], heads.shape),
        heads=heads,
        hidden=hidden,
        tokens=microbatches @ tokens_of,
        runs_backward=runs_backward,
        trained_heads=trained_heads,
        trained_hidden=trained_hidden,
        is_masked=is_masked,
        recomputes=np.broadcast_to(sites.recomputes[which][:, None], heads.shape),
        num_runs=_num_runs(microbatches),
        is_copied=np.stack(
            [
                (heads > 0) & (heads < all_heads[:, None]),
                (hidden < all_hidden[:, None]) & (_num_runs(has_hidden) > 1),
            ]
        ),
    )


def _masked_and_trained(
    workload: Workload, runs: Runs, subnets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which rectangles have masks, bool ``[n, K]``, and whose dW they make, see `LaneGroup`, bool
    ``[n, K, R]`` as the subnets that they have."""
    is_masked = runs.is_masked | ((workload.lora is not None) & runs.mixes_rest)
    every = is_masked & runs.trained.any(axis=2)
    return np.asarray(is_masked), subnets & (runs.trained | every[..., None])


def _num_runs(chosen: np.ndarray) -> np.ndarray:
    """Of neighbours among those chosen, bool ``[n, K, items]``; int ``[n, K]``."""
    starts = chosen.copy()
    starts[..., 1:] &= ~chosen[..., :-1]
    return np.asarray(starts.sum(axis=2))


def _groups(
    workload: Workload, sites: LaneSites, runs: np.ndarray, microbatches: np.ndarray, cut: Cut
) -> LaneGroups:
    """Of a cut of those sites that run, int ``[n]``."""
    site = runs[cut.site]
    runs_of = whole_rectangle(cut.cells, cut.subnets.sum(axis=1), cut.microbatches.sum(axis=1))
    is_masked, trained = _masked_and_trained(workload, runs_of, cut.subnets[:, None])
    sizes = _sizes(
        sites,
        site,
        cut.subnets[:, None],
        cut.microbatches[:, None],
        workload.tokens[microbatches],
        runs_of.runs_backward,
        trained,
        is_masked,
    )
    return LaneGroups(
        site=site,
        device=sites.device[site],
        block=sites.block[site],
        sizes=LaneSizes(**{name: values[..., 0] for name, values in vars(sizes).items()}),
        subnets=sites.rows[site],
        microbatches=microbatches,
        has_subnet=cut.subnets,
        has_microbatch=cut.microbatches,
        cells=cut.cells,
        trained=trained[:, 0],
    )


def _no_cut(cells: np.ndarray) -> Cut:
    none = np.zeros(0, dtype=np.int64)
    no_cells = cells.astype(bool)
    sides = no_cells.any(axis=2), no_cells.any(axis=1)
    return Cut(none, np.asarray(sides[0]), np.asarray(sides[1]), cells, none.astype(float))
