"""Fewer samples on ways that send less: what a budget of bytes asks for where no block is to rest.

Adapters that rest save little, for their gradients are few bytes already, and learn far less
(docs/results/decoder).
"""

from dataclasses import replace

from sim.ways.candidates import MAX_CORRECTIONS, Candidate, as_candidate, most_within
from sim.ways.estimate.load import Load, dense_load
from sim.ways.estimate.steps import Groups
from sim.ways.search import WaySearch, best_dense, best_replicas
from sim.ways.way import Way, WayKind, kind_of


def fewer_within_bytes(search: WaySearch, fewer: Way, communication: float) -> Candidate | None:
    """The plan of most samples, each through everything, that sends at most a fraction of the bytes
    of the best dense way and whose step is not longer than that of fewer samples.

    Args:
        search: of the ways.
        fewer: samples that the compute suffices for, in their best way.
        communication: the fraction; of fewer samples than that no plan is of interest, for a plan
            in which as large a part of the blocks trains on all of them trains as much.

    Returns:
        None where there is none.
    """
    steps, number = search.steps, sum(fewer.samples)
    most_bytes = communication * as_candidate(steps, best_dense(search)).priced.exchange_bytes
    plain = as_candidate(steps, fewer)
    if plain.priced.exchange_bytes <= most_bytes:
        return plain
    load = dense_load(search.workload, number)
    tried: dict[tuple[WayKind, int], Groups] = {}
    for one in best_replicas(steps, load, search.kinds):
        tried.setdefault((kind_of(one.groups), sum(map(len, one.groups))), one.groups)
    least = max(1, round(communication * number))
    made = (
        _within(search, groups, load, least, fewer.dense_step_s, most_bytes)
        for groups in tried.values()
    )
    return max(
        (found for found in made if found is not None),
        key=lambda found: (found.num_samples, -found.step_s),
        default=None,
    )


def _within(
    search: WaySearch, groups: Groups, load: Load, least: int, limit_s: float, most_bytes: float
) -> Candidate | None:
    """On given replicas; messages of a cut grow with the samples."""
    for _ in range(MAX_CORRECTIONS):
        found = most_within(search.steps, groups, load, least, limit_s)
        if found is None or found.priced.exchange_bytes <= most_bytes:
            return found
        number = int(found.num_samples * most_bytes / found.priced.exchange_bytes)
        if number < least:
            return None
        load = replace(load, num_samples=number)
    return None
