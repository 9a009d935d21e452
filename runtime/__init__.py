"""What a plan does cost: partitioned execution with torch, profile, scores, fine-tuning.

`build_model` and `load_data` give what is trained, `score_minibatch` the scores of a plan,
`profile_device` the curves of a cluster file; `measure_steps` holds steps against the simulator and
`fine_tune` trains. Several ranks run by ``d2ft finetune`` under torchrun. `apply_plan` lets a model
run as a plan says in a training loop of your own.
"""

from typing import TYPE_CHECKING

from d2ft_sched.lazy_names import lazy_names

if TYPE_CHECKING:
    from runtime.data.load_data import load_data as load_data
    from runtime.measure.device_profile import profile_device as profile_device
    from runtime.measure.step_times import StepMeasurement as StepMeasurement
    from runtime.measure.step_times import measure_steps as measure_steps
    from runtime.models.build import build_model as build_model
    from runtime.models.build import shape_of as shape_of
    from runtime.own_loop.apply_plan import ScheduledModel as ScheduledModel
    from runtime.own_loop.apply_plan import apply_plan as apply_plan
    from runtime.own_loop.transformers_callback import (
        TransformersPlanCallback as TransformersPlanCallback,
    )
    from runtime.scoring.minibatch_scores import score_minibatch as score_minibatch
    from runtime.steady_settings import steady_process as steady_process
    from runtime.torch_device import device_name as device_name
    from runtime.torch_device import select_device as select_device
    from runtime.training.finetune_settings import FineTuneSettings as FineTuneSettings
    from runtime.training.loop import fine_tune as fine_tune
else:
    __all__, __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "models.build": "build_model shape_of",
            "data.load_data": "load_data",
            "torch_device": "select_device device_name",
            "steady_settings": "steady_process",
            "scoring.minibatch_scores": "score_minibatch",
            "measure.device_profile": "profile_device",
            "measure.step_times": "measure_steps StepMeasurement",
            "own_loop.apply_plan": "apply_plan ScheduledModel",
            "own_loop.transformers_callback": "TransformersPlanCallback",
            "training.finetune_settings": "FineTuneSettings",
            "training.loop": "fine_tune",
        },
    )
