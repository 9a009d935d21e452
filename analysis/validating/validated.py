"""What a validation found."""

from dataclasses import dataclass

import pandas as pd

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.schedule.placement import Placement


@dataclass(frozen=True, eq=False)
class Validated:
    """Predictions beside measurements.

    Attributes:
        table: one row per plan, from `validation_table`.
        phases: one row per plan and phase, from `phase_table`.
        baselines: like `table`, of dense steps that savings are held against; none where plans
            were given, which have them among themselves.
        cluster: that the predictions were made for.
        placement: of subnets and owners; None where plans were given, each with its own.
        device: what it ran on.
        speaks: whether this process is the one that reports.
    """

    table: pd.DataFrame
    phases: pd.DataFrame
    baselines: pd.DataFrame
    cluster: Cluster
    placement: Placement | None
    device: str
    speaks: bool
