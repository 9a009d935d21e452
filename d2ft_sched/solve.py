"""`solve`: one entry for all solvers and baselines, and the registry of their names."""

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

from d2ft_sched.errors import InputError
from d2ft_sched.problem import Problem
from d2ft_sched.solution import Solution

Solver = Callable[..., Solution]
"""Called as ``solver(problem, time_limit_s=..., seed=..., **options)``."""

_REGISTRY: dict[str, str | Solver] = {
    "dp": "d2ft_sched.solvers.dp:solve_dp",
}
"""Solver, or "module:function" that is imported when first asked for."""


def solver_names() -> tuple[str, ...]:
    """Names that `solve` knows."""
    return tuple(_REGISTRY)


def register_solver(name: str, solver: Solver) -> None:
    """Add a solver of one's own under a new name.

    Raises:
        InputError: the name is taken.
    """
    if name in _REGISTRY:
        raise InputError(f"solver {name!r} is registered already; choose another name")
    _REGISTRY[name] = solver


def get_solver(name: str) -> Solver:
    """The solver of that name.

    Raises:
        InputError: unknown name.
    """
    if name not in _REGISTRY:
        raise InputError(f"solver {name!r} is unknown; it must be one of {', '.join(_REGISTRY)}")
    entry = _REGISTRY[name]
    if isinstance(entry, str):
        module, function = entry.split(":")
        entry = getattr(import_module(module), function)
    return entry


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
        seed: seed of every random choice.
        options: what the chosen solver takes besides; see its docstring.

    Returns:
        The solution; its schedule was checked against the problem.

    Raises:
        InputError: unknown solver or option, or a time limit that is not above 0.
    """
    function = get_solver(solver)
    if time_limit_s is not None and not time_limit_s > 0:
        raise InputError(f"time limit is {time_limit_s} s; it must be above 0, or None")
    known = list(inspect.signature(function).parameters)[1:]
    for option in options:
        if option not in known:
            raise InputError(
                f"solver {solver!r} has no option {option!r}; it takes {', '.join(known)}"
            )
    return function(problem, time_limit_s=time_limit_s, seed=seed, **options)
