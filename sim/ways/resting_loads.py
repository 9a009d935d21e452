"""Loads in which a part of the model rests: drawn by heads, or by whole blocks."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from d2ft_sched.model.workload import Workload
from d2ft_sched.plan.redrawn import redrawn, resting_units
from d2ft_sched.problem.resting import drawn
from sim.ways.candidates import Candidate
from sim.ways.estimate.load import Load, load_of, most_samples
from sim.ways.estimate.steps import WaySteps
from sim.ways.price import price

HEADS_PAY = 0.1
"""Relative excess of samples a second for which whole blocks rest in place of heads. From
docs/results/rest: for the same compute and gradients heads ended 0.9 points higher, and with 80 %
of the samples 0.7 points below blocks with all of them."""
NUM_DRAWS = 8
"""Other steps whose memory is looked at where that of the first leaves no ample room."""
AMPLE = 0.5
"""Part of a device's memory that no other draw makes too small: of 60 each in twelve settings the
largest need was 1.7 times the smallest, on a device with few subnets of a cut."""


def resting_loads(
    workload: Workload, fraction: float, compute: float, seed: int
) -> tuple[Load, ...]:
    """The most samples within a part of the dense step's FLOPs where so large a part of the subnets
    trains, drawn, at least one; then the same of whole blocks. Of adapters, whose factors a block
    shares, of blocks alone.

    Args:
        workload: the mini-batch.
        fraction: of the subnets, or blocks.
        compute: of the FLOPs of the subnets' dense step.
        seed: of what is drawn.
    """
    block, is_full = workload.partition.block, workload.lora is None
    units = [np.arange(len(block)), block] if is_full else [block]
    loads = []
    for unit in units:
        number = int(unit[-1]) + 1
        trains = drawn(0, seed, np.ones(number), max(fraction, 1 / number))[unit]
        loads.append(load_of(workload, most_samples(workload, trains, compute), trains))
    return tuple(dict.fromkeys(loads))


def best_resting(
    steps: WaySteps,
    loads: Iterable[Load],
    planned: Callable[[Load], Candidate | None],
    seed: int,
) -> Candidate | None:
    """The plan of the first of some loads, or of a later one that runs `HEADS_PAY` more samples a
    second; loads of which the estimate says that they do not are not planned.

    Args:
        steps: estimates.
        loads: as of `resting_loads`.
        planned: the best plan of a load, with as many samples as it may have.
        seed: of other draws, for which memory must suffice, too.
    """
    best: Candidate | None = None
    for load in loads:
        if best is not None and not _may_beat(steps, load, best):
            continue
        found = planned(load)
        if found is not None and _fits_redrawn(found, seed):
            is_better = best is None or _rate(found) > (1 + HEADS_PAY) * _rate(best)
            best = found if is_better else best
    return best


def _rate(found: Candidate) -> float:
    return found.num_samples / found.step_s


def _may_beat(steps: WaySteps, load: Load, best: Candidate) -> bool:
    number = min(load.num_samples, best.num_samples)
    estimated = steps.level(best.groups, replace(load, num_samples=number))
    return estimated is None or number / estimated.step_s > (1 + HEADS_PAY) * _rate(best)


def _fits_redrawn(found: Candidate, seed: int) -> bool:
    memory_bytes = np.array([device.memory_bytes for device in found.cluster.devices])
    if (found.priced.peak_memory_bytes <= AMPLE * memory_bytes).all():
        return True
    unit = resting_units(found.schedule, found.workload.partition.block)
    others = (redrawn(found.schedule, unit, step, seed) for step in range(1, 1 + NUM_DRAWS))
    return all(price(found, schedule).fits for schedule in others)
