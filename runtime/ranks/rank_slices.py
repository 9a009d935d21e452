"""A schedule as one rank sees it: its lane groups, and what it exchanges, in every block.

In a wave a rank counts tokens in two ways. Its stream has the tokens of the micro-batches that it
owns, in order. Its lanes of a block have the same tokens, and after them those that it receives,
by source rank and micro-batch. So a dispatch arrives where the lanes read, partial sums leave from
where they wrote, and a rank that receives nothing works on its stream in place.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from d2ft_sched.cluster.device import Device
from d2ft_sched.costs.exchange import DIRECTIONS, plan_exchange
from d2ft_sched.costs.gradient_sums import GradientSum, gradient_sums, trains_in_step
from d2ft_sched.costs.input_gradients import executed_schedule, needs_input_gradient
from d2ft_sched.costs.lanes.lane_groups import lane_groups
from d2ft_sched.costs.replica_memory import part_devices
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.replica import Replica, microbatch_owners
from d2ft_sched.schedule.replica_part import ReplicaPart, replica_parts
from d2ft_sched.schedule.schedule import check_schedule
from d2ft_sched.schedule.waves import running_microbatches
from runtime.lanes.held_units import HeldUnits, held_units, units_of
from runtime.lanes.slice_schedule import block_lanes
from runtime.lanes.slices import BlockLanes
from runtime.lanes.units import Run, joined_runs


@dataclass(frozen=True)
class Route:
    """One dispatch of one rank; the combine after it takes the same ways back.

    Attributes:
        sent: tokens to every rank.
        received: tokens from every rank.
        send_runs: runs of stream tokens that are sent, in the order of `sent`.
        receive_runs: runs of lane tokens that receive, in the order of `received`.
        is_idle: whether nothing moves between any two ranks.
    """

    sent: tuple[int, ...]
    received: tuple[int, ...]
    send_runs: tuple[Run, ...]
    receive_runs: tuple[Run, ...]
    is_idle: bool

    @property
    def num_sent(self) -> int:
        return sum(self.sent)

    @property
    def num_received(self) -> int:
        return sum(self.received)


@dataclass(frozen=True)
class RankBlock:
    """One block in one wave.

    Attributes:
        lanes: lane groups of the subnets held, their tokens counted as the lanes count them.
        lane_tokens: runs of tokens of the mini-batch that the lanes have, in order.
        routes: of the dispatch forward and backward.
        runs: whether any rank runs the block on a micro-batch owned.
        runs_backward: whether any rank runs it backward on one.
        is_reached: of attention and MLP, whether the gradient of their output on one is needed.
        hands_on: whether that of their lanes' input is, and is not zero.
    """

    lanes: BlockLanes
    lane_tokens: tuple[Run, ...]
    routes: tuple[Route, Route]
    runs: bool
    runs_backward: bool
    is_reached: tuple[bool, bool]
    hands_on: tuple[bool, bool]


@dataclass(frozen=True)
class RankWave:
    """Micro-batches that pass through the model together.

    Attributes:
        samples: of the wave, among those that the rank owns.
        num_samples: owned.
        blocks: of the model.
    """

    samples: slice
    num_samples: int
    blocks: tuple[RankBlock, ...]


@dataclass(frozen=True)
class RankSlices:
    """A schedule, ready to run on one rank.

    Attributes:
        num_samples: samples of the mini-batch that run, whichever replica they are dealt to.
        owned_samples: which of the mini-batch's they are that the rank owns, int64, sorted.
        waves: passes of its replica, one after another or interleaved; none on a rank of no
            replica.
        sums: of gradients over ranks, in the order in which backward makes them.
        trained: heads and hidden units of every block that the rank holds and that any micro-batch
            of any replica trains.
    """

    num_samples: int
    owned_samples: np.ndarray
    waves: tuple[RankWave, ...]
    sums: tuple[GradientSum, ...]
    trained: tuple[HeldUnits, ...]


def slice_rank_schedule(
    workload: Workload,
    replicas: Sequence[Replica],
    schedule: np.ndarray,
    rank: int,
    devices: Sequence[Device | None] | None = None,
) -> RankSlices:
    """Cut a replica's micro-batches into waves, each block of a wave into lane groups and routes.

    Args:
        workload: the model, its subnets and the micro-batches of all replicas.
        replicas: whose devices are the ranks.
        schedule: int ``[num_subnets, num_microbatches]``.
        rank: 0 to num_devices - 1.
        devices: what things cost on every rank, as for `slice_schedule`.

    Raises:
        InputError: the schedule is not one of these subnets and micro-batches.
    """
    schedule = check_schedule(schedule, workload.num_subnets, workload.num_microbatches)
    sums = gradient_sums(workload, replicas, schedule)
    runs = np.zeros(workload.num_microbatches, dtype=bool)
    runs[running_microbatches(schedule)] = True
    waves: tuple[RankWave, ...] = ()
    for replica, part in zip(replicas, replica_parts(workload, replicas, schedule), strict=True):
        if rank in replica.devices and runs[part.microbatches].any():
            first_sample = int(workload.samples[: part.microbatches.start].sum())
            waves = rank_waves(part, rank, first_sample, part_devices(part, devices))
    is_owned = runs & (np.array(microbatch_owners(replicas)) == rank)
    owned = np.flatnonzero(np.repeat(is_owned, workload.samples))
    is_held = np.zeros(workload.num_subnets, dtype=bool)
    for replica in replicas:
        is_held |= np.array(replica.placement.subnet_device) == rank
    trains = trains_in_step(schedule) & is_held
    trained = tuple(units_of(workload, trains, b) for b in range(workload.shape.num_blocks))
    return RankSlices(int(workload.samples[runs].sum()), owned, waves, sums, trained)


def rank_waves(
    part: ReplicaPart,
    rank: int,
    first_sample: int = 0,
    devices: Sequence[Device | None] | None = None,
) -> tuple[RankWave, ...]:
    """What a rank of a replica computes and exchanges in each of its waves.

    Args:
        part: of the replica.
        rank: one that may hold nothing and own nothing of it.
        first_sample: of the replica's in the mini-batch.
        devices: as `lane_groups` takes them.
    """
    workload, waves = part.workload, list[RankWave]()
    units = [
        held_units(workload, part.placement, rank, block)
        for block in range(workload.shape.num_blocks)
    ]
    start = 0
    for microbatches in part.waves:
        wave = _rank_wave(part, rank, microbatches, units, start, first_sample, devices)
        start = wave.samples.stop
        waves.append(wave)
    return tuple(waves)


def _rank_wave(
    part: ReplicaPart,
    rank: int,
    microbatches: np.ndarray,
    units: Sequence[HeldUnits],
    start: int,
    first_sample: int,
    devices: Sequence[Device | None] | None,
) -> RankWave:
    workload, placement, schedule = part.workload, part.placement, part.schedule
    owner = np.array(placement.owner)
    in_wave = np.isin(np.arange(workload.num_microbatches), microbatches)
    wave_schedule = np.where(in_wave[None, :], schedule, Operation.SHORTCUT)
    active = plan_exchange(workload, placement, wave_schedule).active
    own = microbatches[owner[microbatches] == rank]
    foreign = microbatches[owner[microbatches] != rank]
    foreign = foreign[np.argsort(owner[foreign], kind="stable")]
    held = np.flatnonzero(np.array(placement.subnet_device) == rank)
    executed = executed_schedule(workload, schedule)
    made = lane_groups(workload, placement, executed, microbatches, devices, held)
    needs_dx = needs_input_gradient(workload, schedule)
    num_own = int(workload.samples[own].sum())
    first_of_all = first_sample + np.cumsum(workload.samples) - workload.samples

    blocks = []
    for block, block_units in enumerate(units):
        received = foreign[active[0, block, rank, foreign]]
        pass_order = np.concatenate([own, received])
        counts = workload.samples[pass_order]
        first_of_pass = np.full(workload.num_microbatches, -1)
        first_of_pass[pass_order] = np.cumsum(counts) - counts
        routes = [
            _route(workload, owner, active[d, block], rank, own, foreign, first_of_pass)
            for d in range(len(DIRECTIONS))
        ]
        groups = made.at(rank, block)
        is_backward = active[1, block].any(axis=0)
        reached = (needs_dx[block] | is_backward)[:, own].any(axis=1)
        handed_on = (needs_dx[block] & is_backward)[:, own].any(axis=1)
        blocks.append(
            RankBlock(
                lanes=block_lanes(
                    workload, groups, first_of_pass, int(counts.sum()), block_units, needs_dx[block]
                ).recomputing(rank in placement.recomputing),
                lane_tokens=_token_runs(workload, first_of_all, pass_order),
                routes=(routes[0], routes[1]),
                runs=bool(active[0, block][:, own].any()),
                runs_backward=bool(is_backward[own].any()),
                is_reached=(bool(reached[0]), bool(reached[1])),
                hands_on=(bool(handed_on[0]), bool(handed_on[1])),
            )
        )
    return RankWave(slice(start, start + num_own), num_own, tuple(blocks))


def _route(
    workload: Workload,
    owner: np.ndarray,
    active: np.ndarray,
    rank: int,
    own: np.ndarray,
    foreign: np.ndarray,
    first_sample: np.ndarray,
) -> Route:
    """`active` is bool ``[num_ranks, num_microbatches]``."""
    num_ranks = len(active)
    away = np.arange(num_ranks)[:, None] != owner[None, :]
    target, position = np.nonzero(active[:, own] & away[:, own])
    sent = own[position]
    received = foreign[active[rank, foreign]]
    return Route(
        sent=_tokens_by_rank(workload, target, sent, num_ranks),
        received=_tokens_by_rank(workload, owner[received], received, num_ranks),
        send_runs=_token_runs(workload, first_sample, sent),
        receive_runs=_token_runs(workload, first_sample, received),
        is_idle=not (active & away).any(),
    )


def _tokens_by_rank(
    workload: Workload, ranks: np.ndarray, microbatches: np.ndarray, num_ranks: int
) -> tuple[int, ...]:
    tokens = np.bincount(ranks, weights=workload.tokens[microbatches], minlength=num_ranks)
    return tuple(int(n) for n in tokens)


def _token_runs(
    workload: Workload, first_sample: np.ndarray, microbatches: np.ndarray
) -> tuple[Run, ...]:
    """Runs of tokens of the micro-batches in their order; those that follow one another joined."""
    first_token = first_sample * workload.shape.num_tokens
    return joined_runs(first_token, workload.tokens, microbatches)
