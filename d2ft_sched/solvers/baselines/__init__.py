"""Simple and published rules that exact solvers are compared with. Touched only through
`d2ft_sched.solvers.registry`."""
