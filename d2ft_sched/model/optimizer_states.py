"""What optimizers keep, by name; without numpy, for the options of commands."""

OPTIMIZER_STATES = {
    "sgd": 0,
    "sgdm": 1,
    "nesterov": 1,
    "adam": 2,
    "adamw": 2,
    "adamax": 2,
    "nadamw": 2,
    "radamw": 2,
    "lion": 1,
    "lamb": 2,
    "lars": 1,
}
"""Values an optimizer keeps for each parameter, in the parameter's own precision."""

TOGETHER = frozenset({"lamb", "lars"})
"""Those that look at a whole weight at once, so that parts of one cannot be updated apart."""
