"""Planning of Distributed Dynamic Fine-Tuning: what to run where, within which limits."""

from d2ft_sched.problem.problem import Problem
from d2ft_sched.problem.shared import Coverage, SharedLimit
from d2ft_sched.problem.solution import Solution, Status
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.solvers.registry import register_solver, solve, solver_names

__all__ = [
    "Coverage",
    "Operation",
    "Problem",
    "SharedLimit",
    "Solution",
    "Status",
    "register_solver",
    "solve",
    "solver_names",
]
