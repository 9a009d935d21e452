"""Which schedules a fine-tuning run follows, and who changes them."""

import itertools
from dataclasses import dataclass, replace

import numpy as np

from analysis.console.output import outside_calibration
from analysis.finetuning.finetune_request import FineTuneRequest
from analysis.names.schedule_names import ScheduleName
from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.deployment import deploy
from d2ft_sched.errors import InputError
from d2ft_sched.files.counted import counted
from d2ft_sched.plan.minibatch_schedules import solve_minibatches
from d2ft_sched.plan.redrawn import chooses, is_redrawable
from d2ft_sched.plan.replanning import (
    HeldLevels,
    ReplanState,
    as_planned,
    hold_levels,
    values_of_schedule,
)
from d2ft_sched.plan.sample_deal import SampleDeal
from d2ft_sched.plan.solved_plan import Plan
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.formulate import formulate
from d2ft_sched.problem.scores import Scores, by_block, load_scores, uniform_scores
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.schedule import schedule_from_rows
from runtime.checkpoint.facts import TrainingState
from runtime.ranks.job import Ranks
from runtime.ranks.rank_devices import on_ranks, rank_devices
from runtime.torch_device import memory_bytes
from runtime.training.replan_actions import MovedOperations, MovedSamples
from runtime.training.replanner import Replanner
from runtime.training.schedule_source import (
    OneSchedule,
    PacedSchedules,
    RedrawnSchedules,
    Schedules,
    ScoreSeries,
    SolvedSchedules,
    redrawn_schedules,
)
from sim.ways.sample_dealer import SampleDealer

HOLDS_ALL = (
    "re-planning moves samples between replicas: every rank that owns some holds, or reads, any of "
    "the training samples"
)

INSTEAD = dict.fromkeys(("mip", "scip", "highs", "cp_sat"), "dp")
"""Solvers that may end with another schedule on another rank, and the one that stands in."""


@dataclass(frozen=True)
class Scheduling:
    """Schedules, who changes them if anybody does, and what a user should know, a line each."""

    schedules: Schedules
    replanner: Replanner | None
    notes: tuple[str, ...]


def plan_schedules(
    request: FineTuneRequest,
    ranks: Ranks,
    resumed: TrainingState | None,
    plan_sha256: str,
    scores: ScoreSeries,
) -> Scheduling:
    """The plan's schedule, or all FULL, or one for each mini-batch or step; re-planned or not.

    Args:
        request: what was asked for.
        ranks: that train together.
        resumed: where a training that goes on stood.
        plan_sha256: of the plan of `request`.
        scores: of every step, where each is to have a schedule of its own within the plan's budget.

    Raises:
        InputError: the scores or the plan's solver cannot be used.
    """
    plan = request.plan
    schedule = _schedule(request)
    if len(plan.replicas) > 1 or _is_redrawn(request):
        return _of_given(request, ranks, resumed, plan_sha256)
    levels = None
    if request.replan_every is not None:
        with outside_calibration():
            levels = _levels(plan, schedule, ranks, dense=request.dense)
    schedules: PacedSchedules
    if request.schedule is ScheduleName.FIXED:
        schedules = _one_schedule(request, schedule)
    else:
        schedules = _solved_schedules(request, levels, scores)
    if levels is None or request.replan_every is None:
        return Scheduling(schedules, None, ())
    action = MovedOperations(levels, schedules, ranks.rank)
    names = [d.name for d in plan.cluster.devices] if ranks.num_ranks > 1 else ["this device"]
    state, notes = _state_to_go_on(resumed, plan_sha256, len(names), schedule.shape)
    replanner = Replanner(action, ranks, names, request.replan_every, state)
    return Scheduling(schedules, replanner, notes)


def _of_given(
    request: FineTuneRequest,
    ranks: Ranks,
    resumed: TrainingState | None,
    plan_sha256: str,
) -> Scheduling:
    """A schedule as it is, or others of its kind; re-planning moves samples between replicas."""
    plan, schedule = request.plan, _schedule(request)
    schedules = (
        _redrawn_schedules(request) if _is_redrawn(request) else _one_schedule(request, schedule)
    )
    if request.replan_every is None:
        return Scheduling(schedules, None, ())
    of_ranks = rank_devices(plan, ranks.num_ranks)
    dealer = _dealer(request)

    def on_ranks_of(deal: SampleDeal) -> SampleDeal:
        return replace(deal, replicas=on_ranks(deal.replicas, of_ranks))

    def deal_at(slowness: tuple[float, ...]) -> SampleDeal:
        of_devices = np.ones(len(plan.cluster.devices))
        of_devices[list(of_ranks)] = slowness
        with outside_calibration():
            return on_ranks_of(dealer.at(of_devices.tolist()))

    devices = [plan.cluster.devices[device] for device in of_ranks]
    action = MovedSamples(on_ranks_of(dealer.planned), deal_at, schedules, devices, ranks.rank)
    names = [device.name for device in devices]
    state, notes = _state_to_go_on(resumed, plan_sha256, len(names), schedule.shape)
    replanner = Replanner(action, ranks, names, request.replan_every, state)
    return Scheduling(schedules, replanner, (HOLDS_ALL, *notes))


def _schedule(request: FineTuneRequest) -> np.ndarray:
    """The plan's own, or all FULL."""
    schedule = request.plan.schedule
    return np.full_like(schedule, Operation.FULL) if request.dense else schedule


def _dealer(request: FineTuneRequest) -> SampleDealer:
    plan = request.plan
    return SampleDealer(SampleDeal(plan.workload, plan.replicas, _schedule(request)), plan.cluster)


@dataclass(frozen=True)
class DefaultSchedule:
    """What a training follows unless it is told, and what to say of it, in one line or none."""

    name: ScheduleName
    note: str = ""


def default_schedule(plan: Plan, *, replans: bool = False) -> DefaultSchedule:
    """What kept accuracy best in our studies of this kind of plan (docs/results).

    Where something rests or whole micro-batches are left out, others of the kind are drawn anew in
    each step; where operations were chosen by scores, which samples all subnets leave out, within
    the plan's budget. A plan that leaves nothing to draw keeps its own schedule, and so does one by
    scores that is re-planned, for that moves its own operations.
    """
    shown = f"--schedule {ScheduleName.FIXED.value} keeps the plan's own"
    if chooses(plan.schedule):
        if not is_redrawable(plan.schedule):
            return DefaultSchedule(ScheduleName.FIXED)
        what = "what rests, and which samples are left out, is chosen anew in each step"
        return DefaultSchedule(ScheduleName.PER_STEP, f"{what}; {shown}")
    if replans or (plan.schedule == Operation.FULL).all() or len(plan.replicas) > 1:
        return DefaultSchedule(ScheduleName.FIXED)
    return DefaultSchedule(
        ScheduleName.PER_STEP,
        f"all subnets leave out the same samples, drawn anew in each step within the plan's "
        f"budget: that kept accuracy best in our studies; {shown}, --schedule "
        f"{ScheduleName.PER_MINIBATCH.value} follows the paper's rule, scores from before training",
    )


def _is_redrawn(request: FineTuneRequest) -> bool:
    return request.schedule is ScheduleName.PER_STEP and chooses(request.plan.schedule)


def _redrawn_schedules(request: FineTuneRequest) -> RedrawnSchedules:
    schedules = redrawn_schedules(request.plan, request.settings.seed)
    if schedules is None:
        raise InputError(
            "--schedule per-step draws what rests and which micro-batches are left out; this plan "
            "has subnets that do not the same with all that runs: take --schedule fixed"
        )
    return schedules


def moves_samples(request: FineTuneRequest) -> bool:
    """Whether samples may move between replicas while it trains."""
    return request.replan_every is not None and len(request.plan.replicas) > 1


def check_replicas(request: FineTuneRequest, ranks: Ranks) -> None:
    """Refuse what needs a plan of one replica for one of several, and the other way round; and
    re-planning without the ranks that it looks at.

    Raises:
        InputError: naming the option.
    """
    plan, replans = request.plan, request.replan_every is not None
    if _is_redrawn(request):
        if replans and len(plan.replicas) == 1:
            raise InputError(
                "--replan-every moves operations by scores; what rests, or is left out whole, is "
                "drawn, and one replica has no other to give samples to: leave it out"
            )
    elif request.schedule is not ScheduleName.FIXED and len(plan.replicas) > 1:
        raise InputError(
            f"--schedule {request.schedule.value} needs a plan of one replica, and this one has "
            f"{len(plan.replicas)}: leave it out"
        )
    num_devices = len(plan.cluster.devices)
    if not replans:
        return
    if len(plan.replicas) > 1:
        if ranks.num_ranks == 1:
            raise InputError(
                f"--replan-every moves samples between the "
                f"{counted(len(plan.replicas), 'replica')} of this "
                f"plan, on ranks of torchrun; alone it has nothing to move: leave it out"
            )
        _dealer(request)
    elif ranks.num_ranks not in (1, num_devices):
        raise InputError(
            f"--replan-every needs a rank for each of the {counted(num_devices, 'device')} of "
            f"the plan's cluster, or one; this job has {counted(ranks.num_ranks, 'rank')}"
        )


def _solver(request: FineTuneRequest) -> str:
    return INSTEAD.get(request.plan.solver.name, request.plan.solver.name)


def _one_schedule(request: FineTuneRequest, schedule: np.ndarray) -> OneSchedule:
    if request.scores is None:
        value = values_of_schedule(schedule, request.settings.seed)
    else:
        value = load_scores(request.scores, *schedule.shape).values()
    return OneSchedule(schedule, value, _solver(request), request.settings.seed)


def _solved_schedules(
    request: FineTuneRequest, levels: HeldLevels | None, scores: ScoreSeries
) -> SolvedSchedules:
    plan, solver = request.plan, _solver(request)
    any_scores = uniform_scores(*plan.schedule.shape)
    if levels is not None:
        formulation = levels.formulation_at(as_planned(levels.num_devices))
    else:
        with outside_calibration():
            formulation = formulate(plan, any_scores, plan.budget)
    solve_minibatches(formulation, [any_scores.values()], solver, seed=request.settings.seed)
    block = plan.workload.partition.block
    by_blocks = request.schedule is ScheduleName.RUNNING
    return SolvedSchedules(
        formulation,
        scores,
        solver,
        request.settings.seed,
        value_of=(lambda one: by_block(one, block).values()) if by_blocks else Scores.values,
    )


def _levels(plan: Plan, schedule: np.ndarray, ranks: Ranks, *, dense: bool) -> HeldLevels:
    """What the schedule spends where it runs: on the plan's devices, or all on this one."""
    budget = plan.budget
    if dense:
        budget = replace(budget, communication=1.0)
    if ranks.num_ranks > 1 or len(plan.cluster.devices) == 1:
        return hold_levels(plan, budget, schedule)
    here = replace(plan.cluster.devices[0], memory_bytes=memory_bytes(ranks.device))
    limits = Budget(per_block=budget.per_block, coverage=budget.coverage)
    alone = deploy(plan.workload, Cluster(here.name, (here,)), num_waves=plan.num_waves)
    return hold_levels(alone, limits, schedule)


def _state_to_go_on(
    resumed: TrainingState | None, plan_sha256: str, num_devices: int, size: tuple[int, ...]
) -> tuple[ReplanState | None, tuple[str, ...]]:
    state = resumed.replanning if resumed else None
    if resumed is None or state is None:
        return None, ()
    if len(state.pace.slowdown) != num_devices:
        return None, ("re-planning begins anew: the checkpoint is of another number of devices",)
    if resumed.plan_sha256 != plan_sha256:
        return None, ("re-planning begins anew: the checkpoint is of another plan",)
    _check_state(state, num_devices, size)
    return state, ()


def _check_state(state: ReplanState, num_devices: int, size: tuple[int, ...]) -> None:
    first, of_devices = state.first, [state.pace.slowdown, state.pace.later_s]
    of_step: tuple[float, ...] = ()
    if first is not None:
        of_devices += [first.ratio, first.rest_s]
        of_step = (first.exchange_s, first.step_s)
    if any(len(times) != num_devices for times in of_devices) or not (
        np.isfinite([*itertools.chain(*of_devices), *of_step]).all()
    ):
        raise InputError(
            "the checkpoint's re-planning is damaged: it must have a finite time for each of "
            f"{counted(num_devices, 'device')}"
        )
    if state.schedule_rows is not None:
        found = schedule_from_rows(state.schedule_rows).shape
        if found != size:
            raise InputError(
                f"the checkpoint's re-planning is damaged: its schedule has shape {list(found)}; "
                f"the plan's has {list(size)}"
            )
