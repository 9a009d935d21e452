"""The data that a model is trained on, as options of ``d2ft finetune`` and ``demo``."""

from dataclasses import dataclass
from typing import Annotated

import typer

from analysis.commands import options
from analysis.names.augment_names import AugmentName
from analysis.names.bad_file_names import OnBadFileName


@dataclass(frozen=True)
class DataOptions:
    """Which samples; fields as attributes of the requests that have them."""

    data: options.Data = "mnist-subset"
    data_root: options.DataRoot = None
    download: options.Download = False
    num_train: options.NumTrain = None
    num_test: options.NumTest = None


@dataclass(frozen=True)
class DemoDataOptions(DataOptions):
    """Few enough for minutes on a laptop."""

    num_train: options.NumTrain = 960
    num_test: options.NumTest = 1000


@dataclass(frozen=True)
class ReadDataOptions(DataOptions):
    """And how they are read."""

    on_bad_file: options.OnBadFile = OnBadFileName.FAIL
    augment: options.Augment = AugmentName.NONE
    workers: options.Workers = None
    packed: Annotated[
        bool,
        typer.Option(
            "--packed/--padded",
            help="Several texts to a sequence, each seeing only itself, or one, filled up; for "
            "decoders.",
            rich_help_panel="Data",
        ),
    ] = False
