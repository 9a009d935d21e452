"""Partitioned ranks on gloo against the same step in one process."""

import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from d2ft_sched.exchange import DIRECTIONS, SUBLAYERS, plan_exchange
from runtime.lane_slices import slice_schedule
from runtime.optimizers import create_optimizer
from runtime.partitioned import forward_backward
from runtime.shards import rank_shards
from runtime.weights import save_weights

jobs = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("rank_jobs.py"))))

SEEDS = list(range(12))
WORLDS = [2, 3, 4]
CASES = [(num_ranks, seed) for num_ranks in WORLDS for seed in SEEDS]

Results = Callable[[int, int], list[dict[str, Tensor]]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What every rank got, by number of ranks and seed; all cases are run once."""
    folder = tmp_path_factory.mktemp("ranks")
    for seed in SEEDS:
        save_weights(jobs.draw_case(seed, 2).model, folder / f"model-{seed}.safetensors")
    for num_ranks in WORLDS:
        processes = jobs.start_ranks("equal_steps", num_ranks, folder, seeds=SEEDS)
        for process in processes:
            process.join(120)
        assert [process.exitcode for process in processes] == [0] * num_ranks

    def of(num_ranks: int, seed: int) -> list[dict[str, Tensor]]:
        paths = [folder / f"{num_ranks}-{seed}-{rank}.safetensors" for rank in range(num_ranks)]
        return [load_file(path) for path in paths]

    return of


def assert_close(got: Tensor, wanted: Tensor, name: str) -> None:
    assert got.shape == wanted.shape, name
    if wanted.numel():
        scale = max(float(wanted.abs().max()), 1e-12)
        assert float((got - wanted).abs().max()) <= 1e-6 * scale, name


@pytest.mark.parametrize(("num_ranks", "seed"), CASES)
def test_loss_and_gradients_equal_those_of_one_process(
    results: Results, num_ranks: int, seed: int
) -> None:
    case = jobs.draw_case(seed, num_ranks)
    slices = slice_schedule(case.workload, case.schedules[0], case.num_waves)
    loss = forward_backward(case.model, case.images, case.labels, slices)
    wanted = {name: p.grad for name, p in case.model.named_parameters()}
    for rank, got in enumerate(results(num_ranks, seed)):
        assert float(got["loss"]) == pytest.approx(float(loss), rel=1e-9)
        shards = rank_shards(case.model, case.workload, case.placement, rank)
        held = {name for name in got if name.startswith("gradient.")}
        assert held == {f"gradient.{shard.name}" for shard in shards}
        for shard in shards:
            whole = wanted[shard.name]
            part, scale = got[f"gradient.{shard.name}"], max(float(whole.abs().max()), 1e-12)
            assert part.shape == shard.shape
            assert float((part - shard.take(whole)).abs().max()) <= 1e-6 * scale, shard.name


@pytest.mark.parametrize(("num_ranks", "seed"), CASES)
def test_overlapped_waves_give_the_same(results: Results, num_ranks: int, seed: int) -> None:
    for got in results(num_ranks, seed):
        assert torch.equal(got["overlapped.loss"], got["loss"])
        for name in [name for name in got if name.startswith("gradient.")]:
            overlapped = got[name.replace("gradient.", "overlapped.")]
            assert_close(overlapped, got[name], name)


@pytest.mark.parametrize(("num_ranks", "seed"), CASES)
def test_five_steps_equal_those_of_one_process(results: Results, num_ranks: int, seed: int) -> None:
    case = jobs.draw_case(seed, num_ranks)
    optimizer = create_optimizer(case.model, case.workload.optimizer, lr=jobs.LEARNING_RATE)
    before = {name: p.detach().clone() for name, p in case.model.named_parameters()}
    for schedule in case.schedules:
        optimizer.zero_grad()
        slices = slice_schedule(case.workload, schedule, case.num_waves)
        forward_backward(case.model, case.images, case.labels, slices)
        optimizer.step()
    first, *others = results(num_ranks, seed)
    for name, wanted in case.model.named_parameters():
        assert_close(first[f"full.{name}"], wanted.detach(), name)
    assert any(not torch.equal(first[f"full.{name}"], p) for name, p in before.items())
    assert not any(name.startswith("full.") for got in others for name in got)


@pytest.mark.parametrize(("num_ranks", "seed"), CASES)
def test_bytes_are_those_of_the_plan(results: Results, num_ranks: int, seed: int) -> None:
    case = jobs.draw_case(seed, num_ranks)
    exchange = plan_exchange(case.workload, case.placement, case.schedules[0])
    per_rank = results(num_ranks, seed)

    def counted(name: str) -> Tensor:
        nothing = torch.zeros(num_ranks, dtype=torch.int64)
        return torch.stack([got.get(f"bytes.{name}", nothing) for got in per_rank])

    total = torch.zeros(num_ranks, num_ranks, dtype=torch.int64)
    for d, direction in enumerate(DIRECTIONS):
        for block in range(case.workload.shape.num_blocks):
            wanted = torch.from_numpy(exchange.dispatch_bytes(d, block))
            for sublayer in SUBLAYERS:
                dispatch = counted(f"{direction}.{block}.{sublayer}.dispatch")
                combine = counted(f"{direction}.{block}.{sublayer}.combine")
                assert torch.equal(dispatch, wanted)
                assert torch.equal(combine, wanted.T)
                total += dispatch + combine
    assert torch.equal(total, torch.from_numpy(exchange.pair_bytes()))
    owners, trunk_bytes = case.placement.owners, case.workload.shape.trunk_parameters * 8
    ring = sum(float(got["bytes.all_reduce"].sum()) for got in per_rank)
    assert ring == pytest.approx(2 * (len(owners) - 1) * trunk_bytes)
