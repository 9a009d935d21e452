"""Problems that separate into knapsacks: exact dynamic programs over counts or costs. Touched only
through `d2ft_sched.solvers.registry`."""
