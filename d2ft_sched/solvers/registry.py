"""`solve`: one entry for all solvers and baselines, and the registry of their names."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

from d2ft_sched.errors import InputError
from d2ft_sched.files.seeds import check_seed
from d2ft_sched.problem.problem import Problem
from d2ft_sched.problem.solution import Solution

Solver = Callable[..., Solution]
"""Called as ``solver(problem, time_limit_s=..., seed=..., **options)``."""


@dataclass(frozen=True)
class _Entry:
    """A solver, or "module:function" that is imported when first asked for, with fixed options."""

    solver: str | Solver
    options: dict[str, Any] = field(default_factory=dict)

    def function(self) -> Solver:
        if not isinstance(self.solver, str):
            return self.solver
        module, function = self.solver.split(":")
        return getattr(import_module(module), function)


_MIP = "d2ft_sched.solvers.mip:solve_mip"

_BASELINES = "d2ft_sched.solvers.baselines"

_REGISTRY: dict[str, _Entry] = {
    "dp": _Entry("d2ft_sched.solvers.dp:solve_dp"),
    "two_stage": _Entry("d2ft_sched.solvers.two_stage:solve_two_stage"),
    "lagrangian": _Entry("d2ft_sched.solvers.coupled.lagrangian:solve_lagrangian"),
    "mip": _Entry(_MIP),
    "scip": _Entry(_MIP, {"backend": "scip"}),
    "highs": _Entry(_MIP, {"backend": "highs"}),
    "cp_sat": _Entry(_MIP, {"backend": "cp_sat"}),
    "fewer_microbatches": _Entry(f"{_BASELINES}.fewer_microbatches:solve_fewer_microbatches"),
    "uniform": _Entry(f"{_BASELINES}.uniform:solve_uniform"),
    "random": _Entry(f"{_BASELINES}.random_choice:solve_random"),
    "greedy": _Entry(f"{_BASELINES}.greedy:solve_greedy"),
    "magnitude": _Entry(f"{_BASELINES}.published:solve_magnitude"),
    "top_k": _Entry(f"{_BASELINES}.published:solve_top_k"),
    "frozen_prefix": _Entry(f"{_BASELINES}.published:solve_frozen_prefix"),
}


def solver_names() -> tuple[str, ...]:
    """Names that `solve` knows."""
    return tuple(_REGISTRY)


def required_options(solver: str) -> tuple[str, ...]:
    """Options without which a solver cannot work, such as the block of each subnet.

    Raises:
        InputError: unknown solver.
    """
    parameters = inspect.signature(_entry(solver).function()).parameters.values()
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    needed = [p.name for p in parameters if p.default is p.empty and p.kind in named][1:]
    return tuple(name for name in needed if name not in ("time_limit_s", "seed"))


def takes_option(solver: str, option: str) -> bool:
    """Whether a solver has an option of that name.

    Raises:
        InputError: unknown solver.
    """
    entry = _entry(solver)
    return option not in entry.options and option in inspect.signature(entry.function()).parameters


def register_solver(name: str, solver: Solver) -> None:
    """Add a solver of one's own under a new name.

    Raises:
        InputError: the name is taken.
    """
    if name in _REGISTRY:
        raise InputError(f"solver {name!r} is registered already; choose another name")
    _REGISTRY[name] = _Entry(solver)


def solve(
    problem: Problem,
    solver: str = "dp",
    time_limit_s: float | None = None,
    seed: int = 0,
    **options: Any,
) -> Solution:
    """Solve a scheduling problem.

    Args:
        problem: what to solve.
        solver: a name of `solver_names`.
        time_limit_s: seconds after which the solver returns the best it has; None for no limit.
        seed: of every random choice, from 0 to `d2ft_sched.files.seeds.MAX_SEED`.
        options: what the chosen solver takes besides; see its docstring.

    Returns:
        The solution; its schedule was checked against the problem.

    Raises:
        InputError: unknown solver or option, a time limit that is not above 0, or no seed.
    """
    entry = _entry(solver)
    if time_limit_s is not None and not time_limit_s > 0:
        raise InputError(f"time limit is {time_limit_s} s; it must be above 0, or None")
    check_seed(seed)
    function = entry.function()
    known = [p for p in inspect.signature(function).parameters if p not in entry.options][1:]
    for option in options:
        if option not in known:
            raise InputError(
                f"solver {solver!r} has no option {option!r}; it takes {', '.join(known)}"
            )
    for option in required_options(solver):
        if option not in options:
            raise InputError(f"solver {solver!r} needs the option {option!r}")
    solution = function(problem, time_limit_s=time_limit_s, seed=seed, **entry.options, **options)
    return replace(solution, solver=solver)


def _entry(solver: str) -> _Entry:
    if solver not in _REGISTRY:
        raise InputError(f"solver {solver!r} is unknown; it must be one of {', '.join(_REGISTRY)}")
    return _REGISTRY[solver]
