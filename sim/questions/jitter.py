"""Devices that are slower at one time than at another: what that makes of the step time."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from d2ft_sched.errors import InputError
from d2ft_sched.files.counted import counted
from d2ft_sched.files.sizes import MOST_DRAWS, check_at_most
from sim.prediction import Prediction
from sim.timetable import phase_times

PerDevice = float | tuple[float, ...]


_WORDS = {
    "phase_sigma": "the spread of phases",
    "step_sigma": "the spread of steps",
    "straggler_probability": "the probability of a straggler",
    "straggler_factor": "the slowness of a straggler",
}
"""What attributes of `Jitter` are called where people read it."""


@dataclass(frozen=True)
class Jitter:
    """Random factors on the computing time of devices, independent of one another.

    A factor is ``exp(sigma * z)`` with z standard normal: lognormal, as often below 1 as above.
    Every attribute is one number for all devices or one for each.

    Attributes:
        phase_sigma: of the factor that a device draws for every phase.
        step_sigma: of the factor that a device draws for a whole step.
        straggler_probability: with which a device is a straggler for a whole step.
        straggler_factor: how many times as long everything takes on a straggler.
    """

    phase_sigma: PerDevice = 0.0
    step_sigma: PerDevice = 0.0
    straggler_probability: PerDevice = 0.0
    straggler_factor: PerDevice = 1.0

    def __post_init__(self) -> None:
        for name, least, most, needed in (
            ("phase_sigma", 0.0, np.inf, "0 or more and finite"),
            ("step_sigma", 0.0, np.inf, "0 or more and finite"),
            ("straggler_probability", 0.0, 1.0, "between 0 and 1"),
            ("straggler_factor", 1.0, np.inf, "1 or more and finite"),
        ):
            for value in np.ravel(getattr(self, name)):
                if not (least <= value <= most and np.isfinite(value)):
                    raise InputError(f"jitter: {_WORDS[name]} is {value}; it must be {needed}")


@dataclass(frozen=True)
class StepTimes:
    """Step times under jitter, in seconds.

    Attributes:
        p50_s, p90_s, p99_s: percentiles.
        mean_s: mean.
        slowdown: mean over the step time without jitter.
        num_steps: how many steps were drawn.
    """

    p50_s: float
    p90_s: float
    p99_s: float
    mean_s: float
    slowdown: float
    num_steps: int


def jittered_step_times(
    prediction: Prediction, jitter: Jitter, num_steps: int = 1000, seed: int = 0
) -> StepTimes:
    """Percentiles of the step time over many steps; arguments as in `jittered_step_seconds`."""
    seconds = jittered_step_seconds(prediction, jitter, num_steps, seed)
    p50_s, p90_s, p99_s = np.percentile(seconds, [50, 90, 99]).tolist()
    mean_s = float(seconds.mean())
    return StepTimes(p50_s, p90_s, p99_s, mean_s, mean_s / prediction.step_s, num_steps)


def jittered_step_seconds(
    prediction: Prediction, jitter: Jitter, num_steps: int, seed: int
) -> np.ndarray:
    """Times of many steps that differ in what their devices draw, float ``[num_steps]``.

    Messages take as long as predicted; phases wait for the slowest device, or overlap, as in the
    prediction.

    Raises:
        InputError: fewer than one step, an attribute of the jitter for another number of devices,
            or so much jitter that steps never end.
    """
    if num_steps < 1:
        raise InputError(f"number of steps is {num_steps}; it must be at least 1")
    num_devices = len(prediction.cluster.devices)
    check_at_most(
        f"{num_steps} steps of {num_devices} devices",
        num_steps * num_devices,
        MOST_DRAWS,
        "draw fewer steps",
    )
    for name in vars(jitter):
        if np.ndim(getattr(jitter, name)) and len(getattr(jitter, name)) != num_devices:
            raise InputError(
                f"jitter: {_WORDS[name]} has {len(getattr(jitter, name))} values; cluster "
                f"{prediction.cluster.name!r} has {counted(num_devices, 'device')}"
            )
    with np.errstate(over="ignore", invalid="ignore"):
        seconds = _drawn_seconds(prediction, jitter, num_steps, np.random.default_rng(seed))
        if not np.isfinite(seconds.sum()):
            raise InputError(
                f"jitter: phase_sigma {jitter.phase_sigma} and straggler_factor "
                f"{jitter.straggler_factor} draw steps without end; ask for less"
            )
    return seconds


def _drawn_seconds(
    prediction: Prediction, jitter: Jitter, num_steps: int, rng: np.random.Generator
) -> np.ndarray:
    """As `jittered_step_seconds`; infinite or NaN where a factor is."""
    shape = (num_steps, len(prediction.cluster.devices))
    of_step = np.exp(jitter.step_sigma * rng.standard_normal(shape))
    is_straggler = rng.random(shape) < jitter.straggler_probability
    of_step = np.where(is_straggler, of_step * jitter.straggler_factor, of_step)

    def device_s() -> Iterator[np.ndarray | None]:
        for phase in prediction.phases:
            if phase.device_s is None:
                yield None
            else:
                noise = np.exp(jitter.phase_sigma * rng.standard_normal(shape))
                yield phase.device_s * of_step * noise

    last_s = np.zeros(num_steps)
    for _, _, end_s in phase_times(
        prediction.cluster, prediction.phases, device_s(), prediction.is_overlapped
    ):
        last_s = np.maximum(last_s, end_s)
    return last_s
