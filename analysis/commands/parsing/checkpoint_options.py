"""What is kept of a training, as options of ``d2ft finetune``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from analysis.commands import options

PANEL = "Checkpoints"


@dataclass(frozen=True)
class CheckpointOptions:
    """Fields as attributes of `analysis.finetuning.finetune_request.FineTuneRequest`."""

    checkpoint_dir: Annotated[
        Path | None,
        typer.Option(
            callback=options.folder_target,
            help="Folder of this training's checkpoints; default OUT/checkpoints.",
            rich_help_panel=PANEL,
        ),
    ] = None
    checkpoint_every: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Steps from one checkpoint to the next; without it only Ctrl-C and SIGTERM leave "
            "one.",
            rich_help_panel=PANEL,
        ),
    ] = None
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|latest",
            help="Go on from a checkpoint, or from the newest whole one of a folder; the other "
            "options as they were, but --epochs may grow.",
            rich_help_panel=PANEL,
        ),
    ] = None
    keep: Annotated[
        int | None,
        typer.Option(min=1, help="Newest checkpoints to keep; default all.", rich_help_panel=PANEL),
    ] = None
    keep_best: Annotated[
        bool,
        typer.Option(
            "--keep-best",
            help="Keep the weights of the best test in OUT/best, beside the last ones.",
            rich_help_panel=PANEL,
        ),
    ] = False
