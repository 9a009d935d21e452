"""The methods that the paper compares with; our reading of each."""

import time

import numpy as np

from d2ft_sched.errors import InputError
from d2ft_sched.files.counted import counted
from d2ft_sched.problem.problem import Problem
from d2ft_sched.problem.solution import Solution
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.schedule import uniform_schedule
from d2ft_sched.solvers.baselines.moves import apply_moves, heuristic_solution

NUM_TRIED = 32
"""Values of k that top-k routing tries, evenly from 1 to the subnets of a block."""


def solve_magnitude(
    problem: Problem,
    *,
    time_limit_s: float | None = None,
    seed: int = 0,
    magnitude: np.ndarray,
) -> Solution:
    """Dynamic pruning by weight magnitude: the largest subnets are FULL, the others are left out.

    The last subnet that does not fit as a whole is kept on as many micro-batches as do.

    Args:
        problem: any.
        time_limit_s: not used.
        seed: not used.
        magnitude: such as the mean absolute weight of each subnet, float ``[num_subnets]``.
    """
    begin = time.perf_counter()
    magnitude = _per_subnet("magnitude", magnitude, problem)
    subnet = np.argsort(-magnitude, kind="stable")
    item = (
        subnet[:, None] * problem.num_microbatches + np.arange(problem.num_microbatches)
    ).ravel()
    schedule = apply_moves(problem, item, np.full(len(item), Operation.FULL))
    return heuristic_solution(problem, schedule, begin, "magnitude", "subnets by weight magnitude")


def solve_top_k(
    problem: Problem,
    *,
    time_limit_s: float | None = None,
    seed: int = 0,
    block: np.ndarray,
    k: int | None = None,
) -> Solution:
    """Routing as in sparse experts: each micro-batch goes to its k best subnets of every block.

    They run FULL, the others not at all; what goes over a capacity is dropped, lowest score first.

    Args:
        problem: any.
        time_limit_s: not used.
        seed: not used.
        block: block of each subnet, int ``[num_subnets]``.
        k: subnets per block; by default the number of most value among `NUM_TRIED`.
    """
    begin = time.perf_counter()
    block = _per_subnet("block", block, problem).astype(np.int64)
    largest = int(np.bincount(block).max())
    if k is not None and not 1 <= k <= largest:
        raise InputError(
            f"k is {k}; it must be between 1 and the {counted(largest, 'subnet')} of a block"
        )
    score = (
        problem.value[..., Operation.FORWARD_ONLY] - problem.value[..., Operation.SHORTCUT]
    ).ravel()
    rank = _rank_in_block(score.reshape(problem.num_subnets, -1), block).ravel()
    by_score = np.argsort(-score, kind="stable")
    best: np.ndarray | None = None
    chosen = 0
    for tried in np.unique(np.linspace(1, largest, NUM_TRIED).astype(int)) if k is None else (k,):
        item = by_score[rank[by_score] < tried]
        schedule = apply_moves(problem, item, np.full(len(item), Operation.FULL))
        if best is None or problem.objective(schedule) > problem.objective(best):
            best, chosen = schedule, tried
    assert best is not None
    return heuristic_solution(
        problem,
        best,
        begin,
        "top_k",
        f"top {counted(chosen, 'subnet')} of every block by forward score",
    )


def solve_frozen_prefix(
    problem: Problem,
    *,
    time_limit_s: float | None = None,
    seed: int = 0,
    block: np.ndarray,
) -> Solution:
    """The first blocks run FORWARD_ONLY, as few as the capacities ask for, the others FULL.

    Where not even FORWARD_ONLY everywhere fits, the operations that do not are left out.

    Args:
        problem: any.
        time_limit_s: not used.
        seed: not used.
        block: block of each subnet, int ``[num_subnets]``.
    """
    begin = time.perf_counter()
    block = _per_subnet("block", block, problem).astype(np.int64)
    num_blocks = int(block.max()) + 1
    schedule = uniform_schedule(problem.num_subnets, problem.num_microbatches, Operation.FULL)
    for num_frozen in range(num_blocks + 1):
        schedule[block < num_frozen] = Operation.FORWARD_ONLY
        if problem.violation(schedule) is None:
            method = f"{num_frozen} of {counted(num_blocks, 'block')} frozen"
            return heuristic_solution(problem, schedule, begin, "frozen_prefix", method)
    item = np.arange(problem.num_items)
    schedule = apply_moves(problem, item, np.full(len(item), Operation.FORWARD_ONLY))
    method = "all blocks frozen, and operations left out that do not fit even so"
    return heuristic_solution(problem, schedule, begin, "frozen_prefix", method)


def _per_subnet(name: str, array: np.ndarray, problem: Problem) -> np.ndarray:
    array = np.asarray(array)
    if array.shape != (problem.num_subnets,):
        raise InputError(
            f"{name} has shape {list(array.shape)}; it must be [{problem.num_subnets} subnets]"
        )
    wrong = np.flatnonzero(~(np.isfinite(array) & (array >= 0)))
    if len(wrong):
        raise InputError(f"{name}[{wrong[0]}] is {array[wrong[0]]}; it must be at least 0")
    return array


def _rank_in_block(score: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Rank of each subnet among those of its block, per micro-batch, 0 for the best."""
    rank = np.empty(score.shape, dtype=np.int64)
    for b in np.unique(block):
        members = np.flatnonzero(block == b)
        order = np.argsort(-score[members], axis=0, kind="stable")
        np.put_along_axis(rank, members[order], np.arange(len(members))[:, None], axis=0)
    return rank
