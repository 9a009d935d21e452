"""Plans for a step time: the best of several searches, and what is said where there is none."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from d2ft_sched.deployment import Deployment
from d2ft_sched.errors import InputError
from d2ft_sched.files.counted import counted
from d2ft_sched.plan.solved_plan import Plan
from d2ft_sched.problem.scores import Scores
from sim.target.target_search import TargetSearch


def parse_target(text: str) -> tuple[float, bool]:
    """``"1.5"``, ``"1.5s"`` or ``"80ms"`` as seconds; ``"0.4x"`` as a fraction of the dense step.

    Returns:
        The number, and whether it is a fraction.

    Raises:
        InputError: neither.
    """
    units = {"ms": (1e-3, False), "x": (1.0, True), "s": (1.0, False), "": (1.0, False)}
    for unit, (factor, is_fraction) in units.items():
        if text.endswith(unit):
            try:
                value = factor * float(text.removesuffix(unit))
            except ValueError:
                continue
            if 0 < value < float("inf"):
                return value, is_fraction
    raise InputError(
        f"target step time is {text!r}; it must be seconds above 0 such as 0.25, 250ms or 1.5s, or "
        f"a fraction of the dense step such as 0.4x"
    )


def target_searches(
    deployments: Sequence[Deployment],
    scores: Scores,
    *,
    aligned: bool | None = None,
    coverage: int = 0,
) -> list[TargetSearch]:
    """A search per deployment, and per way of aligning where a device shares messages.

    Args:
        deployments: of one workload on one cluster, placed otherwise.
        scores, coverage: as for `TargetSearch`.
        aligned: as of `TargetSearch`; None to try both.
    """
    return [
        TargetSearch(deployment, scores, way, coverage)
        for deployment in deployments
        for way in _ways(deployment, aligned, coverage)
    ]


def plan_for_target(
    deployments: Sequence[Deployment],
    scores: Scores,
    target_s: float,
    *,
    coverage: int = 0,
    aligned: bool | None = None,
    solver: str = "dp",
    seed: int = 0,
    time_limit_s: float | None = None,
) -> Plan:
    """The plan of most retained score whose simulated step is at most `target_s`.

    Args:
        deployments: those to try, each of one replica: one workload on one cluster.
        scores: contribution of every subnet to every micro-batch.
        target_s: seconds of the simulated step.
        coverage: see `Budget`.
        aligned: as of `TargetSearch`; None to try both.
        solver: makes the final schedule within the levels found; the search for them uses "dp".
        seed: for solvers with random choices.
        time_limit_s: for the final solver.

    Raises:
        InputError: what no schedule can leave out takes longer than the target.
    """
    searches = target_searches(deployments, scores, aligned=aligned, coverage=coverage)
    return best_plan(searches, target_s, solver=solver, seed=seed, time_limit_s=time_limit_s)


def best_plan(
    searches: Sequence[TargetSearch],
    target_s: float,
    *,
    solver: str = "dp",
    seed: int = 0,
    time_limit_s: float | None = None,
) -> Plan:
    """The best plan of several searches; arguments and errors as for `plan_for_target`."""
    least_s = min(search.fixed_s for search in searches)
    if least_s > target_s:
        raise InputError(
            f"target step time is {target_s:.4g} s; trunk, all-reduce and optimizer alone take "
            f"{least_s:.4g} s on cluster {searches[0].deployment.cluster.name!r} with all "
            f"{counted(searches[0].deployment.workload.num_microbatches, 'micro-batch')}, "
            f"which a schedule does not leave out whole, and {_said_of_fewer(searches, target_s)}"
        )
    plans = [
        plan
        for search in searches
        if (plan := search.plan(target_s, solver=solver, seed=seed, time_limit_s=time_limit_s))
    ]
    coverage = searches[0].coverage
    if not plans and coverage:
        plans = [plan for search in searches if (plan := search.timed_plan(target_s, seed))]
    if not plans:
        covering, quickest_s = "", min(search.quickest_s for search in searches)
        if coverage:
            covering = f" with a coverage of {coverage}"
        if np.isfinite(quickest_s):
            covering += f", of which the quickest found takes {quickest_s:.4g} s"
        raise InputError(
            f"no schedule was found whose step takes at most {target_s:.4g} s"
            f"{covering}; trunk, all-reduce and optimizer alone take {least_s:.4g} s"
        )
    return max(plans, key=lambda plan: plan.solver.objective)


def _said_of_fewer(searches: Sequence[TargetSearch], target_s: float) -> str:
    """What would do in place of all micro-batches."""
    for search in searches:
        number = search.most_microbatches(target_s)
        if number:
            fixed_s = search.of_first(number).fixed_s
            return (
                f"{fixed_s:.4g} s with {number} of them: ask for more time, or for at most "
                f"{number} micro-batches"
            )
    fixed_s = min(search.of_first(1).fixed_s for search in searches)
    return f"{fixed_s:.4g} s with one of them: ask for more time"


def _ways(deployment: Deployment, aligned: bool | None, coverage: int) -> tuple[bool, ...]:
    """Values of `aligned` to try; both mean the same where no device shares messages, and fewer
    devices than a coverage of a block asks for cannot be aligned."""
    if not deployment.shares_messages:
        return (False,)
    if aligned is not None:
        return (aligned,)
    block = deployment.workload.partition.block.tolist()
    sites = set(zip(block, deployment.placement.subnet_device, strict=True))
    least = min(Counter(block for block, _ in sites).values())
    return (False, True) if coverage <= least else (False,)
