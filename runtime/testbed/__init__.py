"""Unequal hosts on one Linux machine: a network namespace, shaped links and a CPU share for each
device of a cluster file, and a command run on all of them as ``torchrun`` would."""
