"""The table of ways: every way's dense step beside the plan's on the same replicas."""

from dataclasses import dataclass

from sim.ways.candidates import Candidate, candidate
from sim.ways.estimate.load import Load
from sim.ways.search import WaySearch
from sim.ways.way import WayKind


@dataclass(frozen=True, eq=False)
class WayRow:
    """A line of the table of ways.

    Attributes:
        name: kind of the way.
        replicas: names of each replica's devices.
        samples: of the mini-batch that each replica is dealt in the dense step.
        dense_step_s: predicted seconds with every operation FULL.
        plan_step_s: of a step with as many samples and the same subnets resting as in the plan (of
            fewer samples, where the plan is by scores), on these replicas; None where memory does
            not suffice.
        plan_samples: that each replica runs there; replicas that get none are left out.
        plan_exchange_bytes: handed to the network in that step.
        peak_memory_bytes: of the fullest device in the dense step.
        fits: whether the dense step fits every device.
        chosen: whether the plan is on this way.
    """

    name: WayKind
    replicas: tuple[tuple[str, ...], ...]
    samples: tuple[int, ...]
    dense_step_s: float
    plan_step_s: float | None
    plan_samples: tuple[int, ...]
    plan_exchange_bytes: float
    peak_memory_bytes: float
    fits: bool
    chosen: bool


def way_table(search: WaySearch, chosen: Candidate, load: Load) -> tuple[WayRow, ...]:
    """Every way of a search, the fastest dense step first.

    Args:
        search: the ways, that of the plan among them.
        chosen: the plan.
        load: what the plan does, for the ways that it is not on.
    """
    steps, rows = search.steps, []
    for way in search.ways:
        is_chosen = way.groups == chosen.groups
        found = None if is_chosen else steps.level(way.groups, load)
        planned = chosen if is_chosen else None if found is None else candidate(steps, found)
        rows.append(
            WayRow(
                name=way.name,
                replicas=way.device_names,
                samples=way.samples,
                dense_step_s=way.dense_step_s,
                plan_step_s=None if planned is None else planned.step_s,
                plan_samples=() if planned is None else planned.samples,
                plan_exchange_bytes=0.0 if planned is None else planned.priced.exchange_bytes,
                peak_memory_bytes=float(way.peak_memory_bytes.max()),
                fits=way.fits,
                chosen=is_chosen,
            )
        )
    return tuple(rows)
