"""Tensor parallelism on gloo ranks against the untouched model in one process."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from rank_cases import draw_case
from rank_jobs import tensor_parallel_shards, tensor_parallel_step
from rank_processes import start_ranks

WIDTHS = [(4,), (2, 2), (1, 3), (2, 0, 2)]


@pytest.mark.parametrize("num_heads", WIDTHS)
def test_loss_gradients_and_bytes(num_heads: tuple[int, ...], tmp_path: Path) -> None:
    num_ranks = len(num_heads)
    processes = start_ranks(tensor_parallel_step, num_ranks, tmp_path, num_heads=num_heads)
    for process in processes:
        process.join(100)
    assert [process.exitcode for process in processes] == [0] * num_ranks

    case = draw_case(1, num_ranks)
    loss = F.cross_entropy(case.model(case.inputs), case.labels)
    loss.backward()
    wanted = {name: p.grad for name, p in case.model.named_parameters()}
    members = [rank for rank, num in enumerate(num_heads) if num]
    seen = set()
    for rank in range(num_ranks):
        got = load_file(tmp_path / f"tensor-parallel-{rank}.safetensors")
        if rank not in members:
            assert not any(name.startswith("gradient.") for name in got)
            continue
        assert float(got["loss"]) == pytest.approx(float(loss), rel=1e-9)
        for shard in tensor_parallel_shards(case, num_heads)[rank]:
            whole = shard.take(wanted[shard.name])
            scale = max(float(wanted[shard.name].abs().max()), 1e-12)
            part = got[f"gradient.{shard.name}"]
            assert part.shape == whole.shape
            assert float((part - whole).abs().max()) <= 1e-6 * scale, shard.name
            seen.add(shard.name)
        activations = case.inputs.shape[0] * case.workload.shape.num_tokens * 32 * 8
        per_all_reduce = 2 * (len(members) - 1) / len(members) * activations
        sent = 4 * case.workload.shape.num_blocks * per_all_reduce
        assert float(got["bytes"].sum()) == pytest.approx(sent)
    assert seen == set(wanted)
    assert torch.isfinite(loss)
