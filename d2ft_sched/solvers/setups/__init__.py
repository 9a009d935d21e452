"""Problems with setups: which groups train, by prices and enumeration, or as one MIP. Touched only
through `d2ft_sched.solvers.setups.solve`."""
