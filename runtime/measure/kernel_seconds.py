"""What starting one kernel costs, measured on kernels that have next to nothing to do."""

import statistics

import torch

from runtime.lanes.units import Units
from runtime.torch_device import Stopwatch

NUM_STARTED = 200


def kernel_seconds(device: torch.device, num_repeats: int) -> float:
    """Seconds of one, as lanes start those that copy rows of weights and mask results.

    Args:
        device: which starts them.
        num_repeats: measurements, after one that does not count; their median is returned.
    """
    values, mask = torch.ones(4, 4, device=device), torch.ones(2, 4, device=device)
    rows = Units(((0, 1), (2, 3)), 4)
    seconds = []
    for _ in range(num_repeats + 1):
        watch = Stopwatch(device)
        watch.lap("start")
        for _ in range(NUM_STARTED // 2):
            rows.take(values, 0).mul_(mask)
        watch.lap("kernels")
        seconds.append(watch.seconds()["kernels"] / NUM_STARTED)
    return statistics.median(seconds[1:])
