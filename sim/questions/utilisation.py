"""How much of a step every device and every link is busy, as tidy tables."""

import numpy as np
import pandas as pd

from sim.network.exchange_time import channel_seconds, link_loads
from sim.prediction import Prediction

KINDS_OF_WORK = ("attention", "mlp", "trunk", "optimizer", "other")
"""First words of the names of phases of computation; the rest is other."""


def device_utilisation(prediction: Prediction) -> pd.DataFrame:
    """One row per device: where its time goes.

    Columns: device; busy_s; the seconds of each of `KINDS_OF_WORK` (attention_s, ...), which add
    up to it; idle_s; busy_fraction of the step; peak_memory_bytes; memory_bytes, what it has.
    """
    seconds = {kind: np.zeros(len(prediction.cluster.devices)) for kind in KINDS_OF_WORK}
    for phase in prediction.phases:
        if phase.device_s is not None:
            kind = phase.name.partition(" ")[0]
            seconds[kind if kind in KINDS_OF_WORK else "other"] += phase.device_s
    return pd.DataFrame(
        {
            "device": [d.name for d in prediction.cluster.devices],
            "busy_s": prediction.device_busy_s,
            **{f"{kind}_s": seconds[kind] for kind in KINDS_OF_WORK},
            "idle_s": prediction.device_idle_s,
            "busy_fraction": prediction.device_busy_s / prediction.step_s,
            "peak_memory_bytes": prediction.peak_memory_bytes,
            "memory_bytes": [d.memory_bytes for d in prediction.cluster.devices],
        }
    )


def link_utilisation(prediction: Prediction) -> pd.DataFrame:
    """One row per directed link that carries messages, the busiest first.

    Columns: link, as "source -> target"; duplex; bytes; bandwidth_bytes_per_s; busy_s, the time
    that its messages take at full bandwidth; busy_fraction of the step. The two directions of a
    half-duplex link share its bandwidth; each shows the busy time of both together.
    """
    cluster = prediction.cluster
    carried = link_loads(cluster, prediction.pair_bytes)
    busy_s = channel_seconds(cluster, carried)[cluster.link_channel]
    used = np.flatnonzero(carried)
    directed = [cluster.links_directed[k] for k in used]
    table = pd.DataFrame(
        {
            "link": [f"{k.source} -> {k.target}" for k in directed],
            "duplex": [cluster.links[k // 2].duplex for k in used],
            "bytes": carried[used],
            "bandwidth_bytes_per_s": cluster.link_bandwidth_bytes_per_s[used],
            "busy_s": busy_s[used],
            "busy_fraction": busy_s[used] / prediction.step_s,
        }
    )
    return table.sort_values("busy_s", ascending=False, kind="stable", ignore_index=True)
