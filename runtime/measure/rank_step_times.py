"""What a step really costs on partitioned ranks: seconds by phase, FLOPs, bytes and memory."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from d2ft_sched.cluster.device import Device
from d2ft_sched.costs.lanes.executed_flops import step_wasted_flops
from d2ft_sched.costs.replica_memory import part_devices
from d2ft_sched.schedule.replica_part import replica_parts
from runtime.measure.flop_counting import count_flops
from runtime.measure.memory_tracking import peak_memory_bytes
from runtime.measure.steps_side_by_side import begin_state
from runtime.models.optimizers import create_optimizer
from runtime.ranks.agreement import gather_arrays, meet
from runtime.ranks.all_to_all import SentBytes
from runtime.ranks.job import Ranks
from runtime.ranks.rank_model import RankModel
from runtime.ranks.rank_slices import RankSlices, slice_rank_schedule
from runtime.ranks.rank_step import rank_forward_backward
from runtime.ranks.wave.rank_wave import RankBatch
from runtime.torch_device import Stopwatch, assumed_device, autocast
from runtime.training.resting_rows import resting, update

RankStep = Callable[[Stopwatch | None, SentBytes | None], None]
"""One step of a rank: it adds its laps to the one and the bytes that it sends to the other."""

PHASES = ("trunk", "dispatch", "lanes", "combine", "all-reduce", "optimizer")
"""Parts of a step in which a rank computes, or sends and waits for others."""


@dataclass(frozen=True, eq=False)
class RankStepMeasurement:
    """Measured costs of one training step on all ranks.

    Attributes:
        step_s: median over the repeats of the slowest rank's seconds.
        step_spread_s: distance between the quartiles.
        phase_s: medians of each rank in each of `PHASES`, float ``[num_phases, num_ranks]``; an
            exchange includes the wait for those who come later.
        flops: counted operator by operator on all ranks, without the optimizer and without
            `wasted_flops`.
        wasted_flops: that are masked, by `d2ft_sched.costs.lanes.executed_flops`.
        pair_bytes: handed to collectives from row to column rank, ``[num_ranks, num_ranks]``.
        peak_memory_bytes: the most that each rank's tensors take, float ``[num_ranks]``.
        num_repeats: steps timed.
    """

    step_s: float
    step_spread_s: float
    phase_s: np.ndarray
    flops: int
    wasted_flops: int
    pair_bytes: np.ndarray
    peak_memory_bytes: np.ndarray
    num_repeats: int


def measure_rank_steps(
    model: RankModel,
    schedules: Mapping[str, np.ndarray],
    *,
    overlap: bool = False,
    num_repeats: int = 5,
    progress: Callable[[int, int], None] = lambda done, total: None,
    costs: Sequence[Device] | None = None,
) -> dict[str, RankStepMeasurement]:
    """Measure several schedules side by side, in turns, so that a busy moment falls on all.

    Args:
        model: what this rank holds; all ranks call this with the same schedules. Parameters stay
            as they are, gradients are discarded.
        schedules: by name, int ``[num_subnets, num_microbatches]``.
        overlap: interleave the waves.
        num_repeats: timed steps of each schedule, after one that is not.
        progress: told how many of how many steps are done.
        costs: of every rank, which say what runs together; default as assumed of this one's.

    Returns:
        The same on all ranks.
    """
    workload, ranks = model.workload, model.ranks
    costs = costs or [assumed_device(ranks.device)] * ranks.num_ranks
    slices = {
        name: slice_rank_schedule(workload, model.replicas, schedule, ranks.rank, costs)
        for name, schedule in schedules.items()
    }
    rests = {
        name: resting(model.module, model.own_shards, workload, schedule)
        for name, schedule in schedules.items()
    }
    batches = _random_batches(model, slices)
    optimizer = create_optimizer(model.module, workload.optimizer, lr=0.0)
    begin_state(optimizer)

    def step(name: str, watch: Stopwatch | None, counted: SentBytes | None) -> None:
        with autocast(ranks.device, workload):
            rank_forward_backward(
                model,
                batches[name],
                slices[name],
                overlap=overlap,
                watch=watch,
                counted=counted,
            )
        update(optimizer, rests[name])
        if watch is not None:
            watch.lap("optimizer")

    steps = {name: partial(step, name) for name in slices}
    held = {name: [batch.inputs, batch.labels] for name, batch in batches.items()}
    measured = measure_in_turns(ranks, steps, model.module, optimizer, held, num_repeats, progress)
    for name, schedule in schedules.items():
        parts = replica_parts(workload, model.replicas, schedule)
        wasted = round(
            sum(
                step_wasted_flops(
                    part.workload, part.replica, part.schedule, part_devices(part, costs)
                )
                for part in parts
            )
        )
        counted = measured[name].flops
        measured[name] = replace(measured[name], flops=counted - wasted, wasted_flops=wasted)
    return measured


def measure_in_turns(
    ranks: Ranks,
    steps: Mapping[str, RankStep],
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    held: Mapping[str, Sequence[Tensor]],
    num_repeats: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, RankStepMeasurement]:
    """Measure several kinds of step in turns.

    Args:
        ranks: all of which call this.
        steps: by name.
        module: whose parameters they train.
        optimizer: which they use.
        held: what else is there before each of them.
        num_repeats: timed steps of each kind, after one that is not.
        progress: told how many of how many steps are done.
    """
    total, done = len(steps) * (num_repeats + 1), 0
    laps: dict[str, list[np.ndarray]] = {name: [] for name in steps}
    for repeat in range(num_repeats + 1):
        for name, step in steps.items():
            meet(ranks, "the measurement of steps")
            watch = Stopwatch(ranks.device)
            watch.lap("start")
            step(watch, None)
            if repeat > 0:
                seconds = watch.seconds()
                laps[name].append(np.append(_by_phase(seconds), sum(seconds.values())))
            done += 1
            progress(done, total)

    state = [t for values in optimizer.state.values() for t in values.values()]
    stays = [*module.parameters(), *(t for t in state if isinstance(t, Tensor))]
    measured, what = {}, "the collection of measurements"
    for name, step in steps.items():
        all_laps = gather_arrays(ranks, np.stack(laps[name]), what)
        slowest_s = all_laps[:, :, -1].max(axis=0)
        quartiles = np.percentile(slowest_s, [25, 75])
        counted = SentBytes(ranks.num_ranks)
        flops = count_flops(partial(step, None, counted))
        all_held = [*stays, *held[name]]
        peak = peak_memory_bytes(partial(step, None, None), all_held, ranks.device)
        sent = counted.total() + counted.all_reduce
        facts = gather_arrays(ranks, np.array([flops, peak, *sent], dtype=float), what)
        measured[name] = RankStepMeasurement(
            step_s=float(np.median(slowest_s)),
            step_spread_s=float(quartiles[1] - quartiles[0]),
            phase_s=np.median(all_laps[:, :, :-1], axis=1).T,
            flops=int(facts[:, 0].sum()),
            wasted_flops=0,
            pair_bytes=facts[:, 2:],
            peak_memory_bytes=facts[:, 1],
            num_repeats=num_repeats,
        )
    return measured


def _by_phase(seconds: Mapping[str, float]) -> np.ndarray:
    """Seconds of each of `PHASES`; forward and backward together."""
    return np.array([sum(s for name, s in seconds.items() if name.endswith(p)) for p in PHASES])


def _random_batches(model: RankModel, slices: Mapping[str, RankSlices]) -> dict[str, RankBatch]:
    """Of a mini-batch drawn alike on every rank, what a rank has of it under each schedule."""
    generator = torch.Generator().manual_seed(0)
    family, num_samples = model.family, int(model.workload.samples.sum())
    inputs = family.random_inputs(model.module, num_samples, generator)
    labels = family.random_labels(model.module, inputs, generator)
    key_mask, device = family.key_mask(model.module, inputs), model.ranks.device
    if key_mask is not None:
        key_mask = key_mask.to(device)
    made: dict[tuple[bytes, int], RankBatch] = {}
    for one in slices.values():
        if _what_is_taken(one) not in made:
            own = torch.from_numpy(one.owned_samples)
            counted = family.num_counted(labels[: one.num_samples]).sum().to(device)
            made[_what_is_taken(one)] = RankBatch(
                inputs[own].to(device), labels[own].to(device), counted, key_mask
            )
    return {name: made[_what_is_taken(one)] for name, one in slices.items()}


def _what_is_taken(slices: RankSlices) -> tuple[bytes, int]:
    """What batches are told apart by: the rank's samples, and how many run on all ranks."""
    return slices.owned_samples.tobytes(), slices.num_samples
