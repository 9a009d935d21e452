"""What ``d2ft finetune`` is asked to do."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from analysis.names.augment_names import AugmentName
from analysis.names.bad_file_names import OnBadFileName
from analysis.names.log_names import LogName
from analysis.names.schedule_names import ScheduleName
from d2ft_sched.errors import InputError
from d2ft_sched.model.optimizer_states import OPTIMIZER_STATES
from d2ft_sched.model.workload import ELEMENT_BYTES
from d2ft_sched.plan.solved_plan import Plan
from runtime.scoring.score_kinds import score_kind
from runtime.scoring.training_scores import BACKWARD_SCORE, FORWARD_SCORE
from runtime.training.finetune_settings import FineTuneSettings
from runtime.training.tensorboard_log import check_tensorboard


@dataclass(frozen=True)
class FineTuneRequest:
    """What to fine-tune, on what, how; fields as the options of ``d2ft finetune``.

    Attributes:
        settings: what the plan says of them may be left at its default.
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
    settings: FineTuneSettings
    dense: bool
    device: str
    checkpoint_dir: Path
    checkpoint_every: int | None
    resume: str | None
    keep: int | None
    keep_best: bool = False
    log: LogName | None = None
    replan_every: int | None = None
    scores: Path | None = None
    schedule: ScheduleName = ScheduleName.FIXED
    packed: bool = False
    on_bad_file: OnBadFileName = OnBadFileName.FAIL
    augment: AugmentName = AugmentName.NONE
    workers: int | None = None
    forward_score: str = FORWARD_SCORE
    backward_score: str = BACKWARD_SCORE
    shared: Mapping[str, str | None] = field(default_factory=dict)


def with_optimizer(plan: Plan, name: str | None) -> Plan:
    """A plan whose training uses another optimizer; None for its own.

    Raises:
        InputError: there is no such optimizer.
    """
    return plan if name is None else replace(plan, workload=replace(plan.workload, optimizer=name))


def check_options(request: FineTuneRequest) -> None:
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
    if request.scores is not None and len(request.plan.replicas) > 1:
        raise InputError(
            f"--scores chooses operations; between the {len(request.plan.replicas)} replicas of "
            f"this plan samples move: leave it out"
        )
    if request.settings.half == "float16":
        _check_float16(request)
    if request.log is LogName.TENSORBOARD:
        check_tensorboard()
    for name in (request.forward_score, request.backward_score):
        score_kind(name)


def optimizer_note(planned: Plan, name: str | None) -> str:
    """What to say where another optimizer than the planned one needs more memory; else nothing."""
    before = planned.workload.optimizer
    values = OPTIMIZER_STATES[before]
    if name is None or OPTIMIZER_STATES[name] <= values:
        return ""
    return (
        f"d2ft: {name} keeps {OPTIMIZER_STATES[name]} values of each parameter, {before}, planned "
        f"for, {values}: it needs more memory than the plan says; d2ft plan --optimizer {name} "
        f"plans for it"
    )


def _check_float16(request: FineTuneRequest) -> None:
    workload, option = request.plan.workload, "--amp-dtype float16"
    if workload.element_bytes != ELEMENT_BYTES["bfloat16"]:
        raise InputError(f"{option} is for a plan of two bytes; make it with --precision bfloat16")
    if workload.shape.vocabulary_size:
        raise InputError(
            f"{option} is not for language models: their head makes gradients before the loss is "
            f"scaled; take bfloat16"
        )
    if request.schedule is ScheduleName.RUNNING:
        raise InputError(f"{option} scales gradients, and --schedule running reads them")
