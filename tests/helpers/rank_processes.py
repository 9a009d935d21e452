"""Ranks as processes of a test, joined through a file."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from runtime.ranks import Ranks, init_ranks

PRELOADED = [
    "runtime.rank_step",
    "runtime.rank_model",
    "scipy.sparse",
    "transformers.models.bert.modeling_bert",
]


def start_ranks(
    job: Callable[..., None], num_ranks: int, folder: Path, **options: Any
) -> list[multiprocessing.process.BaseProcess]:
    """Start `num_ranks` processes that call ``job(rank, num_ranks, folder, **options)``."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    started = []
    for rank in range(num_ranks):
        process = context.Process(
            target=_run, args=(job, rank, num_ranks, folder), kwargs=options, daemon=True
        )
        process.start()
        started.append(process)
    return started


def join(rank: int, num_ranks: int, folder: Path, timeout_s: float = 60.0) -> Ranks:
    method = f"file://{folder}/store-{num_ranks}"
    return init_ranks(
        "cpu", timeout_s=timeout_s, init_method=method, rank=rank, num_ranks=num_ranks
    )


def _run(job: Callable[..., None], *arguments: Any, **options: Any) -> None:
    torch.set_num_threads(1)
    job(*arguments, **options)
