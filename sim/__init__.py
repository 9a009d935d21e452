"""What a plan would cost: a simulated step on a cluster, down to the messages on its links.

`simulate_plan` gives a `Prediction`; `what_bounds` and `sensitivities` say what it waits for and
what would change it; `scale_bandwidth`, `scale_compute` and `drop_devices` make other clusters to
ask about; `plan_for_target` searches the plan for a step time.
"""

from typing import TYPE_CHECKING

from d2ft_sched.lazy_names import lazy_names

if TYPE_CHECKING:
    from sim.network.flows import Flow as Flow
    from sim.network.flows import Flows as Flows
    from sim.network.flows import simulate_flows as simulate_flows
    from sim.prediction import Prediction as Prediction
    from sim.questions.bounds import what_bounds as what_bounds
    from sim.questions.jitter import Jitter as Jitter
    from sim.questions.jitter import jittered_step_times as jittered_step_times
    from sim.questions.sensitivity import sensitivities as sensitivities
    from sim.questions.what_if import drop_devices as drop_devices
    from sim.questions.what_if import scale_bandwidth as scale_bandwidth
    from sim.questions.what_if import scale_compute as scale_compute
    from sim.step import simulate_dense as simulate_dense
    from sim.step import simulate_plan as simulate_plan
    from sim.step import simulate_step as simulate_step
    from sim.target.target_plan import plan_for_target as plan_for_target
else:
    __all__, __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "step": "simulate_dense simulate_plan simulate_step",
            "prediction": "Prediction",
            "target.target_plan": "plan_for_target",
            "questions.bounds": "what_bounds",
            "questions.sensitivity": "sensitivities",
            "questions.jitter": "Jitter jittered_step_times",
            "questions.what_if": "scale_compute scale_bandwidth drop_devices",
            "network.flows": "Flow Flows simulate_flows",
        },
    )
