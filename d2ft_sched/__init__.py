"""Planning of Distributed Dynamic Fine-Tuning: what to run where, within which limits."""

from d2ft_sched.operations import Operation
from d2ft_sched.problem import Problem
from d2ft_sched.shared import Coverage, SharedLimit
from d2ft_sched.solution import Solution, Status
from d2ft_sched.solve import register_solver, solve, solver_names

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
