"""Every parameter value is held where its subnets are, and read alone from a file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from d2ft_sched.costs.parameters import device_parameters
from d2ft_sched.errors import InputError
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.replica import Replica
from runtime.models.weights import save_weights
from runtime.ranks.shards import rank_shards, read_shards

SLICED = (
    "attn.qkv.weight",
    "attn.qkv.bias",
    "attn.proj.weight",
    "mlp.fc1.weight",
    "mlp.fc1.bias",
    "mlp.fc2.weight",
)


def placement_of(workload: Workload, num_devices: int, seed: int) -> Placement:
    """Random subnets; the last device owns nothing, the first holds nothing of block 0."""
    rng = np.random.default_rng(seed)
    device = rng.integers(num_devices, size=workload.num_subnets)
    device[(workload.partition.block == 0) & (device == 0)] = num_devices - 1
    owner = rng.integers(num_devices - 1, size=workload.num_microbatches)
    return Placement(num_devices, tuple(map(int, device)), tuple(map(int, owner)))


@pytest.mark.parametrize("seed", range(5))
def test_shards_cover_the_model_and_nothing_twice(
    small_vit: Callable[..., VisionTransformer],
    workload_of: Callable[..., Workload],
    seed: int,
    tmp_path: Path,
) -> None:
    model = small_vit(init_values=0.1)
    workload = workload_of(model, (1, 3, 2))
    placement = placement_of(workload, 4, seed)
    path = tmp_path / "model.safetensors"
    save_weights(model, path)
    state = model.state_dict()
    counts = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    joined = {name: torch.full_like(tensor, torch.nan) for name, tensor in state.items()}
    for rank in range(4):
        shards = rank_shards(model, workload, (Replica(placement),), rank)
        parts = read_shards(path, shards, torch.float64)
        num_values = 0
        for shard in shards:
            assert tuple(parts[shard.name].shape) == shard.shape
            assert torch.equal(parts[shard.name], shard.take(state[shard.name]))
            num_values += parts[shard.name].numel()
            part_of_count = shard.take(counts[shard.name])
            shard.put(part_of_count + 1, counts[shard.name])
        assert num_values == device_parameters(workload, placement)[rank]
        for shard in shards:
            shard.put(parts[shard.name], joined[shard.name])
    num_owners = len(placement.owners)
    for name, count in counts.items():
        is_sliced = name.partition(".")[2].partition(".")[2] in SLICED
        assert (count == (1 if is_sliced else num_owners)).all(), name
        assert torch.equal(joined[name], state[name])


def test_a_rank_without_work_holds_nothing(
    small_vit: Callable[..., VisionTransformer], workload_of: Callable[..., Workload]
) -> None:
    model = small_vit()
    workload = workload_of(model, 2)
    placement = Placement(2, (0,) * workload.num_subnets, (0,) * workload.num_microbatches)
    assert rank_shards(model, workload, (Replica(placement),), 1) == ()
    assert len(rank_shards(model, workload, (Replica(placement),), 0)) == len(
        list(model.parameters())
    )


def test_a_file_that_does_not_fit_is_named(
    small_vit: Callable[..., VisionTransformer],
    workload_of: Callable[..., Workload],
    tmp_path: Path,
) -> None:
    model = small_vit()
    workload = workload_of(model, 2)
    placement = Placement(1, (0,) * workload.num_subnets, (0,) * workload.num_microbatches)
    shards = rank_shards(model, workload, (Replica(placement),), 0)
    path = tmp_path / "model.safetensors"
    with pytest.raises(InputError, match="there is no such file"):
        read_shards(path, shards, torch.float64)
    save_weights(small_vit(num_classes=7), path)
    with pytest.raises(InputError, match=r"head.weight has shape \[7, 48\]; the model needs \[5"):
        read_shards(path, shards, torch.float64)
    save_weights(small_vit(depth=2), path)
    with pytest.raises(InputError, match=r"lacks tensor blocks.2.norm1.weight \[48\]"):
        read_shards(path, shards, torch.float64)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="is not a whole safetensors file"):
        read_shards(path, shards, torch.float64)
