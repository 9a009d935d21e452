"""How a model is trained, as options of ``d2ft finetune``."""

from dataclasses import dataclass
from typing import Annotated

import typer

from analysis.names.lr_schedule_names import LrScheduleName
from analysis.names.precision_names import AmpDtypeName
from d2ft_sched.model.optimizer_states import OPTIMIZER_STATES
from runtime.training.finetune_settings import FineTuneSettings

PANEL = "Training"
_Default = FineTuneSettings


@dataclass(frozen=True)
class TrainingOptions:
    """What a user chooses of `FineTuneSettings`, and the optimizer."""

    epochs: Annotated[
        int, typer.Option(min=1, help="Passes through the data.", rich_help_panel=PANEL)
    ] = _Default.num_epochs
    learning_rate: Annotated[
        float, typer.Option(help="Peak learning rate.", rich_help_panel=PANEL)
    ] = _Default.lr
    optimizer: Annotated[
        str | None,
        typer.Option(
            help=f"One of {', '.join(OPTIMIZER_STATES)}, of timm's factory; default the plan's. "
            f"lamb and lars take norms of whole weights: not where ranks hold parts of them.",
            rich_help_panel=PANEL,
        ),
    ] = None
    weight_decay: Annotated[
        float,
        typer.Option(
            help="Of matrices; norms, biases and a ViT's positions do not decay.",
            rich_help_panel=PANEL,
        ),
    ] = _Default.weight_decay
    layer_decay: Annotated[
        float,
        typer.Option(
            help="Factor of the learning rate from each layer to the one before it; 1 for the same "
            "everywhere.",
            rich_help_panel=PANEL,
        ),
    ] = _Default.layer_decay
    lr_schedule: Annotated[
        LrScheduleName,
        typer.Option(
            help="cosine falls to zero over all steps, constant stays.", rich_help_panel=PANEL
        ),
    ] = LrScheduleName.COSINE
    warmup: Annotated[
        float,
        typer.Option(
            help="Share of all steps in which the learning rate rises to its peak.",
            rich_help_panel=PANEL,
        ),
    ] = _Default.warmup
    clip_norm: Annotated[
        float | None,
        typer.Option(
            help="Largest norm of a step's gradients, all parameters of all ranks together; "
            "default any.",
            rich_help_panel=PANEL,
        ),
    ] = _Default.clip_norm
    label_smoothing: Annotated[
        float,
        typer.Option(
            help="Share of each target that is spread over all classes, or tokens.",
            rich_help_panel=PANEL,
        ),
    ] = _Default.label_smoothing
    ema: Annotated[
        float | None,
        typer.Option(
            help="Keep an average of the weights that moves by 1 - EMA in each step, and test and "
            "save it in their place; default none.",
            rich_help_panel=PANEL,
        ),
    ] = _Default.ema_decay
    amp_dtype: Annotated[
        AmpDtypeName,
        typer.Option(
            help="Type of products of a plan with --precision bfloat16; float16 scales the loss, "
            "and is for CUDA devices.",
            rich_help_panel=PANEL,
        ),
    ] = AmpDtypeName.BFLOAT16
    eval_every: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Test each N steps, too, and not only after each epoch.",
            rich_help_panel=PANEL,
        ),
    ] = _Default.eval_every
    linear_probe: Annotated[
        bool,
        typer.Option(help="Fit the classifier on frozen features first.", rich_help_panel=PANEL),
    ] = _Default.linear_probe

    def settings(self, seed: int) -> FineTuneSettings:
        """As a training takes them.

        Raises:
            InputError: one of them is out of range.
        """
        return FineTuneSettings(
            num_epochs=self.epochs,
            lr=self.learning_rate,
            weight_decay=self.weight_decay,
            layer_decay=self.layer_decay,
            lr_decay=self.lr_schedule.value,
            warmup=self.warmup,
            clip_norm=self.clip_norm,
            label_smoothing=self.label_smoothing,
            ema_decay=self.ema,
            eval_every=self.eval_every,
            half=self.amp_dtype.value,
            linear_probe=self.linear_probe,
            seed=seed,
        )
