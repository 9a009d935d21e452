"""With what a plan would pay, where the one that is simulated does not."""

from analysis.planning.plan_baselines import Baselines
from analysis.planning.request import Request
from analysis.planning.way_request import is_on_way, plan_on_way
from analysis.planning.way_words import is_worth_planning, pays
from analysis.planning.what_would_pay import change_that_pays, is_quickly_searched
from d2ft_sched.errors import InputError
from d2ft_sched.plan.solved_plan import Plan
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.scores import uniform_scores
from d2ft_sched.schedule.operations import Operation
from sim.ways.search import WaySearch


def is_less_than_dense(plan: Plan) -> bool:
    """Whether a plan leaves anything out."""
    return bool((plan.schedule != Operation.FULL).any())


def change_where_needed(plan: Plan, step_s: float, held: Baselines, seed: int) -> str | None:
    """`change_for` a plan that leaves something out and yet does not beat what needs no planner;
    None for another."""
    if not is_less_than_dense(plan) or is_worth_planning(step_s, held):
        return None
    return change_for(plan, held.search, seed)


def with_change(text: str, plan: Plan, step_s: float, held: Baselines, change: str | None) -> str:
    """A verdict with the change from `change_where_needed`."""
    if change:
        return f"{text}; a plan would pay {change}"
    if held.best_dense and is_less_than_dense(plan) and not is_worth_planning(step_s, held):
        return f"{text}; no change that was tried makes a plan pay"
    return text


def change_for(plan: Plan, search: WaySearch, seed: int) -> str | None:
    """The first change with which a plan of the same budget or step time beats the best dense way
    and fewer samples of its compute, in words that follow "a plan would pay"; None for none.

    Where the plan was placed by name, another that is made on the best way is the first change.
    Scores are not in the plan: all subnets count alike. Neither is what the devices do in another
    precision: half of the bytes at the same FLOP/s is what is tried.

    Args:
        plan: that does not pay on its cluster.
        search: of all ways of its mini-batch there.
        seed: of the plans that are tried.
    """
    if not is_quickly_searched(plan.cluster, plan.workload):
        return None
    workload, budget = plan.workload, plan.budget
    target = repr(budget.target_step_s) if budget.target_step_s else None
    request = Request(
        workload,
        plan.cluster,
        uniform_scores(workload.num_subnets, workload.num_microbatches),
        Budget() if target else Budget(budget.compute, budget.communication),
    )
    if not is_on_way(plan):
        try:
            on_way = plan_on_way(request, target_step_time=target, seed=seed, search=search)
            if pays(on_way):
                return "on the best way, which 'd2ft plan' finds without --placement"
        except InputError:
            return None
    return change_that_pays(
        request, None, lambda precision: plan.cluster, target_step_time=target, seed=seed
    )
