"""Command-line options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from d2ft_sched.errors import InputError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of every random choice.")]
Model = Annotated[
    str,
    typer.Option(
        help="A timm ViT's name, or a .yaml/.json file with the sizes of any transformer.",
        rich_help_panel="Model and mini-batch",
    ),
]
ImageSize = Annotated[
    int | None,
    typer.Option(
        help="Pixels; default that of the pretrained weights.",
        rich_help_panel="Model and mini-batch",
    ),
]
NumClasses = Annotated[
    int, typer.Option(min=1, help="Classes to tell apart.", rich_help_panel="Model and mini-batch")
]
HeadsPerSubnet = Annotated[
    str,
    typer.Option(
        help="Heads of a subnet: one number, or the sizes of a block's groups such as 1,2,3.",
        rich_help_panel="Model and mini-batch",
    ),
]
Microbatches = Annotated[
    int,
    typer.Option(
        min=1, help="Micro-batches of a mini-batch.", rich_help_panel="Model and mini-batch"
    ),
]
MicrobatchSize = Annotated[
    int,
    typer.Option(
        min=1, help="Samples of a micro-batch.", rich_help_panel="Model and mini-batch"
    ),
]
Waves = Annotated[
    int,
    typer.Option(
        min=1,
        help="Groups of micro-batches that pass through the model one after another: "
        "more of them need less memory.",
        rich_help_panel="Model and mini-batch",
    ),
]
ClusterFile = Annotated[
    Path,
    typer.Option("--cluster", help="Cluster file (YAML); see examples/clusters."),
]
ScoresFile = Annotated[
    Path | None,
    typer.Option(
        "--scores",
        help="Scores table (CSV) from 'd2ft profile --scores-out'; without it all subnets count "
        "alike.",
    ),
]
BudgetCompute = Annotated[
    float,
    typer.Option(
        help="Fraction of the dense run's FLOPs that the cluster may spend.",
        rich_help_panel="Budget",
    ),
]
BudgetComm = Annotated[
    float,
    typer.Option(
        help="Fraction of the dense run's bytes that the cluster may exchange.",
        rich_help_panel="Budget",
    ),
]
PerDevice = Annotated[
    bool,
    typer.Option(
        "--per-device",
        help="Balance each device over all blocks instead of within every block.",
        rich_help_panel="Budget",
    ),
]
TimeLimit = Annotated[
    float | None,
    typer.Option("--time-limit", min=0.001, help="Seconds that a solver may take."),
]


def parse_heads(text: str) -> int | list[int]:
    """``"2"`` or ``"1,2,3"``."""
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"--heads-per-subnet is {text!r}; it must be a number or numbers such as 1,2,3"
        ) from None
    return sizes[0] if len(sizes) == 1 else sizes
