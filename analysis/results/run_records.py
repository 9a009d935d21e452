"""What the files of a run directory hold, field by field.

The runs of a directory have names: "dense" is the best dense way, "fewer" are fewer samples of the
plan's compute in their own best way, "plan" is the plan.
"""

import math
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

NEEDED_RUNS = ("dense", "fewer", "plan")


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class DevicePrediction(_Record):
    name: str
    busy_s: float
    idle_s: float
    peak_memory_bytes: float
    memory_bytes: float


class LinkPrediction(_Record):
    link: str
    bytes: float
    utilisation: float


class StepPrediction(_Record):
    """What `sim.prediction.Prediction.summary` says of one step."""

    kind: Literal["prediction"]
    calibrated: bool
    step_s: float
    exchange_s: float
    flops: float
    exchange_bytes: float
    devices: list[DevicePrediction] = Field(min_length=1)
    links: list[LinkPrediction]

    @property
    def peak_memory_bytes(self) -> float:
        """Of the fullest device."""
        return max(d.peak_memory_bytes for d in self.devices)


class _Runs(_Record):
    @model_validator(mode="after")
    def _has_needed_runs(self) -> Self:
        for field in type(self).model_fields:
            runs = getattr(self, field)
            if isinstance(runs, dict):
                for name in NEEDED_RUNS:
                    if name not in runs:
                        raise ValueError(f"{field} has no run {name!r}")
        return self


class PredictionFile(_Runs):
    """``prediction.json``: simulated steps by run, each on its own way on the plan's cluster, and
    on the device that was measured (with its measured profile); `verdict` holds the plan against
    the others in one sentence."""

    format: Literal["d2ft-prediction"] = "d2ft-prediction"
    version: Literal[2] = 2
    verdict: str
    ways: dict[str, str]
    cluster: dict[str, StepPrediction]
    this_device: dict[str, StepPrediction]


class StepMeasurement(_Record):
    """One step, median over repetitions; `step_s_spread` is their interquartile range."""

    step_s: float
    step_s_spread: float
    forward_s: float
    backward_s: float
    optimizer_s: float
    flops: float
    peak_memory_bytes: float
    exchange_bytes: float


class EpochMeasurement(_Record):
    """One epoch: seconds and FLOPs of its training steps alone, accuracy (0 to 1) after it.

    `train_loss` is None where it is not finite.
    """

    epoch: int
    train_loss: float | None
    test_accuracy: float
    train_s: float
    flops: float

    @field_validator("train_loss", mode="before")
    @classmethod
    def _finite_or_none(cls, value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value


class TrainingMeasurement(_Record):
    epochs: list[EpochMeasurement] = Field(min_length=1)
    test_accuracy_before: float
    seed: int

    @property
    def test_accuracy(self) -> float:
        """Top-1, 0 to 1, after the last epoch."""
        return self.epochs[-1].test_accuracy

    @property
    def train_s(self) -> float:
        return sum(e.train_s for e in self.epochs)

    @property
    def flops(self) -> float:
        return sum(e.flops for e in self.epochs)


class DataFacts(_Record):
    name: str
    num_train: int
    num_test: int
    num_classes: int
    image_size: int


class MeasurementFile(_Runs):
    """``measurement.json``: single steps and whole trainings by run, on one device."""

    format: Literal["d2ft-measurement"] = "d2ft-measurement"
    version: Literal[2] = 2
    device: str
    data: DataFacts
    steps: dict[str, StepMeasurement]
    training: dict[str, TrainingMeasurement]
