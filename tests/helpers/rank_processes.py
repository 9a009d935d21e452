"""Ranks as processes of a test, forked from one that has the slow imports behind it."""

import atexit
import faulthandler
import gc
import json
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Sequence
from multiprocessing import forkserver, resource_tracker, util
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

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


def serve_ranks() -> None:
    """Fork the server of ranks from this process, whose imports it need not repeat.

    For a process that has no threads or process groups of torch yet: before the tests run.
    """
    cli.command()
    gc.collect()
    gc.freeze()  # pages that the collector writes to are copied in every rank
    _context()
    resource_tracker.ensure_running()
    with patch.object(util, "spawnv_passfds", _forked_server):
        forkserver.ensure_running()


def _forked_server(path: str, arguments: Sequence[str], passed: Sequence[int]) -> int:
    """What `multiprocessing` starts in a new interpreter, in a fork of this one; its number."""
    pid = os.fork()
    if pid:
        return pid
    try:
        atexit._clear()
        faulthandler.disable()
        nowhere = os.open(os.devnull, os.O_RDWR)  # for what still writes to files of this process
        for descriptor in map(int, os.listdir("/dev/fd")):
            if descriptor not in (0, 1, 2, nowhere, *passed):
                os.dup2(nowhere, descriptor)
        sys.stdout, sys.stderr = (open(fd, "w", buffering=1, closefd=False) for fd in (1, 2))  # noqa: SIM115
        exec(arguments[-1], {})
    finally:
        os._exit(0)


def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def start_ranks(
    job: Callable[..., None], num_ranks: int, folder: Path, **options: Any
) -> list[multiprocessing.process.BaseProcess]:
    """Start `num_ranks` processes that call ``job(rank, num_ranks, folder, **options)``."""
    context = _context()
    started = []
    for rank in range(num_ranks):
        process = context.Process(
            target=_run, args=(job, rank, num_ranks, folder), kwargs=options, daemon=True
        )
        process.start()
        started.append(process)
    return started


def said_by_ranks(
    job: Callable[..., None], num_ranks: int, folder: Path, **options: Any
) -> list[Any]:
    """What each rank of a job leaves in ``said-RANK.json`` of a folder; all of them have to end."""
    processes = start_ranks(job, num_ranks, folder, **options)
    for process in processes:
        process.join(300)
        if process.is_alive():
            process.kill()
    assert [process.exitcode for process in processes] == [0] * num_ranks
    return [json.loads((folder / f"said-{rank}.json").read_text()) for rank in range(num_ranks)]


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
    _redirect(folder, rank)
    sys.argv = ["d2ft", *arguments]
    cli.main()


def torchrun(num_ranks: int, folder: Path, *arguments: object) -> Any:
    """Start the command line on ranks under torchrun's own agent; the agent's process.

    They begin as forks, where ``torchrun`` starts programs; output is in files of `folder`.
    """
    given = {"num_workers": num_ranks, "arguments": [*map(str, arguments)]}
    (agent,) = start_ranks(_agent, 1, folder, **given)
    return agent


def _agent(
    rank: int, num_ranks: int, folder: Path, *, num_workers: int, arguments: Sequence[str]
) -> None:
    multiprocessing.current_process().daemon = False  # it has processes of its own
    _redirect(folder, rank)
    config = LaunchConfig(
        1, 1, num_workers, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
        run_id=str(os.getpid()), max_restarts=0, start_method="fork",
    )  # fmt: skip
    sys.argv = ["d2ft", *arguments]
    # What its records call the agent's methods by reads the sources of all modules.
    with patch("torch.distributed.elastic.rendezvous.dynamic_rendezvous.get_method_name"):
        elastic_launch(config, cli.main)()


def _redirect(folder: Path, rank: int) -> None:
    for stream, name in ((1, "stdout"), (2, "stderr")):
        with open(folder / f"{name}-{rank}", "wb") as file:
            os.dup2(file.fileno(), stream)


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
    """A job whose threads do not interrupt one another: that of gloo spins while another of its
    process, which it has interrupted, holds what it waits for. It may start processes of its own,
    as ranks do to read pictures."""
    multiprocessing.current_process()._config["daemon"] = False
    if hasattr(os, "SCHED_BATCH"):  # Linux
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    torch.set_num_threads(1)
    job(*arguments, **options)
