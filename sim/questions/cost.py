"""Price and energy of a step, where the cluster says what its devices cost and draw."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sim.prediction import Prediction

SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class StepCost:
    """What one step costs on all devices of a cluster, used or not; None where that is not known.

    Attributes:
        price: `Device.price_per_hour` times the step, in the currency of the cluster file.
        busy_energy_j: `Device.power_w` while computing, joules; an upper bound where that is a
            datasheet's limit, as in presets.
        idle_energy_j: `Device.idle_power_w` for the rest of the step, joules.
    """

    price: float | None
    busy_energy_j: float | None
    idle_energy_j: float | None

    @property
    def energy_j(self) -> float | None:
        """Joules of the devices, computing and idle; without switches and hosts."""
        if self.busy_energy_j is None or self.idle_energy_j is None:
            return None
        return self.busy_energy_j + self.idle_energy_j

    def summary(self) -> dict[str, Any]:
        """What is known, per step and per 1,000 steps; {} if nothing."""
        per_step = {
            "price": self.price,
            "busy_energy_j": self.busy_energy_j,
            "idle_energy_j": self.idle_energy_j,
            "energy_j": self.energy_j,
        }
        known = {name: value for name, value in per_step.items() if value is not None}
        per_1000 = {f"{name}_per_1000_steps": 1000 * value for name, value in known.items()}
        return {**known, **per_1000}


def step_cost(prediction: Prediction) -> StepCost:
    """The cost of a step over all devices: the sums of `device_cost`, where no device lacks it."""
    table = device_cost(prediction)

    def total(column: str) -> float | None:
        values = table[column].to_numpy()
        return None if np.isnan(values).any() else float(values.sum())

    return StepCost(total("price"), total("busy_energy_j"), total("idle_energy_j"))


def device_cost(prediction: Prediction) -> pd.DataFrame:
    """One row per device. Columns: device, price, busy_energy_j, idle_energy_j, as in `StepCost`;
    NaN where the device does not say."""
    devices = prediction.cluster.devices
    busy_s, idle_s = prediction.device_busy_s, prediction.device_idle_s

    def stated(values: list[float | None]) -> np.ndarray:
        return np.array([np.nan if v is None else v for v in values])

    return pd.DataFrame(
        {
            "device": [d.name for d in devices],
            "price": stated([d.price_per_hour for d in devices])
            * (prediction.step_s / SECONDS_PER_HOUR),
            "busy_energy_j": np.where(
                busy_s > 0, stated([d.power_w for d in devices]) * busy_s, 0.0
            ),
            "idle_energy_j": stated([d.idle_power_w for d in devices]) * idle_s,
        }
    )
