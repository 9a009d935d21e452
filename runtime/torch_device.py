"""Everything that differs between CPU and CUDA, in one place."""

import contextlib
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from d2ft_sched.cluster.device import Device
from d2ft_sched.cluster.device_presets import ACCELERATOR, CPU_THREAD
from d2ft_sched.errors import InputError
from d2ft_sched.files.counted import counted
from d2ft_sched.model.workload import ELEMENT_BYTES, Workload


def select_device(name: str = "auto") -> torch.device:
    """``cpu``, ``cuda``, ``cuda:N``, or with ``auto`` CUDA where there is any.

    Raises:
        InputError: another name, or a device that this machine or this torch does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise InputError(f"device is {name!r}; it must be auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device {name!r} is not there; torch sees {torch.cuda.device_count()} CUDA devices"
        )
    return device


def assumed_device(device: torch.device) -> Device:
    """What things cost on a device that nobody has profiled, to tell what should run together."""
    if device.type == "cpu":
        return replace(CPU_THREAD, compute_flops_per_s=5e10 * torch.get_num_threads())
    return ACCELERATOR


def rank_device(name: str, local_rank: int, num_local: int = 1) -> torch.device:
    """The device of a rank: ``cpu``, or with ``cuda`` or ``auto`` one of its host's for each rank.

    Args:
        name: as for `select_device`.
        local_rank: of this process among those of its host.
        num_local: ranks of this host.

    Raises:
        InputError: as `select_device`; the host has fewer CUDA devices than ranks, or all its
            ranks were to share one.
    """
    if num_local > 1 and name.startswith("cuda:"):
        raise InputError(
            f"device is {name!r}, for {counted(num_local, 'rank')} of this host; with cuda "
            f"each takes one of its own"
        )
    device = select_device(name)
    if device.type == "cuda" and device.index is None:
        device = select_device(f"cuda:{local_rank}")
        torch.cuda.set_device(device)
    return device


def backend_of(device: torch.device) -> str:
    """The backend of `torch.distributed` for messages of this device's tensors."""
    return "nccl" if device.type == "cuda" else "gloo"


def device_name(device: torch.device) -> str:
    """The processor's own name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def memory_bytes(device: torch.device) -> int:
    """Memory of the device; for a CPU that of the host, or of its control group if less."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return min(host, int(text)) if text.isdigit() else host


def num_processors() -> int:
    """Processors of the host that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_bytes(device: torch.device) -> int:
    """The most that has been in use so far: of tensors on CUDA, by the whole process on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else 1024 * used


def autocast(
    device: torch.device, workload: Workload, half: torch.dtype = torch.bfloat16
) -> AbstractContextManager[object]:
    """Mixed precision where messages and lanes of the workload have two bytes, or nothing."""
    if workload.element_bytes != ELEMENT_BYTES["bfloat16"]:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=half)


def check_float16(device: torch.device) -> None:
    """Refuse float16 where it brings nothing.

    Raises:
        InputError: the device is a CPU.
    """
    if device.type != "cuda":
        raise InputError(
            "--amp-dtype float16 is for CUDA devices; a CPU computes it slower than float32: take "
            "bfloat16"
        )


@contextlib.contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """What products of float32 matrices may round their factors to, for as long as this lasts.

    With ``medium`` a processor that multiplies bf16 matrices (AMX) uses that and adds up in
    float32; tensors stay float32, so no step converts weights as autocast does. The fused attention
    of CPUs takes ten times its time then (torch 2.14.1, 17 tokens), so plain products replace it.

    Args:
        precision: ``highest`` (float32) or ``medium`` (bf16), torch's own names.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    plain = sdpa_kernel(SDPBackend.MATH) if precision != "highest" else contextlib.nullcontext()
    try:
        with plain:
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def set_threads(number: int | None) -> None:
    """Threads that torch computes with on a CPU; None leaves them as they are."""
    if number is not None:
        torch.set_num_threads(number)


def num_threads() -> int:
    """Threads that torch computes with on a CPU."""
    return torch.get_num_threads()


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def record(device: torch.device, run: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], Any]:
    """Record what `run` asks of a CUDA device as a CUDA graph.

    It is run first without being recorded, as libraries set themselves up at their first use;
    random numbers go on from where they were before.

    Args:
        device: CUDA.
        run: waits for nothing that the device computes, and leaves its results where they are.

    Returns:
        What replays it, and what `run` returned, which every replay overwrites.
    """
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.random.fork_rng([device]), torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        made = run()
    return graph.replay, made


class Stopwatch:
    """Seconds between laps: CUDA events, which do not hold up the step, or the host's clock."""

    def __init__(
        self, device: torch.device, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """Without laps yet; `clock` tells seconds where the device has no events of its own."""
        self._device, self._clock = device, clock
        self._laps: list[tuple[str, Any]] = []

    def lap(self, name: str) -> None:
        """What was asked of the device since the last lap belongs to `name`."""
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self._device))
            self._laps.append((name, event))
        else:
            self._laps.append((name, self._clock()))

    def seconds(self) -> dict[str, float]:
        """Seconds by name, laps of one name added up; the first lap only starts the clock."""
        synchronize(self._device)
        total: dict[str, float] = {}
        for (_, start), (name, stop) in zip(self._laps, self._laps[1:], strict=False):
            on_cuda = self._device.type == "cuda"
            seconds = start.elapsed_time(stop) / 1e3 if on_cuda else stop - start
            total[name] = total.get(name, 0.0) + seconds
        return total
