"""Solvers over sizes and tightness: instances of any size, each solved in a process of its own.

An instance is one block with a subnet on each of N unequal devices (speeds over a factor of 10,
links over a factor of 100, both log-uniform), whose micro-batches are owned by a hub with a wide
link. Capacities of compute, messages and memory are levelled over the devices at a tightness.
"""

import contextlib
import json
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from d2ft_sched.cluster.cluster import Cluster, Link
from d2ft_sched.cluster.device import Device
from d2ft_sched.costs.activation_memory import operation_activation_bytes
from d2ft_sched.costs.exchange import operation_message_bytes
from d2ft_sched.costs.flops import operation_flops
from d2ft_sched.deployment import deploy
from d2ft_sched.errors import InputError
from d2ft_sched.files.counted import counted
from d2ft_sched.files.sizes import MOST_CELLS, check_at_most
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import ModelShape
from d2ft_sched.model.workload import Workload
from d2ft_sched.problem.budget import level_capacity
from d2ft_sched.problem.problem import Problem
from d2ft_sched.problem.scores import Scores
from d2ft_sched.schedule.operations import NUM_OPERATIONS, Operation
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.solvers.registry import solve, solver_names

MAX_SIMULATED = 256
"""Devices up to which the step is simulated, too."""
MIP_SOLVERS = ("mip", "scip", "highs", "cp_sat")
MAX_MIP_ITEMS = 200_000
"""Items up to which a MIP is built at all, so that its model fits a small machine's memory."""
GRACE_S = 60.0
"""Seconds over the time limit, for building, after which a process is ended."""
SPREAD_COMPUTE, SPREAD_LINKS = 10.0, 100.0
SLOWEST_FLOPS_PER_S, NARROWEST_BYTES_PER_S = 2e12, 0.125e9
NOT_RUN, ENDED = "NOT_RUN", "ENDED"
"""Statuses of this comparison: a model too large to build, a process that took too long."""


@dataclass(frozen=True)
class Case:
    """One solver on one instance.

    Attributes:
        solver: registry name.
        num_devices: knapsacks.
        num_microbatches: items of each.
        tightness: fraction of the dense compute that may be spent, above 0 and up to 1; messages
            and activations may spend the mean of that and 1.
        seed: of speeds, links, scores and solver.
        time_limit_s: for the solver.
    """

    solver: str
    num_devices: int
    num_microbatches: int
    tightness: float
    seed: int
    time_limit_s: float


def _shape(num_heads: int) -> ModelShape:
    """A block of so many heads, each as in ViT-Small (arXiv 2010.11929)."""
    return ModelShape("block", 1, num_heads, 64, 384, 256 * num_heads, 197)


def _devices(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """FLOPs per second and bytes per second of each device, float ``[num_devices]`` both."""
    rng = np.random.default_rng((case.seed, case.num_devices))
    compute, link = rng.random((2, case.num_devices))
    return (
        SLOWEST_FLOPS_PER_S * SPREAD_COMPUTE**compute,
        NARROWEST_BYTES_PER_S * SPREAD_LINKS**link,
    )


def scaling_problem(case: Case) -> Problem:
    """The instance as a problem with three resources; costs are equal within a knapsack."""
    one = Workload(_shape(1), partition_by_heads(_shape(1), 1), (4,) * case.num_microbatches)
    hub = Placement(2, (0,), (1,) * case.num_microbatches)
    flops_per_s, bytes_per_s = _devices(case)
    flops = operation_flops(one)[..., :NUM_OPERATIONS]
    size = (case.num_devices, case.num_microbatches, NUM_OPERATIONS)
    cost = np.stack(
        [
            flops / flops_per_s[:, None, None],
            np.broadcast_to(operation_message_bytes(one, hub), size),
            np.broadcast_to(operation_activation_bytes(one)[..., :NUM_OPERATIONS], size),
        ]
    )
    dense = cost[..., Operation.FULL].sum(axis=2)
    everyone = np.zeros(case.num_devices, dtype=int)
    half = (1 + case.tightness) / 2
    dense_flops = dense[0] * flops_per_s
    capacity = np.stack(
        [
            level_capacity(dense_flops, flops_per_s, everyone, case.tightness) / flops_per_s,
            level_capacity(dense[1], bytes_per_s, everyone, half),
            dense[2] * half,
        ],
        axis=1,
    )
    rng = np.random.default_rng((case.seed, case.num_devices, 1))
    scores = Scores(rng.lognormal(size=size[:2]), rng.lognormal(size=size[:2]))
    return Problem(scores.values(), cost, np.arange(case.num_devices), capacity)


def simulated_step_s(case: Case, schedule: np.ndarray) -> float:
    """Seconds of the step that a schedule of the instance takes, by the simulator."""
    from sim.step import simulate_step

    shape = _shape(case.num_devices)
    workload = Workload(shape, partition_by_heads(shape, 1), (4,) * case.num_microbatches)
    flops_per_s, bytes_per_s = _devices(case)
    devices = [Device(f"d{d}", rate, 10**12, 1e15) for d, rate in enumerate(flops_per_s.tolist())]
    devices.append(Device("hub", 1e15, 10**15, 1e15))
    rates = [*bytes_per_s.tolist(), float(bytes_per_s.sum())]
    links = tuple(
        Link(device.name, "switch", rate, 20e-6)
        for device, rate in zip(devices, rates, strict=True)
    )
    cluster = Cluster("scaling", tuple(devices), links, ("switch",))
    placement = Placement(
        len(devices),
        tuple(range(case.num_devices)),
        (case.num_devices,) * case.num_microbatches,
    )
    return simulate_step(deploy(workload, cluster, placement), schedule).step_s


def solve_case(case: Case) -> dict[str, Any]:
    """Build, solve and measure one case in this process; see `scaling_table` for the fields."""
    problem = scaling_problem(case)
    before = _restart_peak_memory()
    solution = solve(problem, solver=case.solver, time_limit_s=case.time_limit_s, seed=case.seed)
    row: dict[str, Any] = {
        **asdict(case),
        "status": solution.status.value,
        "build_s": solution.build_s,
        "solve_s": solution.solve_s,
        "extra_memory_bytes": _peak_memory_bytes() - before,
        "method": solution.method,
    }
    if np.isfinite(solution.upper_bound):
        row["upper_bound"] = solution.upper_bound
    if solution.schedule is not None:
        row["objective"] = solution.objective
        row["gap"] = solution.gap if np.isfinite(solution.gap) else None
        row["retained_score"] = solution.objective / problem.value[..., Operation.FULL].sum()
        busy_s = problem.spending(solution.schedule)[:, 0]
        row["workload_cv"] = float(busy_s.std() / busy_s.mean()) if busy_s.any() else 0.0
        if case.num_devices <= MAX_SIMULATED:
            row["simulated_step_s"] = simulated_step_s(case, solution.schedule)
    return row


def _restart_peak_memory() -> int:
    """Begin a new peak where the system can (Linux); returns the bytes that are in use."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak_memory_bytes()


def _peak_memory_bytes() -> int:
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    except (OSError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def run_cases(cases: Sequence[Case]) -> Iterator[dict[str, Any]]:
    """Rows of cases as they end, each from a fresh process, so that memory is its own."""
    for case in cases:
        num_items = case.num_devices * case.num_microbatches
        if case.solver in MIP_SOLVERS and num_items > MAX_MIP_ITEMS:
            reason = f"a model of {num_items} items is not built; the limit is {MAX_MIP_ITEMS}"
            yield {**asdict(case), "status": NOT_RUN, "method": reason}
            continue
        try:
            done = subprocess.run(
                [sys.executable, "-m", "analysis.comparing.scaling", json.dumps(asdict(case))],
                capture_output=True,
                text=True,
                timeout=2 * case.time_limit_s + GRACE_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            reason = f"ended after {error.timeout:g} s, building included"
            yield {**asdict(case), "status": ENDED, "method": reason}
            continue
        if done.returncode:
            reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no message"
            yield {**asdict(case), "status": ENDED, "method": reason}
        else:
            yield json.loads(done.stdout.splitlines()[-1])


COLUMNS = (
    "solver",
    "num_devices",
    "num_microbatches",
    "tightness",
    "seed",
    "time_limit_s",
    "status",
    "objective",
    "upper_bound",
    "gap",
    "retained_score",
    "build_s",
    "solve_s",
    "extra_memory_bytes",
    "workload_cv",
    "simulated_step_s",
    "method",
)


def scaling_table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """One row per case.

    Columns: those of `COLUMNS` (gap is each solver's own, `retained_score` the objective over that
    of the dense run, `workload_cv` the coefficient of variation of the devices' lane seconds,
    `extra_memory_bytes` what the process grew by while it built and solved) and
    `below_best_bound`, the relative distance of the objective to the lowest bound that any solver
    proved for the instance. Empty where a case gave none.
    """
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    instance = ["num_devices", "num_microbatches", "tightness", "seed"]
    bound = table.groupby(instance)["upper_bound"].transform("min")
    below = (1 - table["objective"] / bound).clip(lower=0.0)
    table.insert(COLUMNS.index("gap") + 1, "below_best_bound", below)
    return table


def scaling_cases(
    solvers: Sequence[str],
    sizes: Sequence[int],
    tightness: Sequence[float],
    *,
    num_microbatches: int,
    seed: int,
    time_limit_s: float,
) -> list[Case]:
    """All combinations, the smallest first.

    Raises:
        InputError: an unknown solver, a size below 1 or a tightness out of range.
    """
    for name in solvers:
        if name not in solver_names():
            raise InputError(
                f"solver {name!r} is unknown; it must be one of {', '.join(solver_names())}"
            )
    for size in sizes:
        if size < 1:
            raise InputError(f"a size is {counted(size, 'device')}; it must be at least 1")
        check_at_most(
            f"{size} devices x {num_microbatches} micro-batches",
            size * num_microbatches,
            MOST_CELLS,
            "ask for fewer",
        )
    for fraction in tightness:
        if not 0 < fraction <= 1:
            raise InputError(f"a tightness is {fraction}; it must be above 0 and up to 1")
    return [
        Case(solver, size, num_microbatches, fraction, seed, time_limit_s)
        for size in sorted(sizes)
        for fraction in tightness
        for solver in solvers
    ]


if __name__ == "__main__":
    print(json.dumps(solve_case(Case(**json.loads(sys.argv[1])))))
