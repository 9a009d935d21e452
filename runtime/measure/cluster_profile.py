"""Measuring a cluster: every rank's device, and the network between them, as a step uses both."""

import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from d2ft_sched.cluster.device import Device
from d2ft_sched.cluster.device_file import DeviceSchema, device_from_schema, device_to_dict
from d2ft_sched.files.schema import validate
from d2ft_sched.model.workload import Workload
from runtime.measure.device_profile import profile_device
from runtime.measure.network_fit import NetworkTimes
from runtime.ranks.agreement import gather_texts, meet
from runtime.ranks.all_to_all import ExchangePhase, Peers, start_all_to_all
from runtime.ranks.job import Ranks, start_sum
from runtime.torch_device import synchronize

PAIR_BYTES = (256 * 1024, 1024 * 1024, 4 * 1024 * 1024)
ALL_BYTES = (4 * 1024, 64 * 1024, 256 * 1024, 1024 * 1024)
_PHASE = ExchangePhase("forward", 0, "profile", "exchange")


def rank_name(ranks: Ranks) -> str:
    """What the cluster file calls this rank's device."""
    return os.environ.get("D2FT_DEVICE_NAME") or f"rank{ranks.rank}"


def profile_devices(
    ranks: Ranks,
    model: nn.Module,
    workload: Workload,
    *,
    num_repeats: int = 5,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Device, ...]:
    """`profile_device` on all ranks at the same time, for so they will run; on every rank the
    devices of all, in the order of ranks."""
    meet(ranks, "the start of the profile")
    own = profile_device(
        model,
        workload,
        ranks.device,
        name=rank_name(ranks),
        num_repeats=num_repeats,
        progress=progress,
    )
    texts = gather_texts(ranks, json.dumps(device_to_dict(own)), "the exchange of profiles")
    return tuple(
        device_from_schema(validate(DeviceSchema, json.loads(text)), f"rank {rank}", Path())
        for rank, text in enumerate(texts)
    )


def measure_network(ranks: Ranks, num_repeats: int = 5) -> NetworkTimes:
    """Time messages between every two ranks, one at a time, and exchanges between all.

    They go the way that the exchanges of a step go. All ranks call this; all get the same times.
    """
    num = ranks.num_ranks
    pair_s = np.zeros((len(PAIR_BYTES), num, num))
    for k, size in enumerate(PAIR_BYTES):
        for i, j in np.argwhere(~np.eye(num, dtype=bool)):
            messages = np.zeros((num, num), dtype=np.int64)
            messages[i, j] = size
            pair_s[k, i, j] = min(exchange_s(ranks, messages, num_repeats))
    all_s = [
        statistics.median(exchange_s(ranks, size * ~np.eye(num, dtype=bool), 3 * num_repeats))
        for size in ALL_BYTES
    ]
    return NetworkTimes(np.array(PAIR_BYTES), pair_s, np.array(ALL_BYTES), np.array(all_s))


def exchange_s(ranks: Ranks, pair_bytes: np.ndarray, num_repeats: int) -> list[float]:
    """Seconds of an exchange on the slowest rank, several times after one to warm up.

    Args:
        ranks: all of which call this.
        pair_bytes: multiples of 4 from row to column rank, int ``[num_ranks, num_ranks]``.
        num_repeats: measurements.
    """
    sent = (pair_bytes[ranks.rank] // 4).tolist()
    received = (pair_bytes[:, ranks.rank] // 4).tolist()
    send = torch.zeros(sum(sent), 1, device=ranks.device)
    receive = torch.zeros(sum(received), 1, device=ranks.device)
    peers = Peers(tuple(range(ranks.num_ranks)), None)
    seconds = []
    for _ in range(num_repeats + 1):
        meet(ranks, "the profile of the network")
        synchronize(ranks.device)
        start = time.perf_counter()
        start_all_to_all(ranks, peers, receive, send, received, sent, _PHASE, None)()
        synchronize(ranks.device)
        every = torch.zeros(ranks.num_ranks, dtype=torch.float64, device=ranks.device)
        every[ranks.rank] = time.perf_counter() - start
        start_sum(ranks, every, "the profile of the network").wait()
        seconds.append(float(every.max()))
    return seconds[1:]
