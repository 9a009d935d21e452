"""The placement problem as a mixed-integer program, to hold the fast search against.

The dense step of `DenseStep` with one binary per (block, device, number of subnets), so that any
measured curve is exact; blocks that are alike share one set of variables where memory is ample.
"""

import time
from typing import Any

import numpy as np
from ortools.linear_solver.python import model_builder

from bench.placement.placement_program import PlacementProgram, build_program
from d2ft_sched import Cluster, InputError, Workload
from d2ft_sched.placement_search.balanced import PlacementResult
from d2ft_sched.placement_search.dense_bound import update_bound_s
from d2ft_sched.placement_search.dense_step import DenseStep
from d2ft_sched.placement_search.layout import excess_bytes, has_ample_memory, to_placement
from d2ft_sched.solvers.quiet_stdout import quiet_stdout

SOLVED = (model_builder.SolveStatus.OPTIMAL, model_builder.SolveStatus.FEASIBLE)


def place_mip(
    workload: Workload,
    cluster: Cluster,
    *,
    num_waves: int = 1,
    every_device: bool = False,
    backend: str = "highs",
    time_limit_s: float = 60.0,
) -> PlacementResult:
    """The best placement that a MIP solver finds, with its bound.

    The ring of the trunk's all-reduce and the launch of the update are counted at their least, and
    memory at its most, so the bound holds where memory is ample; the placement is priced in full.
    Where equal blocks share variables, the placement is the best of those that are alike in them.
    All but the update is least there, so for a bound on any placement a second solve leaves the
    update out and the least that any takes is added.

    Args:
        workload, cluster, num_waves, every_device: as for `place_balanced`.
        backend: "highs" or "scip".
        time_limit_s: for each solve.

    Raises:
        InputError: no placement was found in that time, or none exists.
    """
    begin = time.perf_counter()
    step = DenseStep(workload, cluster, tuple(range(len(cluster.devices))), num_waves)
    ample = has_ample_memory(step)
    model = build_program(step, every_device, ample)
    build_s = time.perf_counter() - begin
    begin = time.perf_counter()
    solver, status = _solve(model.program, backend, time_limit_s)
    solve_s = time.perf_counter() - begin
    if status not in SOLVED:
        raise InputError(
            f"MIP placement: {backend} found none in {time_limit_s} s ({status.name}); give it "
            f"more time, or more memory"
        )
    counts, owner = _read(step, model, solver)
    seconds = step.seconds(counts, owner)
    fits = bool((excess_bytes(step, counts, owner, 1.0) <= 0).all())
    bound_s = solver.best_objective_bound * model.unit_s if ample else 0.0
    if model.blocks_are_alike:
        model.program.minimize(model.besides_update)
        solver, least = _solve(model.program, backend, time_limit_s)
        besides_s = solver.best_objective_bound * model.unit_s if least in SOLVED else 0.0
        bound_s = besides_s + update_bound_s(step)
    return PlacementResult(
        placement=to_placement(step, counts, owner),
        dense_step_s=seconds,
        lower_bound_s=min(float(bound_s), seconds),
        method=f"MIP by {backend}, {status.name}"
        + (" with equal blocks alike" if model.blocks_are_alike else "")
        + f", built in {build_s:.3g} s",
        solve_s=solve_s,
        fits_dense=fits,
    )


def _solve(program: Any, backend: str, time_limit_s: float) -> tuple[Any, Any]:
    """The solver after its run, and how it ended."""
    solver = model_builder.Solver(backend)
    solver.enable_output(False)
    solver.set_time_limit_in_seconds(time_limit_s)
    with quiet_stdout():
        return solver, solver.solve(program)


def _read(
    step: DenseStep, model: PlacementProgram, solver: Any
) -> tuple[np.ndarray, tuple[int, ...]]:
    num_blocks, num_sizes = step.block_counts.shape
    counts = np.zeros((num_blocks, step.num_devices, num_sizes), dtype=np.int64)
    for (b, d, s), number in model.held.items():
        counts[model.block_kind == b, d, s] = round(solver.value(number))
    owner = np.zeros(step.workload.num_microbatches, dtype=np.int64)
    for w, wave in enumerate(step.waves):
        for size in np.unique(step.workload.samples[wave]).tolist():
            numbers = [
                round(solver.value(model.owned[w, size, d])) for d in range(step.num_devices)
            ]
            owner[wave[step.workload.samples[wave] == size]] = np.repeat(
                np.arange(step.num_devices), numbers
            )
    return counts, tuple(owner.tolist())
