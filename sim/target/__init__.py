"""Plans for a step time: levels of every block such that the simulated step meets a target. From
outside: `target_plan`."""
