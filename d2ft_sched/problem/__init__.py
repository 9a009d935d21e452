"""The knapsacks: values, costs, capacities and shared limits of one mini-batch, and what a solver
returns."""
