"""A device as it stands in files: in a cluster file's list, or in a file of its own."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field

from d2ft_sched.cluster.compute_curve import ComputeCurve, WorkKind
from d2ft_sched.cluster.device import Device
from d2ft_sched.cluster.device_presets import preset_device, preset_precision
from d2ft_sched.errors import InputError
from d2ft_sched.files.atomic_write import write_text
from d2ft_sched.files.schema import (
    Bytes,
    BytesPerS,
    FlopsPerS,
    Number,
    Seconds,
    StrictModel,
    Watts,
    read_yaml,
    validate,
)

Efficiency = Annotated[Number, Field(gt=0, le=1)]
_REQUIRED = ("compute_flops_per_s", "memory_bytes", "memory_bandwidth_bytes_per_s")
_OPTIONAL = ("launch_s", "overlaps", "price_per_hour", "power_w", "idle_power_w", "source")


class DeviceFileError(InputError):
    """A device file that cannot be used; one line: file, field, value and what would be right."""


class CurveSchema(StrictModel):
    """Measured points of one kind of work; see `ComputeCurve`."""

    work: list[Number]
    seconds: list[Number]


class DeviceSchema(StrictModel):
    """Fields of a device; with `preset` or `file` any of them may be left to that."""

    name: str
    preset: str | None = None
    precision: str | None = None
    efficiency: Efficiency | None = None
    memory_efficiency: Efficiency | None = None
    file: str | None = None
    compute_flops_per_s: FlopsPerS | None = None
    memory_bytes: Bytes | None = None
    memory_bandwidth_bytes_per_s: BytesPerS | None = None
    launch_s: Seconds | None = None
    overlaps: bool | None = None
    curves: dict[str, CurveSchema] | None = None
    price_per_hour: Annotated[Number, Field(ge=0, allow_inf_nan=False)] | None = None
    power_w: Watts | None = None
    idle_power_w: Watts | None = None
    source: str | None = None


def device_from_schema(
    schema: DeviceSchema,
    where: str,
    folder: Path,
    outer: tuple[Path, ...] = (),
    precision: str = "float32",
) -> Device:
    """The device that a schema describes.

    Args:
        schema: its fields.
        where: how errors name it, such as ``devices[2]``.
        folder: what a relative `file` is relative to.
        outer: device files that this one is part of.
        precision: of a preset that says none.

    Raises:
        InputError: fields are missing or do not go together.
    """
    given: dict[str, Any] = {
        field: value
        for field in (*_REQUIRED, *_OPTIONAL)
        if (value := getattr(schema, field)) is not None
    }
    if schema.memory_bytes is not None:
        given["memory_bytes"] = round(schema.memory_bytes)
    if schema.curves is not None:
        given["curves"] = _curves(schema.curves, where)
    base = _base(schema, where, folder, outer, precision)
    if base is not None:
        return Device(**{**vars(base), **given, "name": schema.name})
    for field in _REQUIRED:
        if field not in given:
            raise InputError(f"{where}.{field} is missing; give it, or a preset or file")
    return Device(name=schema.name, **given)


def _base(
    schema: DeviceSchema, where: str, folder: Path, outer: tuple[Path, ...], precision: str
) -> Device | None:
    if schema.preset is not None and schema.file is not None:
        raise InputError(f"{where} has both preset and file; give one of them")
    if schema.preset is None:
        for field in ("precision", "efficiency", "memory_efficiency"):
            if field in schema.model_fields_set:
                raise InputError(f"{where}.{field} goes with a preset; there is none")
    if schema.file is not None:
        try:
            return _load(folder / schema.file, outer, precision)
        except DeviceFileError as error:
            raise InputError(f"{where}.file: {error}") from None
    if schema.preset is None:
        return None
    try:
        return preset_device(
            schema.preset,
            schema.name,
            precision=schema.precision or preset_precision(schema.preset, wanted=precision),
            efficiency=schema.efficiency,
            memory_efficiency=schema.memory_efficiency,
        )
    except InputError as error:
        raise InputError(f"{where}.{error}") from None


def _curves(schemas: Mapping[str, CurveSchema], where: str) -> dict[WorkKind, ComputeCurve]:
    curves = {}
    for kind, points in schemas.items():
        if kind not in list(WorkKind):
            raise InputError(
                f"{where}.curves.{kind} is not a kind of work; known are {', '.join(WorkKind)}"
            )
        try:
            curves[WorkKind(kind)] = ComputeCurve(tuple(points.work), tuple(points.seconds))
        except InputError as error:
            raise InputError(f"{where}.curves.{kind}: {error}") from None
    return curves


def device_to_dict(device: Device) -> dict[str, Any]:
    """Plain values that `DeviceSchema` reads back exactly; unset fields are left out."""
    content: dict[str, Any] = {
        field: value
        for field in ("name", *_REQUIRED, *_OPTIONAL)
        if (value := getattr(device, field)) not in (None, "") and value is not True
    }
    if device.curves:
        content["curves"] = {
            str(kind): {"work": list(curve.work), "seconds": list(curve.seconds)}
            for kind, curve in device.curves.items()
        }
    return content


def load_device(path: Path) -> Device:
    """Read a device file, such as ``d2ft profile`` writes.

    Raises:
        DeviceFileError: one line that names the file and what is wrong.
    """
    return _load(Path(path), ())


def _load(path: Path, outer: tuple[Path, ...], precision: str = "float32") -> Device:
    try:
        schema = validate(DeviceSchema, read_yaml(path))
        if Path(os.path.realpath(path)) in outer:
            raise InputError("is its own base; a device file must not lead back to itself")
        inner = (*outer, Path(os.path.realpath(path)))
        return device_from_schema(schema, "device", path.parent, inner, precision)
    except InputError as error:
        raise DeviceFileError(f"{path}: {error}") from None


def dump_device(device: Device, path: Path) -> None:
    """Write a device file, atomically."""
    write_text(path, yaml.safe_dump(device_to_dict(device), sort_keys=False))
