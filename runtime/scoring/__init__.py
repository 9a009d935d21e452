"""Contribution scores of subnets: of a pass of their own, or seen while training."""
