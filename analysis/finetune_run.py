"""What ``d2ft finetune`` left in a folder, read back and checked."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from analysis.metrics_file import METRICS, Record, read_records
from analysis.run_dir import PLAN
from d2ft_sched.errors import InputError
from d2ft_sched.plan import Plan
from d2ft_sched.plan_file import dump_plan, load_plan
from d2ft_sched.shape_file import describe_first_error

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Started(_Record):
    event: Literal["started"]
    settings: dict[str, str | int | float | bool | None]
    plan_sha256: str
    num_ranks: Annotated[int, Field(ge=1)]
    provenance: dict[str, str | int | float]


class Resumed(_Record):
    event: Literal["resumed"]
    step: Count
    plan_sha256: str
    num_ranks: Annotated[int, Field(ge=1)]
    provenance: dict[str, str | int | float]


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


class ReplannedRecord(_Record):
    event: Literal["replanned"]
    step: Count
    reason: str
    changes: tuple[ChangeRecord, ...]
    seconds: Amount


class EvaluatedRecord(_Record):
    event: Literal["evaluated"]
    epoch: Count
    top1: Share
    loss: float | None
    num_samples: Annotated[int, Field(ge=1)]
    seconds: Amount


_Known = (
    Started | Resumed | ProbedRecord | ScoredRecord | SteppedRecord | ReplannedRecord
    | EvaluatedRecord
)  # fmt: skip
_EVENT: TypeAdapter[_Known] = TypeAdapter(Annotated[_Known, Field(discriminator="event")])


@dataclass(frozen=True, eq=False)
class FineTuneRun:
    """A training as far as it has come.

    Attributes:
        folder: where it lies.
        plan: that it followed last.
        settings: that last as long as the training.
        num_ranks: that trained together last; 1 for the whole model on one device.
        provenance: of the command that wrote last.
        records: all lines of ``metrics.jsonl``, plain.
        steps: as `steps_of`.
        evaluations: in order; the first may be before training.
        replanned: changes of the schedule.
        resumed: where training went on from a checkpoint.
        probed, scored: what came before the first step, if it did.
    """

    folder: Path
    plan: Plan
    settings: Mapping[str, str | int | float | bool | None]
    num_ranks: int
    provenance: Mapping[str, str | int | float]
    records: list[Record]
    steps: pd.DataFrame
    evaluations: tuple[EvaluatedRecord, ...]
    replanned: tuple[ReplannedRecord, ...]
    resumed: tuple[Resumed, ...]
    probed: ProbedRecord | None
    scored: ScoredRecord | None

    @property
    def is_dense(self) -> bool:
        return bool(self.settings.get("dense"))

    @property
    def device(self) -> str:
        return str(self.provenance.get("device", "the device of the training"))

    @property
    def num_steps(self) -> int:
        """Of the whole training; steps done are the rows of `steps`."""
        return int(self.steps["num_steps"].iloc[-1])

    @property
    def median_step_s(self) -> float:
        """Without the first step, which sets much up, where there are more."""
        return float(self.steps["step_s"].iloc[-max(1, len(self.steps) - 1) :].median())


def load_finetune_run(folder: Path) -> FineTuneRun:
    """Read ``metrics.jsonl`` and the plan beside it.

    Raises:
        InputError: a file is missing or damaged, no step is done, or the plan is another one than
            the training followed.
    """
    path = folder / METRICS
    records = list(read_records(path))
    events = [_event(path, number, record) for number, record in enumerate(records, start=1)]
    began = [e for e in events if isinstance(e, Started | Resumed)]
    if not events or not isinstance(events[0], Started):
        raise InputError(f"{path}: line 1: event must be 'started'")
    steps = steps_of(records)
    if steps.empty:
        raise InputError(f"{path}: has no step yet; let 'd2ft finetune' do at least one")
    if list(steps["step"]) != list(range(1, len(steps) + 1)):
        raise InputError(f"{path}: is damaged: its steps are not 1, 2, 3 and so on")
    plan = load_plan(folder / PLAN)
    if json.loads(dump_plan(plan))["sha256"] != began[-1].plan_sha256:
        raise InputError(
            f"{folder / PLAN}: is another plan than the one that {METRICS} beside it is of"
        )
    return FineTuneRun(
        folder=folder,
        plan=plan,
        settings=events[0].settings,
        num_ranks=began[-1].num_ranks,
        provenance=began[-1].provenance,
        records=records,
        steps=steps,
        evaluations=tuple(e for e in events if isinstance(e, EvaluatedRecord)),
        replanned=tuple(e for e in events if isinstance(e, ReplannedRecord)),
        resumed=tuple(e for e in events if isinstance(e, Resumed)),
        probed=next((e for e in events if isinstance(e, ProbedRecord)), None),
        scored=next((e for e in events if isinstance(e, ScoredRecord)), None),
    )


def steps_of(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per step.

    Columns: step, num_steps, epoch, loss (NaN where it was not finite), flops, step_s, the seconds
    of rank 0 as lanes_s, rest_s and exchange_s, and replanned: why the schedule changed after the
    step, or nothing.
    """
    records = list(records)
    reasons = {r["step"]: r["reason"] for r in records if r["event"] == "replanned"}
    table = pd.DataFrame(
        [
            {
                **{name: r[name] for name in ("step", "num_steps", "epoch", "loss")},
                "flops": r["flops"],
                "step_s": r["step_s"],
                **{name: r["times"][name] for name in ("lanes_s", "rest_s", "exchange_s")},
                "replanned": reasons.get(r["step"], ""),
            }
            for r in records
            if r["event"] == "stepped"
        ]
    )
    return table.astype({"loss": float}) if len(table) else table


def _event(path: Path, number: int, record: Record) -> _Known:
    try:
        return _EVENT.validate_python(record)
    except ValidationError as error:
        raise InputError(f"{path}: line {number}: {describe_first_error(error)}") from None
