"""The sliced computation of a block: which weights a group of subnets uses, and its forward and
backward."""
