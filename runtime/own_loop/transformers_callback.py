"""A plan in `transformers.Trainer`."""

from typing import Any

from transformers import TrainerCallback

from d2ft_sched.errors import InputError
from d2ft_sched.files.counted import counted
from d2ft_sched.plan.solved_plan import Plan
from runtime.own_loop.apply_plan import ScheduledModel, apply_plan


class TransformersPlanCallback(TrainerCallback):
    """``Trainer(..., callbacks=[TransformersPlanCallback(plan)])``: its model trains under a plan.

    What a step leaves out is taken from every batch on its way into the model, labels among it, so
    the loss that the model returns is the mean over the rest. The model is itself again at the end.
    """

    def __init__(self, plan: Plan, *, seed: int = 0) -> None:
        """Take `plan`; `seed` is of what is drawn."""
        self._plan, self._seed = plan, seed
        self._hooks: list[Any] = []
        self.scheduled: ScheduledModel | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Put the model under the plan.

        Raises:
            InputError: the model, the size of its batches or another argument of the training does
                not go with the plan.
        """
        model, optimizer = given["model"], given["optimizer"]
        scheduled = apply_plan(
            model, self._plan, getattr(optimizer, "optimizer", optimizer), seed=self._seed
        )
        self.scheduled = scheduled
        _check_arguments(args, scheduled)
        scheduled.num_steps_done = state.global_step
        self._hooks = [
            model.register_forward_pre_hook(self._take, with_kwargs=True),
            model.register_forward_hook(self._weigh),
        ]

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Give the model its own methods back."""
        for hook in self._hooks:
            hook.remove()
        if self.scheduled is not None:
            self.scheduled.remove()
        self._hooks, self.scheduled = [], None

    def _take(self, model: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if not model.training or self.scheduled is None:
            return None
        named.pop("num_items_in_batch", None)
        return self.scheduled.take((inputs, named))

    def _weigh(self, model: Any, inputs: tuple[Any, ...], result: Any) -> None:
        scheduled = self.scheduled
        if model.training and scheduled is not None and scheduled.loss_weight != 1:
            result["loss"] = result["loss"] * scheduled.loss_weight


def _check_arguments(args: Any, scheduled: ScheduledModel) -> None:
    if args.per_device_train_batch_size != scheduled.num_samples:
        raise InputError(
            f"per_device_train_batch_size is {args.per_device_train_batch_size}; the plan's "
            f"mini-batch has {counted(scheduled.num_samples, 'sample')} here"
        )
    if args.gradient_accumulation_steps != 1:
        raise InputError(
            f"gradient_accumulation_steps is {args.gradient_accumulation_steps}; a plan is for "
            f"the whole mini-batch of a step: it must be 1"
        )
    if args.label_smoothing_factor:
        raise InputError(
            f"label_smoothing_factor is {args.label_smoothing_factor}; that loss is computed "
            f"outside the model, from labels that a plan may leave out: it must be 0"
        )
