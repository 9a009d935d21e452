"""What ``d2ft finetune`` is asked to do."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from analysis.finetuning.bad_file_names import OnBadFileName
from analysis.names.augment_names import AugmentName
from analysis.names.schedule_names import ScheduleName
from d2ft_sched.errors import InputError
from d2ft_sched.plan.plan import Plan
from runtime.scoring.score_kinds import score_kind
from runtime.scoring.training_scores import BACKWARD_SCORE, FORWARD_SCORE


@dataclass(frozen=True)
class FineTuneRequest:
    """What to fine-tune, on what, how; fields as the options of ``d2ft finetune``.

    Attributes:
        shared: values of the options that all ranks must be given alike, by their names.
    """

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
    device: str
    checkpoint_dir: Path
    checkpoint_every: int | None
    resume: str | None
    keep: int | None
    seed: int
    replan_every: int | None = None
    scores: Path | None = None
    schedule: ScheduleName = ScheduleName.FIXED
    packed: bool = False
    on_bad_file: OnBadFileName = OnBadFileName.FAIL
    augment: AugmentName = AugmentName.NONE
    num_workers: int | None = None
    forward_score: str = FORWARD_SCORE
    backward_score: str = BACKWARD_SCORE
    shared: Mapping[str, str | None] = field(default_factory=dict)


def check_schedule_options(request: FineTuneRequest) -> None:
    """Refuse options that do not go together.

    Raises:
        InputError: naming them, or a kind of scores that there is not.
    """
    changes = request.schedule is not ScheduleName.FIXED
    if changes and request.dense:
        raise InputError(
            f"--dense leaves nothing to choose; leave --schedule {request.schedule} out"
        )
    if changes and request.scores is not None:
        raise InputError(
            f"--scores is for one schedule; with --schedule {request.schedule} it is left out"
        )
    if request.scores is not None and request.replan_every is None:
        raise InputError("--scores is for re-planning; give --replan-every, or leave it out")
    for name in (request.forward_score, request.backward_score):
        score_kind(name)
