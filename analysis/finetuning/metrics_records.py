"""What the lines of ``metrics.jsonl`` must hold, by their event."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from analysis.finetuning.metrics_file import Record
from d2ft_sched.errors import InputError
from d2ft_sched.files.schema import validate

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class BegunRecord(_Record):
    plan_sha256: str
    num_ranks: Annotated[int, Field(ge=1)]
    provenance: dict[str, str | int | float]


class StartedRecord(BegunRecord):
    event: Literal["started"]
    settings: dict[str, str | int | float | bool | None]


class ResumedRecord(BegunRecord):
    event: Literal["resumed"]
    step: Count
    settings: dict[str, str | int | float | bool | None] = {}


class ProbedRecord(_Record):
    event: Literal["probed"]
    train_top1: Share
    seconds: Amount


class ScoredRecord(_Record):
    event: Literal["scored"]
    num_minibatches: Count
    forward_score: str
    backward_score: str
    flops: Amount
    seconds: Amount


class StepTimesRecord(_Record):
    lanes_s: Amount
    rest_s: Amount
    exchange_s: Amount


class SteppedRecord(_Record):
    event: Literal["stepped"]
    step: Annotated[int, Field(ge=1)]
    num_steps: Annotated[int, Field(ge=1)]
    epoch: Annotated[int, Field(ge=1)]
    loss: float | None
    flops: Amount
    step_s: Amount
    solve_s: Amount
    times: StepTimesRecord


class ChangeRecord(_Record):
    device: str
    slowdown: Amount
    slowdown_before: Amount
    num_full: Count | None
    num_full_before: Count | None
    num_forward_only: Count | None
    num_forward_only_before: Count | None


class MovedShareRecord(_Record):
    devices: tuple[str, ...]
    num_samples: Count
    num_samples_before: Count


class ReplannedRecord(_Record):
    event: Literal["replanned"]
    step: Count
    reason: str
    changes: tuple[ChangeRecord, ...]
    seconds: Amount
    shares: tuple[MovedShareRecord, ...] = ()


class EvaluatedRecord(_Record):
    event: Literal["evaluated"]
    epoch: Amount
    step: Count
    top1: Share
    loss: float | None
    top5: Share | None = None
    class_top1: tuple[Share | None, ...] | None = None
    num_samples: Annotated[int, Field(ge=1)]
    num_counted: Count | None = None
    perplexity: float | None = None
    seconds: Amount

    @property
    def num_judged(self) -> int:
        """What `top1` is a share of: samples, or tokens."""
        return self.num_samples if self.num_counted is None else max(1, self.num_counted)


MetricsRecord = (
    StartedRecord | ResumedRecord | ProbedRecord | ScoredRecord | SteppedRecord | ReplannedRecord
    | EvaluatedRecord
)  # fmt: skip
_EVENT: Any = Annotated[MetricsRecord, Field(discriminator="event")]


def checked_event(path: Path, number: int, record: Record) -> MetricsRecord:
    """A line as a record of its kind.

    Raises:
        InputError: naming file, line and field.
    """
    try:
        return validate(_EVENT, record, strict=False, extra="ignore")
    except InputError as error:
        raise InputError(f"{path}: line {number}: {error}") from None
