"""What a plan saves against the dense run, predicted beside measured."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, kendalltau

from analysis.results.run_dir import Run
from analysis.results.run_records import StepPrediction

QUANTITIES = (
    ("FLOPs", "flops", "FLOP"),
    ("Step time", "step_s", "s"),
    ("Bytes exchanged", "exchange_bytes", "B"),
    ("Peak memory", "peak_memory_bytes", "B"),
)
"""Title, attribute of `StepPrediction` and `StepMeasurement`, and unit; all per step."""


@dataclass(frozen=True)
class Pair:
    """A predicted value and the measured one, None where it was not measured."""

    predicted: float
    measured: float | None = None

    @property
    def error(self) -> float | None:
        """(predicted - measured) / measured; None without a measured value to divide by."""
        return (self.predicted - self.measured) / self.measured if self.measured else None


@dataclass(frozen=True)
class Saving:
    """One quantity of the dense run and of the plan; savings are fractions of dense."""

    title: str
    unit: str
    dense: Pair
    plan: Pair

    @property
    def predicted(self) -> float | None:
        """None where dense spends nothing."""
        if not self.dense.predicted:
            return None
        return 1 - self.plan.predicted / self.dense.predicted

    @property
    def measured(self) -> float | None:
        """None where it was not measured or dense spends nothing."""
        if not self.dense.measured or self.plan.measured is None:
            return None
        return 1 - self.plan.measured / self.dense.measured

    @property
    def error(self) -> float | None:
        """Predicted minus measured saving, as a difference of fractions."""
        if self.predicted is None or self.measured is None:
            return None
        return self.predicted - self.measured


def device_pairs(run: Run, attribute: str) -> dict[str, Pair]:
    """A quantity of every measured run on the measured device."""
    return {
        name: Pair(
            getattr(run.prediction.this_device[name], attribute), getattr(measured, attribute)
        )
        for name, measured in run.measurement.steps.items()
    }


def device_savings(run: Run) -> dict[str, Saving]:
    """By attribute of `QUANTITIES`: on the measured device, predicted and measured."""
    pairs = {attribute: device_pairs(run, attribute) for _, attribute, _ in QUANTITIES}
    return {
        attribute: Saving(title, unit, pairs[attribute]["dense"], pairs[attribute]["plan"])
        for title, attribute, unit in QUANTITIES
    }


def cluster_savings(predictions: Mapping[str, StepPrediction]) -> dict[str, Saving]:
    """By attribute of `QUANTITIES`: on the plan's cluster, predicted for the runs "dense" and
    "plan"; memory of the fullest device."""
    dense, plan = (predictions[name] for name in ("dense", "plan"))
    return {
        attribute: Saving(
            title, unit, Pair(getattr(dense, attribute)), Pair(getattr(plan, attribute))
        )
        for title, attribute, unit in QUANTITIES
    }


def worst_error(pairs: Mapping[str, Pair]) -> float | None:
    """Largest absolute relative error; None where nothing can be compared."""
    return max((abs(p.error) for p in pairs.values() if p.error is not None), default=None)


def rank_correlation(pairs: Mapping[str, Pair]) -> float | None:
    """Kendall's tau between predicted and measured order; None for fewer than three runs."""
    values = np.array([(p.predicted, p.measured) for p in pairs.values()], dtype=float)
    if len(values) < 3:
        return None
    tau = float(kendalltau(values[:, 0], values[:, 1]).statistic)
    return None if np.isnan(tau) else tau


def accuracy_interval(first: float, second: float, num_test: int) -> float:
    """Half width of the 95 % interval of a difference of two accuracies over `num_test` samples.

    Of two independent binomial proportions, with one success and one failure added to each (Agresti
    and Caffo, The American Statistician 54(4), 2000), so that it is above 0 for 0 % and 100 %, too;
    runs that are tested on the same samples usually differ less by chance. It holds nothing of the
    spread over seeds.
    """
    variance = 0.0
    for accuracy in (first, second):
        shrunk = (accuracy * num_test + 1) / (num_test + 2)
        variance += shrunk * (1 - shrunk) / (num_test + 2)
    return float(1.96 * np.sqrt(variance))


def accuracy_range(accuracy: float, num_test: int) -> tuple[float, float]:
    """The 95 % interval of an accuracy over `num_test` samples (Wilson, JASA 22(158), 1927)."""
    found = binomtest(round(accuracy * num_test), num_test).proportion_ci(method="wilson")
    return float(found.low), float(found.high)
