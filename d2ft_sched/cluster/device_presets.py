"""Devices from vendors' datasheets, scaled by stated assumptions to what they sustain."""

import warnings
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from d2ft_sched.cluster.device import MOST_MEMORY_BYTES, Device, OutOfCalibrationWarning
from d2ft_sched.errors import InputError
from d2ft_sched.files.quantity import Dimension, parse_quantity

CPU_THREAD = Device(
    name="a thread of a server's processor",
    compute_flops_per_s=5e10,
    memory_bytes=MOST_MEMORY_BYTES,
    memory_bandwidth_bytes_per_s=1e10,
    launch_s=200e-6,
    overlaps=False,
    source="assumed, where nobody says what a device costs; the launch is fitted here: of 100, 200 "
    "and 400 us the one that no random plan of ViT-S at 56 px loses to dense by (AMD EPYC); what "
    "lane groups of ViT-S at 112 px take more in thin slices is the bytes that they move, added",
)
ACCELERATOR = Device(
    name="an accelerator",
    compute_flops_per_s=3e13,
    memory_bytes=MOST_MEMORY_BYTES,
    memory_bandwidth_bytes_per_s=1e12,
    launch_s=60e-6,
    source="assumed, where nobody says what a device costs; a launch of 5 us for each of a dozen "
    "kernels",
)


class OtherPrecisionWarning(OutOfCalibrationWarning):
    """A preset stands in with figures of another precision than was asked for."""


@cache
def _table() -> dict[str, Any]:
    return yaml.safe_load(files("d2ft_sched").joinpath("data/devices.yaml").read_text("utf-8"))


def preset_names() -> tuple[str, ...]:
    """Names that `preset_device` knows."""
    return tuple(_table()["devices"])


def preset_precision(preset: str, wanted: str) -> str:
    """The precision to take a preset's figures in: `wanted`, or float32 with a warning.

    Args:
        preset: one of `preset_names`; of others `preset_device` says that they are not known.
        wanted: that of the workload.
    """
    sheet = _table()["devices"].get(preset)
    if sheet is None or wanted in sheet["peak_flops_per_s"]:
        return wanted
    warnings.warn(
        f"preset {preset} has no figures for {wanted}; those for float32 are used where the "
        f"cluster file says no precision of {', '.join(sheet['peak_flops_per_s'])}",
        OtherPrecisionWarning,
        stacklevel=2,
    )
    return "float32"


def preset_device(
    preset: str,
    name: str,
    *,
    precision: str = "float32",
    efficiency: float | None = None,
    memory_efficiency: float | None = None,
) -> Device:
    """A device from its datasheet.

    Args:
        preset: one of `preset_names`.
        name: of the device in its cluster.
        precision: of the matrix products: float32, tf32, float16 or bfloat16.
        efficiency: sustained fraction of the peak FLOP/s; default an assumption per precision.
        memory_efficiency: the same of the memory bandwidth.

    Raises:
        InputError: unknown preset, or a precision that the device lacks.
    """
    table = _table()
    if preset not in table["devices"]:
        raise InputError(f"preset is {preset!r}; known are {', '.join(preset_names())}")
    sheet, assumed = table["devices"][preset], table["assumptions"]
    if precision not in sheet["peak_flops_per_s"]:
        raise InputError(
            f"precision is {precision!r}; {preset} has figures for "
            f"{', '.join(sheet['peak_flops_per_s'])}"
        )
    peak = parse_quantity(sheet["peak_flops_per_s"][precision], Dimension.FLOPS_PER_S)
    bandwidth = parse_quantity(sheet["memory_bandwidth_bytes_per_s"], Dimension.BYTES_PER_S)
    compute = assumed["compute_efficiency"][precision] if efficiency is None else efficiency
    memory = assumed["memory_efficiency"] if memory_efficiency is None else memory_efficiency
    return Device(
        name=name,
        compute_flops_per_s=peak * compute,
        memory_bytes=round(parse_quantity(sheet["memory_bytes"], Dimension.BYTES)),
        memory_bandwidth_bytes_per_s=bandwidth * memory,
        launch_s=parse_quantity(assumed["launch_s"][sheet["class"]], Dimension.SECONDS),
        power_w=parse_quantity(sheet["power_w"], Dimension.WATTS),
        source=(
            f"{sheet['source']}: {compute:.0%} of {peak / 1e12:g} TFLOP/s ({precision}), "
            f"{memory:.0%} of {bandwidth / 1e9:g} GB/s; fractions assumed; power_w is its limit"
        ),
    )
