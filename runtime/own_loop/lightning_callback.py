"""A plan in Lightning's Trainer."""

from typing import Any

from lightning.pytorch import Callback

from d2ft_sched.errors import InputError
from d2ft_sched.plan.solved_plan import Plan
from runtime.own_loop.apply_plan import ScheduledModel, apply_plan


class LightningPlanCallback(Callback):
    """``Trainer(..., callbacks=[LightningPlanCallback(plan)])``: its module trains under a plan.

    ``training_step`` is given the samples that the step runs on. The module optimizes by itself
    (``automatic_optimization``), with one optimizer.
    """

    def __init__(self, plan: Plan, *, seed: int = 0) -> None:
        """Take `plan`; `seed` is of what is drawn."""
        self._plan, self._seed = plan, seed
        self._optimizer: Any = None
        self.scheduled: ScheduledModel | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Put the module under the plan.

        Raises:
            InputError: the module or an argument of the trainer does not go with the plan.
        """
        if trainer.accumulate_grad_batches != 1:
            raise InputError(
                f"accumulate_grad_batches is {trainer.accumulate_grad_batches}; a plan is for the "
                f"whole mini-batch of a step: it must be 1"
            )
        if not pl_module.automatic_optimization or len(trainer.optimizers) != 1:
            raise InputError(
                "a plan needs a module with automatic_optimization and one optimizer; call "
                "apply_plan in a loop of another kind"
            )
        scheduled = self.scheduled = apply_plan(pl_module, self._plan, seed=self._seed)
        scheduled.num_steps_done = trainer.global_step
        own = pl_module.on_after_batch_transfer

        def taken(batch: Any, dataloader_idx: int) -> Any:
            batch = own(batch, dataloader_idx)
            return scheduled.take(batch) if trainer.training else batch

        pl_module.on_after_batch_transfer = taken

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """When the gradients are there."""
        if self.scheduled is not None:
            self._optimizer = optimizer
            self.scheduled.before_update(optimizer)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After the optimizer's step."""
        if self.scheduled is not None and self._optimizer is not None:
            self.scheduled.after_update(self._optimizer)
            self._optimizer = None

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Give the module its own methods back."""
        if self.scheduled is not None:
            self.scheduled.remove()
            vars(pl_module).pop("on_after_batch_transfer", None)
        self.scheduled = None
