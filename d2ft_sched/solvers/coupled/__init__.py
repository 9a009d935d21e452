"""Problems whose knapsacks share limits: Lagrangian prices over the same dynamic programs,
repaired to a feasible schedule. Touched only through `d2ft_sched.solvers.registry`."""
