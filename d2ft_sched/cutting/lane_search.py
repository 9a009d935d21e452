"""Which cells of a block run together: the cheapest cut of a schedule into rectangles.

A site is a block on a device. Its cells are cut along one axis, micro-batches or subnets: these are
partitioned into sets, and each set runs as one rectangle, or as one for each kind of pass (see
`d2ft_sched.cutting.lane_rectangles`). Of a few micro-batches or subnets every partition is tried,
so that the cut is the cheapest along that axis; of more, those into stretches of an order in which
alike ones are neighbours. FORWARD_ONLY that no rectangle with a backward pass takes in may be cut
anew, along either axis. Of all that, every site gets the cheapest.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from d2ft_sched.cutting.exact_covers import MOST_EXACT, candidate_sets, cheapest_cover
from d2ft_sched.cutting.lane_rectangles import (
    Rectangles,
    Tiers,
    rectangles,
    tierings,
    whole_rectangle,
)
from d2ft_sched.schedule.operations import Operation

MOST_VALUES = 2**22
"""Of one array: sites are taken in parts."""

Price = Callable[[np.ndarray, np.ndarray, np.ndarray, Rectangles], np.ndarray]
"""Seconds of rectangles, float ``[n, K]``: from their sites ``[n]``, subnets ``[n, K, R]``,
micro-batches ``[n, K, C]``, and what they run."""


@dataclass(frozen=True)
class Cut:
    """Rectangles of all sites.

    Attributes:
        site: of each, int ``[n]``.
        subnets: bool ``[n, R]``.
        microbatches: bool ``[n, C]``.
        cells: operations that belong to it, SHORTCUT for others, int8 ``[n, R, C]``.
        seconds: of each, float ``[n]``; 0 where there was nothing to choose.
    """

    site: np.ndarray
    subnets: np.ndarray
    microbatches: np.ndarray
    cells: np.ndarray
    seconds: np.ndarray

    def select(self, chosen: np.ndarray) -> "Cut":
        return Cut(*(values[chosen] for values in vars(self).values()))

    def joined(self, other: "Cut") -> "Cut":
        return Cut(
            *(
                np.concatenate(both)
                for both in zip(vars(self).values(), vars(other).values(), strict=True)
            )
        )


def cheapest_cut(
    cells: np.ndarray, subnets: np.ndarray, microbatches: np.ndarray, price: Price
) -> Cut:
    """Cut the cells of every site.

    Args:
        cells: operations, int8 ``[S, R, C]``; each site has some that run.
        subnets, microbatches: that a site may compute though nothing of them runs, bool ``[S, R]``
            and ``[S, C]``.
        price: of rectangles.
    """
    is_one = _are_one_rectangle(cells)
    whole = np.flatnonzero(is_one)
    active = cells[whole] != Operation.SHORTCUT
    cut = Cut(whole, active.any(axis=2), active.any(axis=1), cells[whole], np.zeros(len(whole)))
    left = np.flatnonzero(~is_one)
    step = max(1, MOST_VALUES // (_num_sets(cells) * max(1, sum(cells.shape[1:]))))
    for start in range(0, len(left), step):
        sites = left[start : start + step]
        cut = cut.joined(_cut_part(cells[sites], subnets[sites], microbatches[sites], sites, price))
    return cut.select(np.argsort(cut.site, kind="stable"))


def _are_one_rectangle(cells: np.ndarray) -> np.ndarray:
    """Whether the cells of each site that run have one operation, and are all of a rectangle: then
    there is nothing to cut."""
    active = cells != Operation.SHORTCUT
    size = active.any(axis=2).sum(axis=1) * active.any(axis=1).sum(axis=1)
    number = active.sum(axis=(1, 2))
    alike = (cells == cells.max(axis=(1, 2))[:, None, None]).sum(axis=(1, 2))
    return np.asarray((number == size) & (alike == number))


def _num_sets(cells: np.ndarray) -> int:
    return max(len(candidate_sets(n)) for n in cells.shape[1:])


def _cut_part(
    cells: np.ndarray,
    subnets: np.ndarray,
    microbatches: np.ndarray,
    sites: np.ndarray,
    price: Price,
) -> Cut:
    """Of some sites; `cells` are theirs alone, `sites` their numbers."""
    present = [
        operation
        for operation in (Operation.FULL, Operation.REST, Operation.FORWARD_ONLY)
        if (cells == operation).any()
    ]
    best = _whole(cells, subnets, microbatches, sites, price)
    for ways in _ways_together(present):
        for by_subnet in (False, True):
            cut = _cut_along(cells, microbatches, sites, ways, by_subnet, price)
            left = _left_over(cells, sites, cut)
            if (left != Operation.SHORTCUT).any():
                again = [
                    _cut_along(
                        left, microbatches, sites, [((Operation.FORWARD_ONLY,),)], side, price
                    )
                    for side in (False, True)
                ]
                cut = cut.joined(_cheaper(again[0], again[1], sites))
            best = _cheaper(best, cut, sites)
    return best


def _whole(
    cells: np.ndarray,
    subnets: np.ndarray,
    microbatches: np.ndarray,
    sites: np.ndarray,
    price: Price,
) -> Cut:
    """All that a site can compute as one rectangle: the dense step with masks."""
    active = cells != Operation.SHORTCUT
    rows, columns = subnets | active.any(axis=2), microbatches | active.any(axis=1)
    made = whole_rectangle(cells, rows[:, None], columns[:, None])
    seconds = price(sites, rows[:, None], columns[:, None], made)[:, 0]
    return Cut(sites, rows, columns, cells, seconds)


def _ways_together(present: list[Operation]) -> list[list[Tiers]]:
    """Tierings that a cut chooses among, with FORWARD_ONLY in all, and in none."""
    ways = tierings(present) or [((Operation.FULL,),)]
    whole = [way for way in ways if sum(map(len, way)) == len(present)] or ways
    return [whole] if len(whole) == len(ways) else [whole, [w for w in ways if w not in whole]]


def _cut_along(
    cells: np.ndarray,
    microbatches: np.ndarray,
    sites: np.ndarray,
    ways: list[Tiers],
    by_subnet: bool,
    price: Price,
) -> Cut:
    """The cheapest cut along one axis; along micro-batches, sets may take in idle ones."""
    turned = cells.transpose(0, 2, 1) if by_subnet else cells
    num_items = turned.shape[2]
    order = _alike_together(turned)
    ordered = np.take_along_axis(turned, order[:, None, :], axis=2)
    sets = candidate_sets(num_items)
    members = np.broadcast_to(sets, (len(sites), *sets.shape))
    back = np.argsort(order, axis=1)
    fills = np.zeros_like(order, dtype=bool)
    if not by_subnet:
        fills = np.take_along_axis(microbatches, order, axis=1)

    def unordered(items: np.ndarray, which: np.ndarray) -> np.ndarray:
        return np.take_along_axis(items, back[which][:, None, :], axis=2)

    def priced(
        which: np.ndarray, sets_of: np.ndarray, tiers: Tiers
    ) -> Iterator[tuple[tuple[np.ndarray, np.ndarray], np.ndarray]]:
        """Each tier of sets ``[n, K, items]`` of sites, with prices ``[n, K]``."""
        for tier in rectangles(ordered[which], sets_of, tiers, fills[which]):
            items = unordered(tier.items, which)
            both = (items, tier.others) if by_subnet else (tier.others, items)
            seconds = price(sites[which], *both, tier)
            yield both, np.where(tier.others.any(axis=2), seconds, 0.0)

    every = np.arange(len(sites))
    prices = np.stack([sum(s for _, s in priced(every, members, way)) for way in ways])
    chosen = cheapest_cover(prices.min(axis=0), num_items)
    which, index = np.nonzero(chosen)
    way_of = prices.argmin(axis=0)[which, index]
    parts = []
    for number, way in enumerate(ways):
        own = way_of == number
        of_site = which[own]
        for (rows, columns), seconds in priced(of_site, sets[index[own]][:, None], way):
            used = rows.any(axis=(1, 2))
            rows, columns, at = rows[used, 0], columns[used, 0], of_site[used]
            inside = np.where(rows[:, :, None] & columns[:, None, :], cells[at], 0).astype(np.int8)
            parts.append(Cut(sites[at], rows, columns, inside, seconds[used, 0]))
    cut = parts[0]
    for other in parts[1:]:
        cut = cut.joined(other)
    return cut


def _alike_together(cells: np.ndarray) -> np.ndarray:
    """An order of the items of each site, int ``[S, items]``: each is followed by that which
    differs least of those left; any order of a few items, of which every set is tried."""
    num_sites, _, num_items = cells.shape
    every = np.broadcast_to(np.arange(num_items), (num_sites, num_items))
    if num_items <= MOST_EXACT:
        return every
    one_hot = (cells[:, None] == np.arange(len(Operation))[:, None, None]).astype(np.float32)
    flat = one_hot.reshape(num_sites, -1, num_items)
    differ = cells.shape[1] - flat.transpose(0, 2, 1) @ flat
    at = (cells != Operation.SHORTCUT).sum(axis=1).argmax(axis=1)
    order, sites = np.zeros((num_sites, num_items), dtype=np.int64), np.arange(num_sites)
    for position in range(num_items):
        order[:, position] = at
        differ[sites, :, at] = np.inf
        at = differ[sites, at].argmin(axis=1)
    return order


def _left_over(cells: np.ndarray, sites: np.ndarray, cut: Cut) -> np.ndarray:
    """Cells that no rectangle has, SHORTCUT elsewhere, as `cells`."""
    taken = np.zeros(cells.shape, dtype=np.int8)
    np.add.at(taken, np.searchsorted(sites, cut.site), cut.cells)
    return np.where(taken > 0, np.int8(Operation.SHORTCUT), cells)


def _cheaper(a: Cut, b: Cut, sites: np.ndarray) -> Cut:
    """Of each site the cheaper of two cuts."""
    a_s, b_s = (np.bincount(np.searchsorted(sites, c.site), c.seconds, len(sites)) for c in (a, b))
    takes_b = b_s < a_s * (1 - 1e-9)
    if not takes_b.any():
        return a
    from_a, from_b = (takes_b[np.searchsorted(sites, c.site)] for c in (a, b))
    return a.select(~from_a).joined(b.select(from_b))
