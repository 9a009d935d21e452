"""Solvers of the scheduling problem; `d2ft_sched.solvers.registry` is the entry."""
