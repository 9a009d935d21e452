"""Tensor parallelism on gloo ranks against the untouched model in one process."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rank_cases import draw_case
from rank_jobs import tensor_parallel_shards, tensor_parallel_step
from rank_processes import start_ranks
from runtime.families.known_families import family_of

VIT, NORMED_QUERIES_AND_KEYS = 1, 23
"""Seeds of cases."""


@pytest.mark.parametrize(
    ("seed", "num_heads"),
    [
        (VIT, (4,)),
        (VIT, (2, 2)),
        (VIT, (1, 3)),
        (VIT, (2, 0, 2)),
        (NORMED_QUERIES_AND_KEYS, (1, 3)),
    ],
)
def test_loss_gradients_and_bytes(seed: int, num_heads: tuple[int, ...], tmp_path: Path) -> None:
    num_ranks = len(num_heads)
    processes = start_ranks(
        tensor_parallel_step, num_ranks, tmp_path, num_heads=num_heads, seed=seed
    )
    for process in processes:
        process.join(100)
    assert [process.exitcode for process in processes] == [0] * num_ranks

    case = draw_case(seed, num_ranks)
    family = family_of(case.model)
    seen_by_head = family.whole_features(case.model, case.inputs)
    num_counted = family.num_counted(case.labels).sum()
    loss = family.loss(case.model, seen_by_head, case.labels) / num_counted
    loss.backward()
    wanted = {name: p.grad for name, p in case.model.named_parameters()}
    members = [rank for rank, num in enumerate(num_heads) if num]
    seen = set()
    for rank in range(num_ranks):
        got = load_file(tmp_path / f"tensor-parallel-{rank}.safetensors")
        if rank not in members:
            assert not any(name.startswith("gradient.") for name in got)
            continue
        assert float(got["loss"]) == pytest.approx(loss.item(), rel=1e-9)
        for shard in tensor_parallel_shards(case, num_heads)[rank]:
            whole = shard.take(wanted[shard.name])
            scale = max(float(wanted[shard.name].abs().max()), 1e-12)
            part = got[f"gradient.{shard.name}"]
            assert part.shape == whole.shape
            assert float((part - whole).abs().max()) <= 1e-6 * scale, shard.name
            seen.add(shard.name)
        shape = case.workload.shape
        activations = case.inputs.shape[0] * shape.num_tokens * shape.width * 8
        norms = sum(
            p.numel() * 8
            for sublayers in family.blocks(case.model)
            for sublayer in sublayers
            for p in sublayer.core_parameters
        )
        of_ring = 2 * (len(members) - 1) / len(members)
        sent = of_ring * (4 * shape.num_blocks * activations + norms)
        assert float(got["bytes"].sum()) == pytest.approx(sent)
    assert seen == set(wanted)
    assert torch.isfinite(loss)
