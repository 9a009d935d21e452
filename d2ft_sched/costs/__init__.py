"""What operations cost, in FLOPs, bytes sent and bytes kept: the one place from which simulator and
runtime take it."""
