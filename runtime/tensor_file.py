"""Safetensors files written one tensor after another, so that no whole state is in memory."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""As safetensors calls them."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and type of a tensor to come."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def is_finite(tensor: Tensor) -> bool:
    """Whether all its values are numbers, no infinity or NaN; one pass, nothing is copied."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    return bool(torch.isfinite(torch.stack(torch.aminmax(tensor.detach()))).all())


def write_tensors(
    path: Path,
    specs: Sequence[TensorSpec],
    tensors: Iterable[Tensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a safetensors file.

    Args:
        path: the file.
        specs: what is in it, in order of writing.
        tensors: one for each of `specs`, in that order, on any device; each is asked for when those
            before it are written.
        metadata: texts by name.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    offset = 0
    for spec in specs:
        stop = offset + spec.num_bytes
        header[spec.name] = {
            "dtype": DTYPE_NAMES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [offset, stop],
        }
        offset = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for spec, tensor in zip(specs, tensors, strict=True):
            assert tuple(tensor.shape) == spec.shape, spec.name
            assert tensor.dtype == spec.dtype, spec.name
            plain = tensor.detach().cpu().contiguous().reshape(-1)
            file.write(plain.view(torch.uint8).numpy().data)


def write_state(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write a safetensors file of these tensors, by their names."""
    specs = [TensorSpec(name, tuple(t.shape), t.dtype) for name, t in state.items()]
    write_tensors(path, specs, state.values())
