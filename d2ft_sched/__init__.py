"""What a plan is: which subnet of a model does what for which micro-batch on which device.

A cluster, a model and a mini-batch make a workload; scores and a budget make the problem; a solver
makes the plan::

    shape = load_model_shape("vit_base_patch16_224", num_classes=10)
    workload = Workload(shape, partition_by_heads(shape, 1), (8,) * 10)
    cluster = load_cluster(Path("my-lab.yaml"))
    scores = uniform_scores(workload.num_subnets, workload.num_microbatches)
    placement = place_balanced(workload, cluster).placement
    plan = make_plan(deploy(workload, cluster, placement), scores, Budget(0.6, 0.5))
    save_plan(plan, Path("plan.json"))

`Problem` and `solve` are the knapsacks alone, for numbers of your own.
"""

from typing import TYPE_CHECKING

from d2ft_sched.lazy_names import lazy_names

if TYPE_CHECKING:
    from d2ft_sched.cluster.cluster import Cluster as Cluster
    from d2ft_sched.cluster.cluster import Link as Link
    from d2ft_sched.cluster.cluster_file import load_cluster as load_cluster
    from d2ft_sched.cluster.device import Device as Device
    from d2ft_sched.deployment import Deployment as Deployment
    from d2ft_sched.deployment import deploy as deploy
    from d2ft_sched.errors import InputError as InputError
    from d2ft_sched.files.provenance import provenance as provenance
    from d2ft_sched.model.lora import Lora as Lora
    from d2ft_sched.model.partition import Partition as Partition
    from d2ft_sched.model.partition import partition_by_heads as partition_by_heads
    from d2ft_sched.model.shape import ModelShape as ModelShape
    from d2ft_sched.model.shape_file import load_model_shape as load_model_shape
    from d2ft_sched.model.workload import Workload as Workload
    from d2ft_sched.placement_search.balanced import place_balanced as place_balanced
    from d2ft_sched.plan.plan_file import load_plan as load_plan
    from d2ft_sched.plan.plan_file import save_plan as save_plan
    from d2ft_sched.plan.planning import make_plan as make_plan
    from d2ft_sched.plan.solved_plan import Plan as Plan
    from d2ft_sched.problem.budget import Budget as Budget
    from d2ft_sched.problem.problem import Problem as Problem
    from d2ft_sched.problem.scores import Scores as Scores
    from d2ft_sched.problem.scores import load_scores as load_scores
    from d2ft_sched.problem.scores import save_scores as save_scores
    from d2ft_sched.problem.scores import uniform_scores as uniform_scores
    from d2ft_sched.problem.shared import Coverage as Coverage
    from d2ft_sched.problem.shared import SharedLimit as SharedLimit
    from d2ft_sched.problem.solution import Solution as Solution
    from d2ft_sched.problem.solution import Status as Status
    from d2ft_sched.problem.solution import checked_solution as checked_solution
    from d2ft_sched.schedule.operations import Operation as Operation
    from d2ft_sched.schedule.placement import Placement as Placement
    from d2ft_sched.schedule.placement import place_round_robin as place_round_robin
    from d2ft_sched.schedule.replica import Replica as Replica
    from d2ft_sched.schedule.schedule import uniform_schedule as uniform_schedule
    from d2ft_sched.solvers.registry import register_solver as register_solver
    from d2ft_sched.solvers.registry import solve as solve
    from d2ft_sched.solvers.registry import solver_names as solver_names
else:
    __all__, __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "model.shape": "ModelShape",
            "model.shape_file": "load_model_shape",
            "model.partition": "Partition partition_by_heads",
            "model.lora": "Lora",
            "model.workload": "Workload",
            "cluster.device": "Device",
            "cluster.cluster": "Link Cluster",
            "cluster.cluster_file": "load_cluster",
            "deployment": "Deployment deploy",
            "schedule.operations": "Operation",
            "schedule.schedule": "uniform_schedule",
            "schedule.placement": "Placement place_round_robin",
            "schedule.replica": "Replica",
            "placement_search.balanced": "place_balanced",
            "problem.scores": "Scores load_scores save_scores uniform_scores",
            "problem.budget": "Budget",
            "plan.planning": "make_plan",
            "plan.solved_plan": "Plan",
            "plan.plan_file": "load_plan save_plan",
            "problem.problem": "Problem",
            "problem.shared": "Coverage SharedLimit",
            "problem.solution": "Solution Status checked_solution",
            "solvers.registry": "register_solver solve solver_names",
            "files.provenance": "provenance",
            "errors": "InputError",
        },
    )
