"""What ``d2ft finetune`` is asked to do."""

from dataclasses import dataclass
from pathlib import Path

from d2ft_sched.plan import Plan


@dataclass(frozen=True)
class FineTuneRequest:
    """What to fine-tune, on what, how; fields as the options of ``d2ft finetune``."""

    plan: Plan
    data: str
    data_root: Path | None
    download: bool
    num_train: int | None
    num_test: int | None
    image_size: int | None
    weights: str | None
    pretrained: bool
    num_epochs: int
    learning_rate: float
    linear_probe: bool
    dense: bool
    autocast: str
    device: str
    checkpoint_dir: Path
    checkpoint_every: int | None
    resume: str | None
    keep: int | None
    seed: int
    replan_every: int | None = None
    scores: Path | None = None
