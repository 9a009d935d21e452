"""Plans for a step time: levels of every block such that the simulated step meets a target.

For every pair of levels (compute, messages) the exact schedule of each block is found and its time
simulated. Blocks do not overlap, so the step is their sum and the rest; which levels each block
gets is then a multiple-choice knapsack over the blocks, solved on a fine grid of seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from analysis.block_times import BlockTimes
from d2ft_sched.capacity import BlockLevels, Budget
from d2ft_sched.cluster import Cluster
from d2ft_sched.errors import InputError
from d2ft_sched.formulate import Formulation, formulate, level_capacities, message_shares
from d2ft_sched.operations import Operation
from d2ft_sched.placement import Placement
from d2ft_sched.plan import Plan
from d2ft_sched.planning import plan_from_solution, solve_formulation
from d2ft_sched.problem import Problem
from d2ft_sched.schedule import uniform_schedule
from d2ft_sched.scores import Scores
from d2ft_sched.solve import solve
from d2ft_sched.workload import Workload
from sim.step import simulate_step

TOLERANCE = 0.02
"""How far below the target a step may stay, relatively, before the plan says so."""
MAX_COMPUTE_LEVELS = 20
MAX_MESSAGE_LEVELS = 14
"""Levels of each kind that are tried in all pairs."""
GRID_CELLS = 20_000
"""Cells of the time that blocks share; each block's time is rounded up to them."""
MAX_CORRECTIONS = 6
"""Times that the levels are chosen anew because the final schedule took another time."""


@dataclass(frozen=True, eq=False)
class _Choices:
    """What each block can do: one column per pair of levels.

    Attributes:
        levels: compute and message level, float ``[num_pairs, 2]``.
        seconds: simulated lanes and messages, float ``[num_blocks, num_pairs]``.
        value: objective, of the same shape.
    """

    levels: np.ndarray
    seconds: np.ndarray
    value: np.ndarray


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


def plan_for_target(
    workload: Workload,
    cluster: Cluster,
    scores: Scores,
    target_s: float,
    *,
    placements: Sequence[Placement],
    aligned: bool | None = None,
    solver: str = "dp",
    num_waves: int = 1,
    seed: int = 0,
    time_limit_s: float | None = None,
) -> Plan:
    """The plan of most retained score whose simulated step is at most `target_s`.

    Args:
        workload: model, partition and mini-batch.
        cluster: devices and links.
        scores: contribution of every subnet to every micro-batch.
        target_s: seconds of the simulated step.
        placements: those to try.
        aligned: see `Budget`; None to try both.
        solver: makes the final schedule within the levels found; the search for them uses "dp".
        num_waves: groups of micro-batches that pass through the model one after another.
        seed: for solvers with random choices.
        time_limit_s: for the final solver.

    Raises:
        InputError: what no schedule can leave out takes longer than the target.
    """
    least_s = min(_fixed_s(workload, cluster, p, num_waves) for p in placements)
    if least_s > target_s:
        raise InputError(
            f"target step time is {target_s:.4g} s; trunk, all-reduce and optimizer alone take "
            f"{least_s:.4g} s on cluster {cluster.name!r}: ask for more than that"
        )
    best: Plan | None = None
    for placement in placements:
        for way in _ways(workload, placement, aligned):
            plan = _plan_on(
                workload, cluster, scores, target_s, placement, way, solver, num_waves, seed,
                time_limit_s,
            )  # fmt: skip
            if plan and (best is None or plan.solver.objective > best.solver.objective):
                best = plan
    if best is None:
        raise InputError(
            f"no schedule was found whose step takes at most {target_s:.4g} s; the least that "
            f"trunk, all-reduce and optimizer take is {least_s:.4g} s"
        )
    return best


def _fixed_s(workload: Workload, cluster: Cluster, placement: Placement, num_waves: int) -> float:
    nothing = uniform_schedule(workload.num_subnets, workload.num_microbatches, Operation.SHORTCUT)
    return simulate_step(workload, cluster, placement, nothing, num_waves).step_s


def _ways(workload: Workload, placement: Placement, aligned: bool | None) -> tuple[bool, ...]:
    """Values of `Budget.aligned` to try; both mean the same where no device shares messages."""
    pairs = set(zip(workload.partition.block.tolist(), placement.subnet_device, strict=True))
    if len(pairs) == workload.num_subnets:
        return (False,)
    return (False, True) if aligned is None else (aligned,)


def _plan_on(
    workload: Workload,
    cluster: Cluster,
    scores: Scores,
    target_s: float,
    placement: Placement,
    aligned: bool,
    solver: str,
    num_waves: int,
    seed: int,
    time_limit_s: float | None,
) -> Plan | None:
    """The best plan on one placement, None where even its fixed part takes too long."""
    fixed_s = _fixed_s(workload, cluster, placement, num_waves)
    if fixed_s > target_s:
        return None
    choices = _choices(workload, cluster, placement, scores, aligned, num_waves)
    best: Plan | None = None
    goal_s = target_s
    for _ in range(MAX_CORRECTIONS):
        levels = _choose(choices, goal_s - fixed_s)
        budget = Budget(aligned=aligned, levels=levels, target_step_s=target_s)
        formulation = formulate(workload, cluster, placement, scores, budget)
        solution = solve_formulation(formulation, solver, time_limit_s=time_limit_s, seed=seed)
        plan = plan_from_solution(
            workload, cluster, placement, budget, solution, num_waves=num_waves, seed=seed
        )
        step_s = simulate_step(workload, cluster, placement, plan.schedule, num_waves).step_s
        if step_s <= target_s * (1 + 1e-9):
            plan = _with_method(plan, step_s, target_s)
            if best is None or plan.solver.objective > best.solver.objective:
                best = plan
            if step_s >= target_s * (1 - TOLERANCE) or goal_s != target_s:
                break
            if goal_s - fixed_s >= choices.seconds.max(axis=1).sum():
                break
        goal_s = max(
            fixed_s,
            fixed_s
            + (goal_s - fixed_s)
            * (target_s - fixed_s)
            / max(step_s - fixed_s, 1e-3 * (target_s - fixed_s))
            * (1 - 1e-6),
        )
    return best


def _with_method(plan: Plan, step_s: float, target_s: float) -> Plan:
    text = f"levels for a step of {target_s:.4g} s, simulated {step_s:.4g} s"
    if step_s < target_s * (1 - TOLERANCE):
        is_dense = bool((plan.schedule == Operation.FULL).all())
        reason = "dense needs no more" if is_dense else "no levels that keep more score fit"
        text += f" ({1 - step_s / target_s:.1%} below: {reason})"
    return replace(plan, solver=replace(plan.solver, method=f"{plan.solver.method}; {text}"))


def _choices(
    workload: Workload,
    cluster: Cluster,
    placement: Placement,
    scores: Scores,
    aligned: bool,
    num_waves: int,
) -> _Choices:
    dense = formulate(workload, cluster, placement, scores, Budget(aligned=aligned))
    shares = message_shares(workload, cluster, placement, dense.knapsack_device)
    pairs = np.array(
        [
            (compute, messages)
            for compute in _compute_levels(dense)
            for messages in _message_levels(workload, dense, shares)
        ]
    )
    num_blocks = workload.shape.num_blocks
    kept = dense.problem.capacity[:, 2]
    capacity = np.stack(
        [
            np.column_stack(
                [
                    level_capacities(
                        dense.dense,
                        dense.knapsack_block,
                        shares,
                        BlockLevels((compute,) * num_blocks, (messages,) * num_blocks),
                    ),
                    kept,
                ]
            )
            for compute, messages in pairs.tolist()
        ]
    )
    schedules = _solve_capacities(dense, capacity)
    times = BlockTimes(workload, cluster, placement, num_waves)
    block, value = workload.partition.block, scores.values()
    seconds, gained = np.zeros((2, num_blocks, len(pairs)))
    for j, schedule in enumerate(schedules):
        chosen = np.take_along_axis(value, schedule[..., None].astype(np.intp), axis=2)
        gained[:, j] = np.bincount(block, chosen.sum(axis=(1, 2)), minlength=num_blocks)
        seconds[:, j] = [times.seconds(b, schedule) for b in range(num_blocks)]
    return _Choices(pairs, seconds, gained)


def _compute_levels(dense: Formulation) -> np.ndarray:
    """Seconds at which some device can run one more operation in a block; thinned out."""
    cost, knapsack = dense.problem.cost[0], dense.problem.knapsack[:, 0]
    levels = [np.zeros(1)]
    for k in range(dense.problem.num_knapsacks):
        full = np.cumsum(np.sort(cost[knapsack == k, :, Operation.FULL].ravel()))
        forward = cost[knapsack == k, :, Operation.FORWARD_ONLY].min()
        levels.extend((full, forward + full[:-1], 2 * forward + full[:-1]))
    return _thinned(np.concatenate(levels), MAX_COMPUTE_LEVELS)


def _message_levels(workload: Workload, dense: Formulation, shares: np.ndarray) -> np.ndarray:
    """Seconds of links at which some device, or all alike, can serve one more micro-batch forward,
    or forward and backward; thinned out."""
    if not len(shares):
        return np.zeros(1)
    demand, block = dense.dense[:, 1], dense.knapsack_block
    forward = 4.0 * np.repeat(np.sort(workload.activation_bytes), 2)
    served = np.cumsum(forward)
    most, per_byte = 0.0, []
    for group in np.unique(block):
        members = block == group
        most = max(most, float((shares[:, members] @ demand[members]).max()))
        per_byte.extend(shares[:, members].max(axis=0))
        per_byte.append(shares[:, members].sum(axis=1).max())
    levels = np.minimum(np.outer(np.unique(per_byte), served).ravel(), most)
    return _thinned(np.concatenate([[0.0, most], levels]), MAX_MESSAGE_LEVELS)


def _thinned(levels: np.ndarray, most: int) -> np.ndarray:
    """Distinct levels, evenly picked where there are more than `most`; first and last stay.

    A little is added, so that rounding takes no operation away.
    """
    levels = np.sort(levels)
    levels = levels[np.concatenate([[True], np.diff(levels) > 1e-9 * levels[-1]])]
    if len(levels) > most:
        levels = levels[np.unique(np.linspace(0, len(levels) - 1, most).round().astype(int))]
    return levels * (1 + 1e-10)


def _solve_capacities(dense: Formulation, capacity: np.ndarray) -> np.ndarray:
    """Exact schedules under many capacities at once, each distinct knapsack solved once.

    Args:
        dense: the formulation without limits.
        capacity: float ``[num_cases, num_knapsacks, num_resources]``.

    Returns:
        int8 ``[num_cases, num_subnets, num_microbatches]``.
    """
    problem = dense.problem
    row_knapsack = problem.knapsack[:, 0]
    rows: list[np.ndarray] = []
    owner: list[np.ndarray] = []
    limits: list[np.ndarray] = []
    place: list[tuple[np.ndarray, np.ndarray, int]] = []
    num_cases = num_rows = 0
    for k in range(problem.num_knapsacks):
        members = np.flatnonzero(row_knapsack == k)
        distinct, inverse = np.unique(capacity[:, k], axis=0, return_inverse=True)
        place.append((members, inverse.ravel(), num_rows))
        rows.append(np.tile(members, len(distinct)))
        owner.append(np.repeat(num_cases + np.arange(len(distinct)), len(members)))
        limits.append(distinct)
        num_cases += len(distinct)
        num_rows += len(distinct) * len(members)
    row = np.concatenate(rows)
    solution = solve(
        Problem(
            value=problem.value[row],
            cost=problem.cost[:, row],
            knapsack=np.concatenate(owner),
            capacity=np.concatenate(limits),
        )
    )
    assert solution.schedule is not None
    operations = np.empty(
        (len(capacity), problem.num_subnets, problem.num_microbatches), dtype=np.int8
    )
    for members, inverse, first in place:
        start = first + inverse * len(members)
        operations[:, members] = solution.schedule[start[:, None] + np.arange(len(members))]
    return operations[:, dense.row]


def _choose(choices: _Choices, available_s: float) -> BlockLevels:
    """Levels of every block, of most value with a sum of seconds within `available_s`."""
    num_blocks = len(choices.seconds)
    cell_s = max(available_s, 1e-300) / GRID_CELLS
    weight = np.ceil(choices.seconds / cell_s - 1e-9)
    best = np.zeros(GRID_CELLS + 1)
    picked = np.zeros((num_blocks, GRID_CELLS + 1), dtype=np.int64)
    for b in range(num_blocks):
        previous, best = best, np.full(GRID_CELLS + 1, -np.inf)
        for j in _frontier(weight[b], choices.value[b]):
            used = int(weight[b, j])
            if used > GRID_CELLS:
                continue
            gained = previous[: GRID_CELLS + 1 - used] + choices.value[b, j]
            better = gained > best[used:]
            best[used:][better] = gained[better]
            picked[b, used:][better] = j
    cell = int(np.argmax(best))
    chosen = np.zeros(num_blocks, dtype=np.int64)
    for b in range(num_blocks - 1, -1, -1):
        chosen[b] = picked[b, cell]
        cell -= int(weight[b, chosen[b]])
    levels = choices.levels[chosen]
    return BlockLevels(tuple(levels[:, 0].tolist()), tuple(levels[:, 1].tolist()))


def _frontier(weight: np.ndarray, value: np.ndarray) -> list[int]:
    """Indices of pairs that no other beats in both, lightest first."""
    kept: list[int] = []
    for j in np.lexsort((-value, weight)).tolist():
        if not kept or value[j] > value[kept[-1]]:
            kept.append(j)
    return kept
