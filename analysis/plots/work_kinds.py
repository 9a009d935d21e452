"""What the rows of a timeline are: lanes, trunk, optimizer or messages."""

import pandas as pd

NETWORK = "network"


def work_kinds(timeline: pd.DataFrame) -> pd.Series:
    """The kind of each row, a key of `analysis.plots.style.WORK_COLOURS`.

    Args:
        timeline: columns of `sim.prediction.Prediction.timeline`.
    """
    kind = timeline["phase"].where(
        ~timeline["phase"].str.endswith("lanes"), timeline["direction"] + " lanes"
    )
    return kind.where(timeline["resource"] != NETWORK, "messages")


def resources(timelines: list[pd.DataFrame]) -> list[str]:
    """Devices in order of appearance, then the network if it carries anything."""
    names = pd.unique(pd.concat([t["resource"] for t in timelines]))
    devices = [str(n) for n in names if n != NETWORK]
    return devices + [NETWORK] * (len(devices) < len(names))
