"""Which schedule each step of a training has, as options of ``d2ft finetune``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from analysis.names.schedule_names import ScheduleName

PANEL = "Schedule"


@dataclass(frozen=True)
class ScheduleOptions:
    """Fields as attributes of `analysis.finetuning.finetune_request.FineTuneRequest`."""

    schedule: Annotated[
        ScheduleName | None,
        typer.Option(
            help="fixed: the plan's own for every mini-batch. per-step: drawn anew in each step, "
            "what rests and which samples are left out, or, within the budget of a plan by "
            "scores, which samples all subnets drop first; it needs no scores, and is the default "
            "where there is anything to draw. "
            "running: from scores that steps see in passing, so that scoring costs no pass. These "
            "two kept accuracy best in our studies, running closest to dense on unequal devices. "
            "per-minibatch: the paper's rule, as we read it: one for each from its scores, "
            "within the budget; scoring happens before training, with the whole model on the first "
            "rank, and metrics.jsonl says what it cost.",
            rich_help_panel=PANEL,
        ),
    ] = None
    forward_score: Annotated[
        str,
        typer.Option(help="Score of running a subnet, for per-minibatch.", rich_help_panel=PANEL),
    ] = "weight_magnitude"
    backward_score: Annotated[
        str,
        typer.Option(help="Score of training a subnet, for per-minibatch.", rich_help_panel=PANEL),
    ] = "fisher_of_microbatches"
    replan_every: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Look at every rank's times each N steps, and give a device that got slower fewer "
            "operations, or its replica fewer samples; one that got faster more.",
            rich_help_panel=PANEL,
        ),
    ] = None
    scores: Annotated[
        Path | None,
        typer.Option(
            help="Scores table (CSV) to choose operations by when re-planning; without it the "
            "plan's own choice goes first.",
            rich_help_panel=PANEL,
        ),
    ] = None
