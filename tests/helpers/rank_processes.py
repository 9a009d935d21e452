"""Ranks as processes of a test, forked from one that has the slow imports behind it."""

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from analysis import cli
from runtime.ranks.job import Ranks, init_ranks

PRELOADED = [
    "analysis.finetuning.run_from_plan",
    "analysis.validating.run_validation",
    "matplotlib.pyplot",
    "peft",
    "runtime.ranks.rank_step",
    "runtime.ranks.rank_model",
    "scipy.sparse",
    "torchvision.transforms.v2",
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


def d2ft_on_ranks(num_ranks: int, folder: Path, *arguments: object) -> None:
    """Run the command line on ranks of one host, in the environment that torchrun gives them.

    Fails with what a rank wrote to standard error if its exit code is not 0.
    """
    for rank, code in enumerate(codes_of_ranks(num_ranks, folder, *arguments)):
        assert code == 0, (folder / f"stderr-{rank}").read_text()


def codes_of_ranks(
    num_ranks: int, folder: Path, *arguments: object, hosts: Sequence[Path] | None = None
) -> list[int | None]:
    """Exit codes of the command line on ranks, which begin in folders of their own if given."""
    given = {"port": free_port(), "arguments": [*map(str, arguments)], "hosts": hosts}
    processes = start_ranks(run_command, num_ranks, folder, **given)
    for process in processes:
        process.join(timeout=200)
    return [process.exitcode for process in processes]


def endings_on_ranks(
    folder: Path, *commands: Sequence[object], port: int | None = None
) -> tuple[list[int | None], list[str]]:
    """Run a command line on each rank of one host, as `d2ft_on_ranks` does the same on all.

    Returns:
        Exit codes, and the lines to standard error in which d2ft says why it ends.
    """
    texts = [[*map(str, command)] for command in commands]
    given = {"port": port or free_port(), "arguments": texts}
    processes = start_ranks(_own_command, len(commands), folder, **given)
    for process in processes:
        process.join(timeout=200)
    said = [(folder / f"stderr-{rank}").read_text() for rank in range(len(commands))]
    assert not any("Traceback" in text for text in said), said
    lines = [line for text in said for line in text.splitlines() if line.startswith("d2ft: ")]
    return [process.exitcode for process in processes], lines


def _own_command(
    rank: int, num_ranks: int, folder: Path, *, port: int, arguments: Sequence[Sequence[str]]
) -> None:
    run_command(rank, num_ranks, folder, port=port, arguments=arguments[rank])


def run_command(
    rank: int,
    num_ranks: int,
    folder: Path,
    *,
    port: int,
    arguments: Sequence[str],
    hosts: Sequence[Path] | None = None,
) -> None:
    """The command line as one rank, its output in files of `folder`."""
    if hosts is not None:
        os.chdir(hosts[rank])
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(num_ranks),
        "LOCAL_WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    run_alone(rank, num_ranks, folder, arguments=arguments)


def run_alone(rank: int, num_ranks: int, folder: Path, *, arguments: Sequence[str]) -> None:
    """The command line in a process without others, its output in files of `folder`."""
    for stream, name in ((1, "stdout"), (2, "stderr")):
        with open(folder / f"{name}-{rank}", "wb") as file:
            os.dup2(file.fileno(), stream)
    sys.argv = ["d2ft", *arguments]
    cli.main()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def join(
    rank: int, num_ranks: int, folder: Path, timeout_s: float = 60.0, port: int | None = None
) -> Ranks:
    """Meet the others by a file in `folder`, or at rank 0's `port` as under torchrun."""
    method = f"tcp://127.0.0.1:{port}" if port else f"file://{folder}/store-{num_ranks}"
    return init_ranks(
        "cpu", timeout_s=timeout_s, init_method=method, rank=rank, num_ranks=num_ranks
    )


def _run(job: Callable[..., None], *arguments: Any, **options: Any) -> None:
    torch.set_num_threads(1)
    job(*arguments, **options)
