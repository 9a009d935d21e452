"""Which cells of a block run together: the cheapest cut of a schedule into rectangles.

A site is a block on a device. Its cells are cut along one axis, micro-batches or subnets: these are
partitioned into sets, and each set runs as one rectangle, or as one for each kind of pass (see
`d2ft_sched.cutting.lane_rectangles`). Of a few micro-batches or subnets every partition is tried,
so that the cut is the cheapest along that axis; of more, those into stretches of an order in which
alike ones are neighbours, and those that have the same operations stay together.
FORWARD_ONLY that no rectangle with a backward pass takes in may be cut anew, along either axis. Of
all that, every site gets the cheapest.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from d2ft_sched.cutting.exact_covers import (
    MOST_APART,
    MOST_EXACT,
    candidate_sets,
    cheapest_cover,
)
from d2ft_sched.cutting.item_kinds import item_kinds
from d2ft_sched.cutting.lane_rectangles import (
    Runs,
    Tiers,
    rectangles,
    tierings,
    whole_rectangle,
)
from d2ft_sched.schedule.lanes import LANES
from d2ft_sched.schedule.operations import Operation, runs_backward

MOST_VALUES = 2**22
"""Of one array: sites are taken in parts."""

Price = Callable[[np.ndarray, np.ndarray, np.ndarray, Runs], np.ndarray]
"""Seconds of rectangles, float ``[n, K]``: from their sites ``[n]``, rising, subnets
``[n, K, R]``, micro-batches ``[n, K, C]``, and what they run."""

_FORWARD_ALONE: list[list[Tiers]] = [[((Operation.FORWARD_ONLY,),)]]


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
    cells: np.ndarray,
    subnets: np.ndarray,
    microbatches: np.ndarray,
    price: Price,
    *,
    merges_rest: bool,
) -> Cut:
    """Cut the cells of every site.

    Args:
        cells: operations, int8 ``[S, R, C]``; each site has some that run.
        subnets, microbatches: that a site may compute though nothing of them runs, bool ``[S, R]``
            and ``[S, C]``.
        price: of rectangles.
        merges_rest: whether subnets that rest cost least in one piece with those that train.
    """
    is_one = _are_one_rectangle(cells, merges_rest)
    whole = np.flatnonzero(is_one)
    active = cells[whole] != Operation.SHORTCUT
    cut = Cut(whole, active.any(axis=2), active.any(axis=1), cells[whole], np.zeros(len(whole)))
    for sites in _parts(cells, np.flatnonzero(~is_one)):
        cut = cut.joined(_cut_part(cells[sites], subnets[sites], microbatches[sites], sites, price))
    return cut.select(np.argsort(cut.site, kind="stable"))


def _parts(cells: np.ndarray, left: np.ndarray) -> Iterator[np.ndarray]:
    """Sites that are cut at once: those of a few kinds along either axis, then others."""
    axes = cells[left], cells[left].transpose(0, 2, 1)
    num_kinds = np.stack([item_kinds(axis).max(axis=1, initial=0) + 1 for axis in axes])
    is_exact = (num_kinds <= MOST_EXACT).all(axis=0)
    for of_part in (is_exact, ~is_exact):
        if of_part.any():
            num_values = _num_values(cells, num_kinds[:, of_part].max(axis=1).tolist())
            step = max(1, MOST_VALUES // num_values)
            sites = left[of_part]
            yield from (sites[start : start + step] for start in range(0, len(sites), step))


def _are_one_rectangle(cells: np.ndarray, merges_rest: bool) -> np.ndarray:
    """Whether the cells of each site that run are all of a rectangle and have one operation; or, if
    they merge, every subnet one of FULL and REST: then there is nothing to cut."""
    active = cells != Operation.SHORTCUT
    size = active.any(axis=2).sum(axis=1) * active.any(axis=1).sum(axis=1)
    number = active.sum(axis=(1, 2))
    is_alike = (cells == cells.max(axis=(1, 2), keepdims=True)) | ~active
    if merges_rest:
        of_subnet = (cells == cells.max(axis=2, keepdims=True)) & runs_backward(cells) | ~active
        is_alike |= of_subnet.all(axis=(1, 2), keepdims=True)
    return np.asarray((number == size) & is_alike.all(axis=(1, 2)))


def _num_values(cells: np.ndarray, num_kinds: Sequence[int]) -> int:
    """Of the largest array of one site with so many kinds along either axis."""
    num_sets = sum(len(candidate_sets(n)) for n in np.minimum(num_kinds, MOST_APART))
    num_tiers = len({way[:n] for way in tierings(LANES) for n in range(1, len(way) + 1)})
    return num_tiers * num_sets * max(1, *cells.shape[1:])


def _cut_part(
    cells: np.ndarray,
    subnets: np.ndarray,
    microbatches: np.ndarray,
    sites: np.ndarray,
    price: Price,
) -> Cut:
    """Of some sites; `cells` are theirs alone, `sites` their numbers. Until the end, the sites of
    cuts are counted within them."""
    present = [operation for operation in LANES if (cells == operation).any()]
    best = _whole(cells, subnets, microbatches, sites, price)
    cuts = _cuts_along(cells, microbatches, sites, _ways_together(present), price)
    left = np.stack([_left_over(cells, cut) for cut in cuts], axis=1)
    if (left != Operation.SHORTCUT).any():
        again = _cuts_again(left, microbatches, sites, price)
        cuts = [cut.joined(more) for cut, more in zip(cuts, again, strict=True)]
    for cut in cuts:
        best = _cheaper(best, cut, len(sites))
    return replace(best, site=sites[best.site])


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
    runs = whole_rectangle(cells, rows.sum(axis=1), columns.sum(axis=1))
    seconds = price(sites, rows[:, None], columns[:, None], runs)[:, 0]
    return Cut(np.arange(len(sites)), rows, columns, cells, seconds)


def _ways_together(present: list[Operation]) -> list[list[Tiers]]:
    """Tierings that a cut chooses among, with FORWARD_ONLY in all, and in none."""
    ways = tierings(present) or [((Operation.FULL,),)]
    whole = [way for way in ways if sum(map(len, way)) == len(present)] or ways
    return [whole] if len(whole) == len(ways) else [whole, [w for w in ways if w not in whole]]


@dataclass(frozen=True)
class _Side:
    """Rectangles of all sets along one axis.

    Attributes:
        num_kinds: of items of the axis that stay together.
        tiers: beginnings of ways, in whose order the arrays have rectangles of every set, K each.
        subnets: bool ``[S, len(tiers) * K, R]``.
        microbatches: bool ``[S, len(tiers) * K, C]``.
        runs: of the same.
    """

    num_kinds: int
    tiers: tuple[Tiers, ...]
    subnets: np.ndarray
    microbatches: np.ndarray
    runs: Runs


def _side(
    cells: np.ndarray, microbatches: np.ndarray, by_subnet: bool, ways: Sequence[Tiers]
) -> _Side:
    """Along micro-batches, sets may take in idle ones."""
    turned = cells.transpose(0, 2, 1) if by_subnet else cells
    kinds = _ordered_kinds(turned)
    num_kinds = int(kinds.max()) + 1
    members = candidate_sets(num_kinds).T[kinds].transpose(0, 2, 1)
    fills = np.zeros_like(kinds, dtype=bool) if by_subnet else microbatches
    made = rectangles(turned, members, ways, fills, by_subnet=by_subnet)
    first, *more = (one.runs for one in made.values())
    others = np.concatenate([one.others for one in made.values()], axis=1)
    items = np.concatenate([one.items for one in made.values()], axis=1)
    both = (items, others) if by_subnet else (others, items)
    return _Side(num_kinds, tuple(made), *both, first.joined(more))


def _cuts_along(
    cells: np.ndarray,
    microbatches: np.ndarray,
    sites: np.ndarray,
    together: Sequence[Sequence[Tiers]],
    price: Price,
) -> list[Cut]:
    """The cheapest cuts along either axis, for each of some ways to choose among."""
    ways = [way for some in together for way in some]
    sides = [_side(cells, microbatches, by_subnet, ways) for by_subnet in (False, True)]
    seconds = price(
        sites,
        np.concatenate([side.subnets for side in sides], axis=1),
        np.concatenate([side.microbatches for side in sides], axis=1),
        sides[0].runs.joined([sides[1].runs]),
    )
    bounds = np.cumsum([side.subnets.shape[1] for side in sides])[:-1]
    of_side = [
        _cuts_of_side(cells, side, own, together)
        for side, own in zip(sides, np.split(seconds, bounds, axis=1), strict=True)
    ]
    return [cut for both in zip(*of_side, strict=True) for cut in both]


def _cuts_of_side(
    cells: np.ndarray, side: _Side, seconds: np.ndarray, together: Sequence[Sequence[Tiers]]
) -> list[Cut]:
    """The cheapest cut along one axis, for each of some ways; `seconds` as rectangles of `side`."""
    num_sites, num_tiers = len(cells), len(side.tiers)
    runs = np.asarray(side.subnets.any(axis=2) & side.microbatches.any(axis=2))
    seconds = np.where(runs, seconds, 0.0).reshape(num_sites, num_tiers, -1)
    at = {tiers: i for i, tiers in enumerate(side.tiers)}
    passes = [[[at[way[: n + 1]] for n in range(len(way))] for way in ways] for ways in together]
    prices = [
        np.stack([seconds[:, numbers].sum(axis=1) for numbers in of_ways]) for of_ways in passes
    ]
    chosen = cheapest_cover(np.concatenate([p.min(axis=0) for p in prices]), side.num_kinds)
    cuts = []
    for of_ways, price_of, own in zip(passes, prices, np.split(chosen, len(prices)), strict=True):
        site, index = np.nonzero(own)
        way_of = price_of.argmin(axis=0)[site, index]
        taken = np.zeros((len(site), num_tiers), dtype=bool)
        for number, numbers in enumerate(of_ways):
            taken[np.ix_(way_of == number, numbers)] = True
        tier, which = np.nonzero(taken.T)
        site, rectangle = site[which], tier * seconds.shape[2] + index[which]
        used = runs[site, rectangle]
        site, rectangle = site[used], rectangle[used]
        rows, columns = side.subnets[site, rectangle], side.microbatches[site, rectangle]
        inside = np.where(rows[:, :, None] & columns[:, None, :], cells[site], 0).astype(np.int8)
        took_s = seconds.reshape(num_sites, -1)[site, rectangle]
        cuts.append(Cut(site, rows, columns, inside, took_s))
    return cuts


def _cuts_again(
    left: np.ndarray, microbatches: np.ndarray, sites: np.ndarray, price: Price
) -> list[Cut]:
    """The cheaper cut along either axis of what some cuts have left over, FORWARD_ONLY; `left` is
    int8 ``[S, num_cuts, R, C]``."""
    num_cuts = left.shape[1]
    flat = left.reshape(-1, *left.shape[2:])
    some = np.flatnonzero((flat != Operation.SHORTCUT).any(axis=(1, 2)))
    site, number = np.divmod(some, num_cuts)
    one, other = _cuts_along(flat[some], microbatches[site], sites[site], _FORWARD_ALONE, price)
    cut = _cheaper(one, other, len(some))
    at = cut.site
    return [replace(cut, site=site[at]).select(number[at] == n) for n in range(num_cuts)]


def _ordered_kinds(cells: np.ndarray) -> np.ndarray:
    """Which items of each site stay together, int ``[S, items]``. More than a few kinds are in an
    order in which each is followed by that which differs least of those left; of very many,
    neighbours stay together."""
    kinds = item_kinds(cells)
    num_sites, num_kinds = len(cells), int(kinds.max()) + 1
    if num_kinds <= MOST_EXACT:
        return kinds
    sites = np.arange(num_sites)
    one_of = np.zeros((num_sites, num_kinds), dtype=np.int64)
    np.put_along_axis(one_of, kinds, np.arange(kinds.shape[1])[None], axis=1)
    shown = np.take_along_axis(cells, one_of[:, None], axis=2)
    one_hot = (shown[:, None] == np.arange(len(Operation))[:, None, None]).astype(np.float32)
    flat = one_hot.reshape(num_sites, -1, num_kinds)
    differ = shown.shape[1] - flat.transpose(0, 2, 1) @ flat
    at = (shown != Operation.SHORTCUT).sum(axis=1).argmax(axis=1)
    place = np.zeros((num_sites, num_kinds), dtype=np.int64)
    for position in range(num_kinds):
        place[sites, at] = position
        differ[sites, :, at] = np.inf
        at = differ[sites, at].argmin(axis=1)
    if num_kinds > MOST_APART:
        place = place * MOST_APART // num_kinds
    return np.take_along_axis(place, kinds, axis=1)


def _left_over(cells: np.ndarray, cut: Cut) -> np.ndarray:
    """Cells that no rectangle has, SHORTCUT elsewhere, as `cells`."""
    taken = np.zeros(cells.shape, dtype=np.int8)
    np.add.at(taken, cut.site, cut.cells)
    return np.where(taken > 0, np.int8(Operation.SHORTCUT), cells)


def _cheaper(a: Cut, b: Cut, num_sites: int) -> Cut:
    """Of each site the cheaper of two cuts."""
    a_s, b_s = (np.bincount(cut.site, cut.seconds, num_sites) for cut in (a, b))
    takes_b = b_s < a_s * (1 - 1e-9)
    if not takes_b.any():
        return a
    return a.select(~takes_b[a.site]).joined(b.select(takes_b[b.site]))
