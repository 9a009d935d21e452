"""Solvers of the scheduling problem; `d2ft_sched.solve` is the entry."""
