"""Names of the pictures that ``d2ft plot`` draws, apart so that help needs no heavy import."""

from enum import StrEnum


class PictureName(StrEnum):
    """What ``d2ft plot`` takes first."""

    SCHEDULE = "schedule"
    """Of a plan: the operation of every subnet and micro-batch."""
    TIMELINE = "timeline"
    """Of a plan: devices and network over a step, dense and planned."""
    WORKLOAD = "workload"
    """Of a plan: what every device does with its time, dense and planned."""
    TOPOLOGY = "topology"
    """Of a plan: the cluster, coloured by utilisation."""
    SCORES = "scores"
    """Of a scores table: per block and head."""
    TRADEOFF = "tradeoff"
    """Of a sweep's table: compute, bytes and score, with Pareto fronts."""
    STEP_TIME = "step-time"
    """Of a sweep's table: step time against the budget for each bandwidth."""
    VALIDATION = "validation"
    """Of plans.csv of 'd2ft validate': predicted against measured."""
    SOLVERS = "solvers"
    """Of a table of 'd2ft compare'."""
    ACCURACY = "accuracy"
    """Of curves.csv of 'd2ft study': accuracy against training compute."""
    ACCURACY_TIME = "accuracy-time"
    """The same against predicted seconds on the cluster."""
    ACCURACY_RANKED = "accuracy-ranked"
    """Of summary.csv of 'd2ft study': accuracy after training, best method first."""
