"""A plan on the best way in words that a person can act on."""

from collections.abc import Sequence
from pathlib import Path

from analysis.console.formatting import beside, quantity
from analysis.names.way_names import RestingName
from analysis.planning.plan_baselines import Baselines
from analysis.planning.way_request import REST, WAYS, PlannedOnWay
from d2ft_sched.files.counted import counted
from d2ft_sched.plan.redrawn import resting_units
from d2ft_sched.plan.solved_plan import Plan
from d2ft_sched.schedule.operations import trains_in_step
from sim.ways.way import Way, WayKind, kind_of

MOST_NAMED = 8
"""Replicas that a sentence names."""
WORTH = 0.01
"""Part of a step that a plan must save to be called shorter."""


def way_text(way: Way) -> str:
    """A way by kind and devices."""
    return _way_text(way.name, way.device_names)


def replicas_text(plan: Plan) -> str:
    """The way of a plan, likewise."""
    groups = tuple(replica.devices for replica in plan.replicas)
    names = [tuple(plan.cluster.devices[d].name for d in group) for group in groups]
    return _way_text(kind_of(groups), names)


def _way_text(kind: WayKind, device_names: Sequence[Sequence[str]]) -> str:
    names = [" + ".join(names) for names in device_names]
    if kind == WayKind.ONE_DEVICE:
        return f"{names[0]} alone"
    if kind == WayKind.CUT:
        return f"one model cut over {names[0]}"
    return f"{kind} on {_listed(names)}"


def is_shorter(step_s: float, other_s: float) -> bool:
    """Whether a step is shorter by more than rounding explains."""
    return step_s < (1 - WORTH) * other_s


def pays(planned: PlannedOnWay) -> bool:
    """Whether a plan is better than what needs no planner: the best dense way, fewer samples."""
    found = planned.found
    return found.method not in ("dense", "fewer samples") and is_shorter(
        found.step_s, found.best_dense.dense_step_s
    )


def is_whole(planned: PlannedOnWay) -> bool:
    """Whether nothing was to be left out."""
    budget = planned.found.plan.budget
    return not planned.target and budget.compute == budget.communication == 1


def verdict(planned: PlannedOnWay, change: str | None) -> str:
    """The first line: the plan beside the best dense way and fewer samples.

    Args:
        planned: the plan.
        change: what would make a plan pay where this one does not; None for nothing that was tried.
    """
    found = planned.found
    dense_s, fewer_s = found.best_dense.dense_step_s, found.fewer.dense_step_s
    if is_whole(planned):
        return (
            f"The best dense way is {way_text(found.best_dense)}: {quantity(dense_s, 's')} a step "
            f"(predicted). Nothing is faster without leaving something out, as --budget-compute "
            f"0.6 does"
        )
    run, fewer_run = sum(found.samples), sum(found.fewer.samples)
    text = (
        f"A step of the plan takes {quantity(found.step_s, 's')} (predicted), "
        f"{_beside_time(found.step_s, dense_s)} the best dense way ({quantity(dense_s, 's')})"
    )
    if pays(planned) and planned.target:
        beside = f"as short a dense step runs {fewer_run:,}"
        if not is_shorter(fewer_s, found.step_s) and fewer_run == 1:
            beside = "not one runs dense in so short a step"
        return f"{text}, and runs {counted(run, 'sample')} where {beside}"
    if pays(planned):
        runs = f", and runs {run:,} where they are {fewer_run:,}" if run > fewer_run else ""
        return (
            f"{text} and {_beside_time(found.step_s, fewer_s)} fewer samples of the "
            f"compute that it spends ({quantity(fewer_s, 's')}){runs}"
        )
    what = (
        "Nothing beats leaving samples out here"
        if is_shorter(found.step_s, dense_s)
        else "Nothing beats the best dense way here"
    )
    would = f"a plan would pay {change}" if change else "no change that was tried makes a plan pay"
    return (
        f"{what}: the plan is {counted(run, 'sample')} through everything, "
        f"{quantity(found.step_s, 's')} a step (predicted) where the best dense way takes "
        f"{quantity(dense_s, 's')}; {would}"
    )


def is_worth_planning(step_s: float, held: Baselines) -> bool:
    """Whether a plan's step is shorter than the best dense way and fewer samples of its compute."""
    others = (held.best_dense, held.fewer)
    return all(way is None or is_shorter(step_s, way.dense_step_s) for way in others)


def beside_dense(step_s: float, held: Baselines) -> str:
    """A plan's step beside the best dense way and fewer samples, of the same compute and in steps
    as short, in one line that begins with what beats it, if anything does."""
    text = f"step of the plan takes {quantity(step_s, 's')} (predicted)"
    if held.best_dense is None:
        return f"A {text}; no dense way fits the memory"
    dense, fewer, total = held.best_dense, held.fewer, held.search.steps.num_samples
    if not is_shorter(step_s, dense.dense_step_s):
        text = f"The plan does not beat the best dense way: a {text}"
    elif not is_worth_planning(step_s, held):
        text = f"The plan does not beat fewer samples of the compute that it spends: a {text}"
    else:
        text = f"A {text}"
    text += (
        f", {_beside_time(step_s, dense.dense_step_s)} the best dense way, "
        f"{way_text(dense)} ({quantity(dense.dense_step_s, 's')})"
    )
    if fewer is not None:
        text += (
            f", and {_beside_time(step_s, fewer.dense_step_s)} fewer samples of the "
            f"compute that it spends, {_of_all(fewer, total)}, {way_text(fewer)} "
            f"({quantity(fewer.dense_step_s, 's')})"
        )
    if held.as_short is None:
        return f"{text}; in steps as short not one sample runs dense"
    return f"{text}; in steps as short run {_of_all(held.as_short, total)} dense"


def _of_all(way: Way, total: int) -> str:
    run = sum(way.samples)
    return f"all {run:,}" if run == total else f"{run:,} of {total:,}"


def _beside_time(step_s: float, other_s: float) -> str:
    told = beside(step_s, other_s)
    if told.endswith("as much"):
        return f"{told.removesuffix('as much')}as long as"
    return f"{told} time than"


def sentence(planned: PlannedOnWay, file: Path) -> str:
    """The last line: which devices, how many samples each, the step, and the command that runs
    it."""
    found = planned.found
    plan = found.plan
    total, run = planned.search.steps.num_samples, sum(found.samples)
    of_all = (
        f"all {counted(run, 'sample')}"
        if run == total
        else f"{run:,} of {counted(total, 'sample')}"
    )
    names = [
        " + ".join(plan.cluster.devices[d].name for d in replica.devices)
        for replica in plan.replicas
    ]
    kind = kind_of(tuple(replica.devices for replica in plan.replicas))
    if kind == WayKind.ONE_DEVICE:
        who = f"{names[0]} alone with {of_all}"
    elif kind == WayKind.CUT:
        who = f"one model cut over {names[0]} with {of_all}"
    else:
        shares = [f"{name} ({n:,})" for name, n in zip(names, found.samples, strict=True)]
        who = f"{kind} with {of_all} on {_listed(shares)}"
    return (
        f"Run {who}{_resting_text(plan)}, a predicted step of {quantity(found.step_s, 's')}: "
        f"{command(plan, file)}"
    )


def command(plan: Plan, file: Path) -> str:
    """What runs a plan."""
    run = f"d2ft finetune {file}"
    ranks = len(plan.devices)
    return run if ranks == 1 else f"torchrun --no-python --nproc-per-node {ranks} {run}"


def chosen_by(plan: Plan) -> str:
    """What chose a plan's operations: a solver, with what it proves of them, or the search for what
    is fastest."""
    if plan.solver.name == WAYS:
        return "a search over ways"
    return f"the solver {plan.solver.name} ({plan.solver.status} for its scores)"


def adapters_text(planned: PlannedOnWay) -> str:
    """Whether adapters rest under a budget of bytes, and why; "" where there is none of these."""
    plan = planned.found.plan
    if plan.workload.lora is None or plan.budget.communication == 1:
        return ""
    if planned.found.method == REST:
        return (
            "Adapters rest, which costs them accuracy and saves little: no fewer samples keep the "
            "budget of bytes in as short a step"
        )
    return "No adapter rests, for that would cost accuracy and save little: fewer samples send less"


def _resting_text(plan: Plan) -> str:
    if plan.solver.method != REST:
        return ""
    how = "taken in turns" if plan.budget.resting == RestingName.TURNS else "drawn anew"
    return (
        f", {trained_text(plan)} training in each step ({how}), the others passing the gradient on"
    )


def trained_text(plan: Plan) -> str:
    """How many of what train in a step: "18 of 72 heads", "3 of 12 blocks"."""
    partition, trains = plan.workload.partition, trains_in_step(plan.schedule)
    unit = resting_units(plan.schedule, partition.block)
    number, trained = int(unit.max()) + 1, len(set(unit[trains].tolist()))
    parts = "head" if partition.heads.max() == 1 else "subnet"
    what = "block" if number == partition.num_blocks else parts
    return f"{trained} of {counted(number, what)}"


def _listed(names: Sequence[str]) -> str:
    if len(names) <= MOST_NAMED:
        return ", ".join(names)
    return f"{', '.join(names[: MOST_NAMED - 1])} and {len(names) - MOST_NAMED + 1} more"
