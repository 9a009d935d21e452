"""Partitioned ranks on gloo against the same step in one process."""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor

from d2ft_sched.cluster.cluster import Cluster, Link
from d2ft_sched.cluster.device import Device
from d2ft_sched.costs.exchange import DIRECTIONS, SUBLAYERS, plan_exchange
from d2ft_sched.costs.gradient_sums import gradient_sums
from d2ft_sched.deployment import Deployment
from d2ft_sched.errors import InputError, RankError
from d2ft_sched.schedule.replica_part import replica_parts
from made_once import made_once
from rank_cases import NUM_CASES, Case, draw_case
from rank_jobs import (
    LEARNING_RATE,
    come_alone,
    disagree,
    equal_steps,
    fail,
    save_to_a_full_disk,
)
from rank_processes import free_port, start_ranks
from runtime.lanes.slice_schedule import slice_schedule
from runtime.models.optimizers import create_optimizer
from runtime.models.weights import save_weights
from runtime.partitioned_step import forward_backward
from runtime.ranks.agreement import ALONE
from runtime.ranks.job import Ranks, init_ranks
from runtime.ranks.rank_forward import rank_outputs
from runtime.ranks.rank_model import scatter_rank_model
from runtime.ranks.shards import rank_shards, whole_shards
from runtime.ranks.wave.rank_wave import WavePass
from runtime.torch_device import rank_device
from runtime.training.resting_rows import resting, update
from sim.step import simulate_step

SEEDS = list(range(NUM_CASES))
WORLDS = [2, 3, 4]
CASES = [(num_ranks, seed) for num_ranks in WORLDS for seed in SEEDS]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny products only: threads of several processes on few cores would wait for one another."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def run_job(
    job: Callable[..., None], num_ranks: int, folder: Path, **options: object
) -> list[int | None]:
    """Exit codes of the ranks; one that is still there after its time is killed."""
    processes = start_ranks(job, num_ranks, folder, **options)
    deadline = time.monotonic() + 200
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
    return [process.exitcode for process in processes]


@dataclass(frozen=True)
class Trained:
    """A case, and what one process and its ranks got from it.

    Attributes:
        loss, gradients: of the first step in one process.
        before, after: parameters in one process, around five steps.
        ranks: what every rank got, and rank 0 the whole model besides.
    """

    num_ranks: int
    case: Case
    loss: Tensor
    gradients: dict[str, Tensor | None]
    before: dict[str, Tensor]
    after: dict[str, Tensor]
    ranks: list[dict[str, Tensor]]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(map(str, case)))
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A case that one process has trained; on ranks all cases of a number of them run at once."""
    num_ranks, seed = request.param

    def run(folder: Path) -> None:
        for seed in SEEDS[1::2]:  # of which ranks read their parts from a file
            save_weights(draw_case(seed, 2).model, folder / f"model-{seed}.safetensors")
        assert run_job(equal_steps, num_ranks, folder, seeds=SEEDS) == [0] * num_ranks

    folder = made_once(tmp_path_factory, f"ranks-{num_ranks}", run)
    paths = [folder / f"{num_ranks}-{seed}-{rank}.safetensors" for rank in range(num_ranks)]
    first, *others = map(load_file, paths)
    full = load_file(folder / f"{num_ranks}-{seed}-full.safetensors")
    ranks = [first | {f"full.{name}": tensor for name, tensor in full.items()}, *others]

    case = draw_case(seed, num_ranks)
    before = {name: p.detach().clone() for name, p in case.model.named_parameters()}
    optimizer = create_optimizer(case.model, case.workload.optimizer, lr=LEARNING_RATE)
    of_step = []
    for schedule in case.schedules:
        optimizer.zero_grad()
        slices = slice_schedule(case.workload, schedule, case.replicas[0].num_waves)
        loss = forward_backward(case.model, case.inputs, case.labels, slices)
        if not of_step:
            grads = {name: p.grad for name, p in case.model.named_parameters()}
            of_step += [(loss, {name: g if g is None else g.clone() for name, g in grads.items()})]
        left = resting(case.model, whole_shards(case.model), case.workload, schedule)
        update(optimizer, left)
    after = {name: p.detach() for name, p in case.model.named_parameters()}
    return Trained(num_ranks, case, *of_step[0], before, after, ranks)


def any_cluster(num_devices: int) -> Cluster:
    names = [f"d{i}" for i in range(num_devices)]
    devices = tuple(Device(name, 1e11, 2**33, 1e10) for name in names)
    links = tuple(Link(name, "switch", 1e9, 0.0) for name in names)
    return Cluster("equal", devices, links, ("switch",))


def assert_close(got: Tensor, wanted: Tensor, name: str) -> None:
    assert got.shape == wanted.shape, name
    if wanted.numel():
        scale = max(float(wanted.abs().max()), 1e-9)
        assert float((got - wanted).abs().max()) <= 1e-6 * scale, name


def test_loss_and_gradients_equal_those_of_one_process(trained: Trained) -> None:
    case = trained.case
    for rank, got in enumerate(trained.ranks):
        assert float(got["loss"]) == pytest.approx(float(trained.loss), rel=1e-9)
        shards = rank_shards(case.model, case.workload, case.replicas, rank)
        for shard in shards:
            whole = trained.gradients[shard.name]
            if whole is None:  # it rests; what lies in a bucket with others is zeros
                assert not got.get(f"gradient.{shard.name}", torch.zeros(0)).any(), shard.name
                continue
            part = got.get(f"gradient.{shard.name}")
            if part is None:  # what is held of it rests
                assert not shard.take(whole).any(), shard.name
                continue
            scale = max(float(whole.abs().max()), 1e-9)
            assert part.shape == shard.shape
            assert float((part - shard.take(whole)).abs().max()) <= 1e-6 * scale, shard.name


def test_overlapped_waves_give_the_same(trained: Trained) -> None:
    for got in trained.ranks:
        assert torch.equal(got["overlapped.loss"], got["loss"])
        for name in [name for name in got if name.startswith("gradient.")]:
            overlapped = got[name.replace("gradient.", "overlapped.")]
            assert_close(overlapped, got[name], name)


def test_five_steps_equal_those_of_one_process(trained: Trained) -> None:
    case, first = trained.case, trained.ranks[0]
    for name, wanted in trained.after.items():
        assert_close(first[f"full.{name}"], wanted, name)
    assert any(not torch.equal(first[f"full.{name}"], p) for name, p in trained.before.items())
    for rank, got in enumerate(trained.ranks):
        shards = rank_shards(case.model, case.workload, case.replicas, rank)
        assert {n for n in got if n.startswith("held.")} == {f"held.{s.name}" for s in shards}
        for shard in shards:
            wanted = shard.take(trained.after[shard.name])
            assert_close(got[f"held.{shard.name}"], wanted, shard.name)


def test_bytes_are_those_of_the_plan(trained: Trained) -> None:
    num_ranks, case = trained.num_ranks, trained.case
    exchanges = [
        plan_exchange(part.workload, part.placement, part.schedule)
        for part in replica_parts(case.workload, case.replicas, case.schedules[0])
    ]

    def counted(name: str) -> Tensor:
        nothing = torch.zeros(num_ranks, dtype=torch.int64)
        return torch.stack([got.get(f"bytes.{name}", nothing) for got in trained.ranks])

    total = torch.zeros(num_ranks, num_ranks, dtype=torch.int64)
    for d, direction in enumerate(DIRECTIONS):
        for block in range(case.workload.shape.num_blocks):
            wanted = torch.from_numpy(sum(e.dispatch_bytes(d, block) for e in exchanges))
            for sublayer in SUBLAYERS:
                dispatch = counted(f"{direction}.{block}.{sublayer}.dispatch")
                combine = counted(f"{direction}.{block}.{sublayer}.combine")
                assert torch.equal(dispatch, wanted)
                assert torch.equal(combine, wanted.T)
                total += dispatch + combine
    assert torch.equal(total, torch.from_numpy(sum(e.pair_bytes() for e in exchanges)))
    sums = gradient_sums(case.workload, case.replicas, case.schedules[0])
    ring = torch.zeros(num_ranks, num_ranks, dtype=torch.float64)
    for one in sums:
        num_members = len(one.members)
        for place, member in enumerate(one.members):
            following = one.members[(place + 1) % num_members]
            ring[member, following] += 16 * (num_members - 1) * one.num_values / num_members
    assert_close(counted("all_reduce"), ring, "bytes of sums")
    predicted = simulate_step(
        Deployment(case.workload, any_cluster(num_ranks), case.replicas), case.schedules[0]
    )
    assert_close(total + ring, torch.from_numpy(predicted.pair_bytes), "the simulator's bytes")


@pytest.mark.parametrize(
    ("culprit", "how", "timeout_s"),
    [
        (1, "dies", 60.0),
        (0, "dies", 60.0),
        (2, "hangs", 2.0),
        (1, "hangs", 2.0),
        (0, "freezes", 2.0),
    ],
)
def test_a_rank_that_fails_ends_the_others_with_one_line(
    culprit: int, how: str, timeout_s: float, tmp_path: Path
) -> None:
    given = {"culprit": culprit, "how": how, "timeout_s": timeout_s, "port": free_port()}
    processes = start_ranks(fail, 3, tmp_path, **given)
    survivors = [rank for rank in range(3) if rank != culprit]
    for rank in survivors:
        processes[rank].join(100)
        assert processes[rank].exitcode == 0
    processes[culprit].kill()
    processes[culprit].join()
    said = [(tmp_path / f"said-{rank}").read_text().partition(" ") for rank in survivors]
    keeps_the_store = culprit == 0
    assert sorted(speaks for speaks, _, _ in said) == [str(keeps_the_store), "True"]
    pattern = (
        f"rank {culprit} ended or did not answer within {timeout_s:g} s during .*; the job ends"
    )
    assert all(re.fullmatch(pattern, line) for _, _, line in said)


def test_one_of_several_silent_ranks_is_blamed_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.ranks.job.GRACE_OF_MANY_S", 0.2)
    store, said = dist.HashStore(), []
    for rank in (3, 1):
        with (
            pytest.raises(RankError) as failure,
            Ranks(rank, 5, torch.device("cpu"), 1.0, store).watched("a sum"),
        ):
            raise RuntimeError
        said.append((failure.value.speaks, str(failure.value).partition(" ended")[0]))
    assert said == [
        (True, "at least one of ranks 0, 1, 2, 4"),
        (False, "at least one of ranks 0, 2, 4"),
    ]


def test_a_file_that_cannot_be_written_ends_all_ranks_at_once(tmp_path: Path) -> None:
    begin = time.monotonic()
    assert run_job(save_to_a_full_disk, 3, tmp_path) == [0] * 3
    assert time.monotonic() - begin < 40
    said = [(tmp_path / f"said-{rank}").read_text() for rank in range(3)]
    assert said[0].startswith("InputError")
    assert "File too large" in said[0]
    assert said[1] == said[2] == said[0].replace("InputError", "RankError")


@pytest.mark.parametrize(
    ("variable", "text"),
    [("MASTER_ADDR", None), ("MASTER_PORT", ""), ("RANK", "2"), ("WORLD_SIZE", "two")],
)
def test_a_launcher_environment_that_is_not_whole_is_one_line(
    variable: str, text: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for name, value in (whole | {variable: text}).items():
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=f"^{variable} is "):
        init_ranks("cpu", timeout_s=1.0)


def test_ranks_of_one_host_do_not_share_a_cuda_device() -> None:
    with pytest.raises(InputError, match="device is 'cuda:0', for 2 ranks of this host"):
        rank_device("cuda:0", 0, 2)


def test_evaluation_keeps_no_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    case, kept = draw_case(6, 1), []
    after_lanes = WavePass._after_lanes

    def spied(one: WavePass, *given: Any) -> Tensor:
        stream = after_lanes(one, *given)
        kept.append(given[-1])
        return stream

    monkeypatch.setattr(WavePass, "_after_lanes", spied)
    model = scatter_rank_model(case.model, case.workload, case.replicas, ALONE)
    owner_of = np.zeros(len(case.labels), dtype=int)
    list(
        rank_outputs(
            model, owner_of, lambda passes: (case.inputs[rows] for rows in passes), case.key_mask
        )
    )
    assert [one.norm_graph for one in kept] == [None] * 6


def test_ranks_that_disagree_are_named(tmp_path: Path) -> None:
    assert run_job(disagree, 3, tmp_path) == [0] * 3
    said = [(tmp_path / f"said-{rank}").read_text().splitlines() for rank in range(3)]
    assert said[0] == said[1] == said[2]
    model, plan, devices, same = said[0]
    assert model == "rank 1 has another model than rank 0"
    assert plan == "ranks 1, 2 have another plan file than rank 0"
    assert devices.startswith("the plan is for 4 devices; this job has 3 ranks")
    assert same == "agreed"


def test_a_rank_whose_fellows_never_come_says_so(tmp_path: Path) -> None:
    assert run_job(come_alone, 1, tmp_path) == [0]
    said = (tmp_path / "said-0").read_text()
    assert re.match(r"True rank 0 did not find all 2 ranks within 2 s \(.*\)$", said)
