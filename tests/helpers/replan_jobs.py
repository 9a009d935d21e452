"""What the ranks of `test_replanner.py` do: train while the clock of one of them runs faster."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analysis.finetuning import finetune_job
from d2ft_sched.cluster.cluster import Cluster, Link
from d2ft_sched.cluster.device import Device
from d2ft_sched.deployment import deploy
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.workload import Workload
from d2ft_sched.plan.planning import make_plan
from d2ft_sched.plan.replanning import hold_levels, values_of_schedule
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.scores import uniform_scores
from d2ft_sched.schedule.placement import place_round_robin
from d2ft_sched.schedule.schedule import schedule_to_rows
from rank_cases import small_model
from rank_processes import free_port, join, run_command, start_ranks
from runtime.data.dataset import Dataset, Split
from runtime.measure.flop_counting import FlopCounter
from runtime.models.build import shape_of
from runtime.ranks.job import close_ranks
from runtime.ranks.rank_model import scatter_rank_model
from runtime.training.events import Replanned, Stepped, TrainedStep
from runtime.training.finetune_settings import FineTuneSettings
from runtime.training.loop import train, training_minibatches
from runtime.training.rank_part import RankPart
from runtime.training.replan_actions import MovedOperations
from runtime.training.replanner import Replanner
from runtime.training.schedule_source import OneSchedule

FLOPS_PER_S = 1e9
NUM_EPOCHS, STEPS_PER_EPOCH = 4, 8


class FlopClock:
    """Tells seconds by the FLOPs that this process has executed, at a pace that may change."""

    def __init__(self, counter) -> None:
        self._counter, self._flops, self._now = counter, 0, 0.0
        self.slowdown = 1.0

    def __call__(self) -> float:
        flops = self._counter.flops
        self._now += (flops - self._flops) / FLOPS_PER_S * self.slowdown
        self._flops = flops
        return self._now


def slowed_command(
    num_ranks: int, folder: Path, *arguments: object, slow: int, slowdown: float, after: int
) -> list[int | None]:
    """Exit codes of the command line on ranks whose steps are timed by a `FlopClock`, which runs
    faster on rank `slow` after so many steps."""
    given = {"port": free_port(), "arguments": [*map(str, arguments)]}
    slowed = {"slow": slow, "slowdown": slowdown, "after": after}
    processes = start_ranks(_slowed, num_ranks, folder, **given, **slowed)
    for process in processes:
        process.join(timeout=200)
    return [process.exitcode for process in processes]


def _slowed(
    rank: int, num_ranks: int, folder: Path, *, slow: int, slowdown: float, after: int, **given: Any
) -> None:
    with FlopCounter() as counter:
        clock = FlopClock(counter)

        class SlowPart(RankPart):
            num_steps = 0

            def __init__(self, *arguments: Any, **options: Any) -> None:
                super().__init__(*arguments, clock=clock, **options)

            def step(self, *arguments: Any) -> TrainedStep:
                clock.slowdown = slowdown if rank == slow and self.num_steps >= after else 1.0
                self.num_steps += 1
                return super().step(*arguments)

        finetune_job.RankPart = SlowPart
        run_command(rank, num_ranks, folder, **given)


def small_plan(num_ranks: int):
    """A plan at 0.7 of the dense compute on equal devices, and its model."""
    model = small_model().float()
    workload = Workload(shape_of(model), partition_by_heads(shape_of(model), 1), (1,) * 8)
    names = [f"d{i}" for i in range(num_ranks)]
    cluster = Cluster(
        "equal",
        tuple(Device(name, FLOPS_PER_S, 2**33, 1e15) for name in names),
        tuple(Link(name, "switch", 1e9, 0.0) for name in names),
        ("switch",),
    )
    placement = place_round_robin(workload.partition, workload.num_microbatches, num_ranks)
    scores = uniform_scores(workload.num_subnets, workload.num_microbatches)
    return model, make_plan(deploy(workload, cluster, placement), scores, Budget(0.7))


def replan(rank: int, num_ranks: int, folder: Path, slow: int, slowdown: float) -> None:
    """Rank `slow` is slower in the second and third epoch; each rank writes what it saw."""
    ranks = join(rank, num_ranks, folder)
    model, plan = small_plan(num_ranks)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (64, 3, 28, 28), generator=generator).to(torch.uint8)
    split = Split(images, torch.randint(5, (64,), generator=generator))
    data = Dataset("noise", split, Split(images[:4], split.labels[:4]), tuple("abcde"))
    settings = FineTuneSettings(NUM_EPOCHS, linear_probe=False)
    minibatches = training_minibatches(split, plan.workload, settings.seed)
    part = scatter_rank_model(model, plan.workload, plan.replicas, ranks)
    levels = hold_levels(plan, plan.budget, plan.schedule)
    names = [d.name for d in plan.cluster.devices]

    def new_schedules() -> OneSchedule:
        return OneSchedule(plan.schedule, values_of_schedule(plan.schedule, 0))

    schedules = new_schedules()
    action = MovedOperations(levels, schedules, rank)
    replanner = Replanner(action, ranks, names, every=2)
    steps, changes = [], []
    with FlopCounter() as counter:
        clock = FlopClock(counter)
        trainer = RankPart(part, data, minibatches, settings, clock)
        for event in train(
            trainer, minibatches, plan.workload, schedules, settings, replanner=replanner
        ):
            if isinstance(event, Stepped):
                steps.append(
                    {
                        "step": event.step,
                        "busy_s": event.times.lanes_s + event.times.rest_s,
                        "rows": replanner.state.schedule_rows,
                    }
                )
                is_slow = rank == slow and 8 <= event.step < 24
                clock.slowdown = slowdown if is_slow else 1.0
                if event.step == 20:
                    middle = replanner.state
            if isinstance(event, Replanned):
                changes.append(
                    {"step": event.step, "devices": [c.device for c in event.changes],
                     "reason": event.reason}
                )  # fmt: skip
    anew = MovedOperations(levels, new_schedules(), rank)
    again = Replanner(anew, ranks, names, every=2, state=middle)
    said = {
        "planned": schedule_to_rows(plan.schedule),
        "steps": steps,
        "changes": changes,
        "middle": middle.schedule_rows,
        "again": again.state.schedule_rows,
        "same_state": again.state == middle,
        "held": np.flatnonzero(levels.device == slow).tolist(),
    }
    (folder / f"said-{rank}.json").write_text(json.dumps(said))
    close_ranks(ranks)
