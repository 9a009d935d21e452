"""What the ranks of `test_moved_samples.py` do: train while one is slower, and samples move."""

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from d2ft_sched.cluster.cluster import Cluster, Link
from d2ft_sched.cluster.device import Device
from d2ft_sched.errors import InputError
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.workload import Workload
from d2ft_sched.plan.replanning import DevicePace, FirstTimes, ReplanState
from d2ft_sched.plan.sample_deal import SampleDeal
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.replica import Replica
from rank_cases import small_model
from rank_processes import join
from replan_jobs import FLOPS_PER_S, FlopClock
from runtime.checkpoint.checkpoint import load_checkpoint, save_checkpoint
from runtime.checkpoint.facts import TrainingState
from runtime.data.dataset import Dataset, Split
from runtime.data.minibatches import Minibatches
from runtime.measure.flop_counting import FlopCounter
from runtime.models.build import shape_of
from runtime.ranks.job import Ranks, close_ranks
from runtime.ranks.rank_model import scatter_rank_model
from runtime.training.events import Replanned, Stepped
from runtime.training.finetune_settings import FineTuneSettings
from runtime.training.loop import train, training_minibatches
from runtime.training.rank_part import RankPart
from runtime.training.replan_actions import MovedSamples
from runtime.training.replanner import Replanner
from runtime.training.schedule_source import OneSchedule, RedrawnSchedules
from runtime.training.whole_model import WholeModel
from sim.ways.sample_dealer import SampleDealer

NUM_EPOCHS, STEPS_PER_EPOCH, NUM_SAMPLES = 4, 6, 12
SLOW_STEPS = range(6, 14)
"""Steps that are done when the slow rank is so in the next."""
SAVED = 12
"""Step after which the state is kept, to go on from."""


@dataclass(frozen=True)
class Moving:
    """A deal of twelve samples that changes while one of three ranks is slow."""

    deal: SampleDeal
    is_redrawn: bool
    slow: int
    slowdown: float


def model_of_pictures():
    """In float64 on pictures, which come in float32."""
    model = small_model()
    model.patch_embed.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
    return model


def deal_of(
    model, groups: Sequence[tuple[int, ...]], samples: Sequence[Sequence[int]], *, resting: bool
) -> SampleDeal:
    """Subnets and micro-batches of a group in turns; with `resting` one block of three trains, and
    the first micro-batch of each replica is left out."""
    shape = shape_of(model)
    sizes = tuple(n for own in samples for n in own)
    partition = partition_by_heads(shape, 1)
    workload = Workload(shape, partition, sizes, element_bytes=8, parameter_bytes=8)
    replicas = tuple(
        Replica(
            Placement(
                3,
                tuple(group[s % len(group)] for s in range(workload.num_subnets)),
                tuple(group[i % len(group)] for i in range(len(own))),
            )
        )
        for group, own in zip(groups, samples, strict=True)
    )
    schedule = np.full((workload.num_subnets, len(sizes)), Operation.FULL, dtype=np.int8)
    if resting:
        schedule[partition.block != 1] = Operation.REST
        schedule[:, np.cumsum([0, *map(len, samples[:-1])])] = Operation.SHORTCUT
    return SampleDeal(workload, replicas, schedule)


def cases(model) -> dict[str, Moving]:
    dense = deal_of(model, [(0,), (1,), (2,)], [[4], [4], [4]], resting=False)
    hybrid = deal_of(model, [(0, 2), (1,)], [[2, 3, 2], [1, 2, 2]], resting=True)
    return {
        "dense": Moving(dense, False, slow=1, slowdown=2.5),
        "hybrid": Moving(hybrid, True, slow=1, slowdown=3.0),
    }


def equal_cluster() -> Cluster:
    names = [f"d{i}" for i in range(3)]
    return Cluster(
        "equal",
        tuple(Device(name, FLOPS_PER_S, 2**33, 1e15) for name in names),
        tuple(Link(name, "switch", 1e9, 0.0) for name in names),
        ("switch",),
    )


def noise() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    number = NUM_SAMPLES * STEPS_PER_EPOCH
    images = torch.randint(256, (number, 3, 28, 28), generator=generator).to(torch.uint8)
    split = Split(images, torch.randint(5, (number,), generator=generator))
    return Dataset("noise", split, Split(images[:4], split.labels[:4]), tuple("abcde"))


SETTINGS = FineTuneSettings(NUM_EPOCHS, linear_probe=False, lr=3e-3)


class Recorder:
    """A trainer that notes what it is asked for, to be asked of another."""

    def __init__(self, trainer) -> None:
        self._trainer = trainer
        self.asked: list[tuple[str, tuple[object, ...]]] = []

    def __getattr__(self, name: str):
        made = getattr(self._trainer, name)
        if name not in ("begin", "take", "step"):
            return made

        def note(*arguments: object) -> object:
            arguments = tuple(list(a) if name == "begin" else a for a in arguments)
            self.asked.append((name, arguments))
            return made(*arguments)

        return note

    def ask(self, other) -> list[float]:
        """The losses of `other` when it is asked for the same."""
        losses = []
        for name, arguments in self.asked:
            done = getattr(other, name)(*arguments)
            if name == "step":
                losses.append(done.loss)
        return losses


def move(rank: int, num_ranks: int, folder: Path) -> None:
    """Each rank writes what it saw of all cases."""
    ranks = join(rank, num_ranks, folder)
    of_cases = cases(model_of_pictures()).items()
    said: dict[str, object] = {name: _move(ranks, folder / name, one) for name, one in of_cases}
    said["of another mind"] = _of_another_mind(ranks)
    (folder / f"said-{rank}.json").write_text(json.dumps(said))
    close_ranks(ranks)


def _replanner(
    case: Moving, ranks: Ranks, every: int, state: ReplanState | None = None
) -> tuple[Replanner, OneSchedule | RedrawnSchedules]:
    cluster, deal = equal_cluster(), case.deal
    schedules: OneSchedule | RedrawnSchedules
    if case.is_redrawn:
        schedules = RedrawnSchedules(deal.schedule, deal.workload.partition.block, "drawn", 0)
    else:
        schedules = OneSchedule(deal.schedule, np.zeros(0))
    deal_at = SampleDealer(deal, cluster).at
    action = MovedSamples(deal, deal_at, schedules, cluster.devices, ranks.rank)
    names = [d.name for d in cluster.devices]
    return Replanner(action, ranks, names, every, state), schedules


def _state(step: int, replanner: Replanner) -> TrainingState:
    return TrainingState(
        step=step, num_steps=NUM_EPOCHS * STEPS_PER_EPOCH, steps_per_epoch=STEPS_PER_EPOCH,
        epoch=1, position=0, seed=0, settings={}, plan_sha256="", num_ranks=3, provenance={},
        replanning=replanner.state,
    )  # fmt: skip


def _move(ranks: Ranks, folder: Path, case: Moving) -> dict:
    model, deal, data = model_of_pictures(), case.deal, noise()
    minibatches = training_minibatches(data.train, deal.workload, SETTINGS.seed)
    own = deepcopy(model)
    part = scatter_rank_model(own, deal.workload, deal.replicas, ranks)
    replanner, schedules = _replanner(case, ranks, every=2)
    steps, changes = [], []
    with FlopCounter() as counter:
        clock = FlopClock(counter)
        trainer = Recorder(RankPart(part, data, minibatches, SETTINGS, clock, moves=True))
        for event in train(
            trainer,
            minibatches,
            deal.workload,
            schedules,
            SETTINGS,
            replanner=replanner,
            owner=deal.owner,
        ):
            if isinstance(event, Stepped):
                times = event.times
                steps.append({"loss": event.loss, "busy_s": times.lanes_s + times.rest_s,
                              "num_samples": event.num_samples, "flops": event.flops,
                              "samples": replanner.deal.samples})  # fmt: skip
                is_slow = ranks.rank == case.slow and event.step in SLOW_STEPS
                clock.slowdown = case.slowdown if is_slow else 1.0
                if event.step == SAVED:
                    state = _state(event.step, replanner)
                    saved = save_checkpoint(folder, state, trainer.save_state, None, ranks)
            if isinstance(event, Replanned):
                shares = [(s.devices, s.num_samples_before, s.num_samples) for s in event.shares]
                changes.append({"step": event.step, "reason": event.reason, "shares": shares})
    end = folder / "end.safetensors"
    trainer.save_model(end)
    said = {"steps": steps, "changes": changes, "pace": state.replanning.pace.slowdown}
    said["resumed"] = _go_on(ranks, saved, case, minibatches, data)
    if ranks.rank == 0:
        whole = WholeModel(model, data, deal.workload, SETTINGS, torch.device("cpu"))
        said["alone"] = trainer.ask(whole)
        got = load_file(end)
        said["most_apart"] = max(
            float((got[n] - p.detach()).abs().max()) for n, p in model.named_parameters()
        )
    return said


def _go_on(
    ranks: Ranks, saved: Path, case: Moving, minibatches: Minibatches, data: Dataset
) -> list[float]:
    """Losses of the steps after `SAVED`, without a look at times."""
    part = scatter_rank_model(model_of_pictures(), case.deal.workload, case.deal.replicas, ranks)
    trainer = RankPart(part, data, minibatches, SETTINGS, moves=True)
    trainer.load_state(saved)
    state = load_checkpoint(saved).replanning
    replanner, schedules = _replanner(case, ranks, every=1000, state=state)
    events = train(
        trainer, minibatches, case.deal.workload, schedules, SETTINGS, SAVED, replanner,
        owner=case.deal.owner,
    )  # fmt: skip
    return [event.loss for event in events if isinstance(event, Stepped)]


def _of_another_mind(ranks: Ranks) -> str:
    """What is said where one rank comes to another deal."""
    first = FirstTimes((1.0,) * 3, (0.0,) * 3, 0.0, 1.0)
    pace = DevicePace((3.0 if ranks.rank == 2 else 1.0, 1.0, 1.0), (0.0,) * 3)
    case, state = cases(model_of_pictures())["dense"], ReplanState(first, pace, None)
    replanner, _ = _replanner(case, ranks, every=2, state=state)
    try:
        replanner.check_agreement("at the beginning")
    except InputError as error:
        return str(error)
    return ""
