"""How large the lane groups of a whole wave are, counted for all blocks and devices at once."""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.lanes import LANES
from d2ft_sched.schedule.placement import Placement

_BITS = 62


@dataclass(frozen=True)
class LaneSizes:
    """The groups that `d2ft_sched.schedule.lanes.lane_groups` makes, one entry each, int
    ``[num_groups]``.

    Attributes:
        operation: FULL, REST or FORWARD_ONLY.
        block: where they are.
        device: which runs them; groups are ordered by it.
        num_subnets, heads, hidden: subnets, and their heads and hidden units together.
        num_microbatches, tokens: micro-batches, and their tokens together.
    """

    operation: np.ndarray
    block: np.ndarray
    device: np.ndarray
    num_subnets: np.ndarray
    heads: np.ndarray
    hidden: np.ndarray
    num_microbatches: np.ndarray
    tokens: np.ndarray

    def select(self, chosen: np.ndarray) -> "LaneSizes":
        """Some of the groups, bool or int ``[num_groups]``."""
        return LaneSizes(*(values[chosen] for values in vars(self).values()))


def lane_sizes(
    workload: Workload, placement: Placement, schedule: np.ndarray, microbatches: np.ndarray
) -> LaneSizes:
    """Sizes of the lane groups of every block and device.

    A site is a block on a device. A lane of a site is cut by merging subnets with equal rows, or
    micro-batches with equal columns where those are fewer.

    Args:
        workload: model, partition and mini-batch.
        placement: device of every subnet.
        schedule: int ``[num_subnets, num_microbatches]``.
        microbatches: indices of the wave's micro-batches.
    """
    partition = workload.partition
    device = np.array(placement.subnet_device)
    site = partition.block * placement.num_devices + device
    order = np.argsort(site, kind="stable")
    _, first, held = np.unique(site[order], return_index=True, return_counts=True)
    site_of = np.repeat(np.arange(len(first)), held)
    weights = np.stack([np.ones_like(order), partition.heads[order], partition.hidden[order]])
    tokens = workload.tokens[microbatches]
    operations = schedule[order][:, microbatches]

    parts = []
    for lane in LANES:
        cells = operations == lane
        num_rows, by_rows = _merged_rows(cells, site_of, held, weights, tokens)
        contested = np.flatnonzero(num_rows > 1)
        merged = by_rows
        if contested.size:
            inside = num_rows[site_of] > 1
            num_columns, by_columns = _merged_columns(
                cells[inside], contested, held[contested], weights[:, inside], tokens
            )
            fewer = np.zeros(len(held), dtype=bool)
            fewer[contested] = num_columns < num_rows[contested]
            merged = np.concatenate(
                [by_rows[:, ~fewer[by_rows[0]]], by_columns[:, fewer[by_columns[0]]]], axis=1
            )
        parts.append((np.full(merged.shape[1], lane), merged))
    operation = np.concatenate([lane for lane, _ in parts])
    site, *sizes = np.concatenate([merged for _, merged in parts], axis=1)
    first_subnet = order[first[site]]
    groups = LaneSizes(operation, partition.block[first_subnet], device[first_subnet], *sizes)
    return groups.select(np.argsort(groups.device, kind="stable"))


def _merged_rows(
    cells: np.ndarray,
    site_of: np.ndarray,
    held: np.ndarray,
    weights: np.ndarray,
    tokens: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Distinct rows per site, and the groups of subnets with equal rows, int ``[6, num_groups]``:
    site, subnets, heads, hidden units, micro-batches, tokens.

    Args:
        cells: in the lane or not, bool ``[num_subnets, num_microbatches]``, site after site.
        site_of: of every subnet.
        held: subnets of every site.
        weights: one, heads and hidden units of every subnet, int ``[3, num_subnets]``.
        tokens: of every micro-batch.
    """
    used = np.flatnonzero(cells.any(axis=1))
    rows, site = cells[used], site_of[used]
    counts = np.stack([rows.sum(axis=1), np.einsum("sm,m->s", rows, tokens)])
    alone = held[site] == 1
    if alone.all():
        groups = np.concatenate([site[None], weights[:, used], counts])
    else:
        keys = np.column_stack([_as_bytes(site), np.packbits(rows, axis=1)])
        representative, label = _distinct(keys)
        summed = [np.bincount(label, w[used], len(representative)) for w in weights]
        groups = np.concatenate(
            [site[representative][None], np.stack(summed), counts[:, representative]]
        ).astype(np.int64)
    return np.bincount(groups[0], minlength=len(held)), groups


def _merged_columns(
    cells: np.ndarray,
    sites: np.ndarray,
    held: np.ndarray,
    weights: np.ndarray,
    tokens: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Distinct columns per site, and the groups of micro-batches with equal columns, as in
    `_merged_rows`; `cells`, `held` and `weights` are those of the `sites` alone."""
    first = np.cumsum(held) - held
    rank = np.arange(len(cells)) - np.repeat(first, held)
    bit = np.left_shift(1, rank % _BITS)
    words = [
        np.add.reduceat(np.where((rank // _BITS == word)[:, None], cells * bit[:, None], 0), first)
        for word in range((held.max() - 1) // _BITS + 1)
    ]
    pattern = np.stack(words, axis=-1)
    index, microbatch = np.nonzero(pattern.any(axis=-1))
    keys = np.column_stack([_as_bytes(index), _as_bytes(pattern[index, microbatch])])
    representative, label = _distinct(keys)
    of_site = index[representative]
    summed = np.stack([np.add.reduceat(cells * w[:, None], first) for w in weights])
    groups = np.concatenate(
        [
            sites[of_site][None],
            summed[:, of_site, microbatch[representative]],
            np.bincount(label, minlength=len(representative))[None],
            np.bincount(label, tokens[microbatch], len(representative))[None].astype(np.int64),
        ]
    )
    return np.bincount(of_site, minlength=len(sites)), groups


def _as_bytes(values: np.ndarray) -> np.ndarray:
    flat = np.ascontiguousarray(values.reshape(len(values), -1), dtype=np.int64)
    return flat.view(np.uint8)


def _distinct(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An index of each distinct row of bytes, and the number of every row among them."""
    rows = np.ascontiguousarray(keys).view(f"V{keys.shape[1]}").ravel()
    _, representative, label = np.unique(rows, return_index=True, return_inverse=True)
    return representative, label.ravel()
