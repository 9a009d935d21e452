"""What ``d2ft finetune`` left in a folder, read back and checked."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.finetuning.metrics_file import METRICS, Record, read_records
from analysis.finetuning.metrics_records import (
    BegunRecord,
    EvaluatedRecord,
    ProbedRecord,
    ReplannedRecord,
    ResumedRecord,
    ScoredRecord,
    StartedRecord,
    checked_event,
)
from analysis.results.run_dir import PLAN
from d2ft_sched.errors import InputError
from d2ft_sched.plan.plan_file import load_plan, plan_digest
from d2ft_sched.plan.solved_plan import Plan
from runtime.checkpoint.facts import MAY_GROW

if TYPE_CHECKING:
    from runtime.checkpoint.facts import TrainingState


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
    resumed: tuple[ResumedRecord, ...]
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
        """Of the whole training."""
        return int(self.steps["num_steps"].iloc[-1])

    @property
    def num_done(self) -> int:
        """Steps done; `steps` lacks the first ones if they were taken in another folder."""
        return int(self.steps["step"].iloc[-1])

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
    events = [checked_event(path, number, record) for number, record in enumerate(records, start=1)]
    began = [e for e in events if isinstance(e, BegunRecord)]
    if not events or not isinstance(events[0], StartedRecord):
        raise InputError(f"{path}: line 1: event must be 'started'")
    steps = steps_of(records)
    if steps.empty:
        raise InputError(f"{path}: has no step yet; let 'd2ft finetune' do at least one")
    resumed = tuple(e for e in events if isinstance(e, ResumedRecord))
    first = int(steps["step"].iloc[0])
    if list(steps["step"]) != list(range(first, first + len(steps))):
        raise InputError(f"{path}: is damaged: its steps do not follow one another")
    if first != 1 and first - 1 not in [e.step for e in resumed]:
        raise InputError(f"{path}: is damaged: it lacks the steps before {first}")
    plan = load_plan(folder / PLAN)
    if plan_digest(folder / PLAN) != began[-1].plan_sha256:
        raise InputError(
            f"{folder / PLAN}: is another plan than the one that {METRICS} beside it is of"
        )
    return FineTuneRun(
        folder=folder,
        plan=plan,
        settings={**events[0].settings, **(resumed[-1].settings if resumed else {})},
        num_ranks=began[-1].num_ranks,
        provenance=began[-1].provenance,
        records=records,
        steps=steps,
        evaluations=tuple(e for e in events if isinstance(e, EvaluatedRecord)),
        replanned=tuple(e for e in events if isinstance(e, ReplannedRecord)),
        resumed=resumed,
        probed=next((e for e in events if isinstance(e, ProbedRecord)), None),
        scored=next((e for e in events if isinstance(e, ScoredRecord)), None),
    )


def check_same_training(path: Path, records: Sequence[Record], state: "TrainingState") -> None:
    """Refuse records that do not lead to a checkpoint.

    Args:
        path: where they are from.
        records: until the step of the checkpoint.
        state: of the checkpoint.

    Raises:
        InputError: naming the path.
    """
    events = [checked_event(path, number, record) for number, record in enumerate(records, start=1)]
    began = [e for e in events if isinstance(e, BegunRecord)]
    settings = {n: v for e in began if isinstance(e, StartedRecord) for n, v in e.settings.items()}
    for name, value in state.settings.items():
        if name not in MAY_GROW and settings.get(name) != value:
            raise InputError(
                f"{path}: is of a training with {name} {settings.get(name)}, the checkpoint of one "
                f"with {value}; give another --out"
            )
    if state.plan_sha256 not in [e.plan_sha256 for e in began]:
        raise InputError(f"{path}: is of a training by another plan; give another --out")


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
