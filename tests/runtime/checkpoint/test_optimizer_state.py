"""Optimizer state: any number of ranks reads what any other number wrote."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from timm.models.vision_transformer import VisionTransformer

from d2ft_sched.errors import InputError
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.replica import Replica
from runtime.checkpoint.optimizer_state import (
    State,
    load_shards,
    reslice,
    save_shards,
    set_state,
    state_by_name,
)
from runtime.models.build import shape_of
from runtime.models.optimizers import KINDS, create_optimizer
from runtime.ranks.shards import Shard, rank_shards, read_shards
from runtime.tensor_file import TensorSpec, write_state, write_tensors


@pytest.fixture(scope="module")
def model() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=14, patch_size=14, embed_dim=24, depth=2, num_heads=6, num_classes=3
    )


@pytest.fixture(scope="module")
def workload(model: VisionTransformer) -> Workload:
    shape = shape_of(model)
    return Workload(shape, partition_by_heads(shape, (1, 2, 3)), (1, 1, 1))


@pytest.fixture(scope="module")
def trained(model: VisionTransformer) -> State:
    """AdamW's state after two steps."""
    optimizer = create_optimizer(model, "adamw", lr=1e-3)
    for _ in range(2):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    return state_by_name(optimizer, dict(model.named_parameters()))


def save_ranks(
    folder: Path, state: State, model: VisionTransformer, workload: Workload, placement: Placement
) -> list[Path]:
    """As every rank of `placement` would, the trunk by its first owner."""
    paths = []
    for rank in range(placement.num_devices):
        shards = [
            shard
            for shard in rank_shards(model, workload, (Replica(placement),), rank)
            if not shard.is_whole or rank == placement.owners[0]
        ]
        part = {
            s.name: {v: s.take(t) if t.dim() else t for v, t in state[s.name].items()}
            for s in shards
        }
        paths.append(folder / f"{rank}-of-{placement.num_devices}.safetensors")
        save_shards(paths[-1], shards, part)
    return paths


def whole_shards(model: VisionTransformer) -> list[Shard]:
    return [Shard(n, tuple(p.shape), 0, None) for n, p in model.named_parameters()]


def placements(num_devices: int) -> st.SearchStrategy[Placement]:
    devices = st.integers(0, num_devices - 1)
    return st.builds(
        Placement,
        st.just(num_devices),
        st.tuples(*[devices] * 6),
        st.tuples(*[devices] * 3),
    )


@settings(max_examples=15, deadline=None)
@given(three=placements(3), two=placements(2))
def test_one_rank_to_three_to_two_to_one(tmp_path_factory, model, workload, trained, three, two):
    folder = tmp_path_factory.mktemp("ranks")
    save_shards(folder / "whole", whole_shards(model), trained)
    paths, held = [folder / "whole"], trained
    for placement in (three, two):
        states = [
            load_shards(
                paths,
                rank_shards(model, workload, (Replica(placement),), rank),
                KINDS["adamw"].values,
                torch.float32,
            )
            for rank in range(placement.num_devices)
        ]
        for rank, state in enumerate(states):
            for shard in rank_shards(model, workload, (Replica(placement),), rank):
                for value in ("exp_avg", "exp_avg_sq"):
                    part = state[shard.name][value]
                    assert part.shape == shard.shape
                    assert torch.equal(part, shard.take(held[shard.name][value]))
                assert float(state[shard.name]["step"]) == 2
        paths = save_ranks(folder, trained, model, workload, placement)
    back = load_shards(paths, whole_shards(model), KINDS["adamw"].values, torch.float32)
    for name, values in trained.items():
        for value, tensor in values.items():
            assert torch.equal(back[name][value], tensor), (name, value)


def test_a_loaded_optimizer_steps_as_the_saved_one(model, tmp_path):
    parameters = dict(model.named_parameters())
    for name in ("adamw", "sgdm", "sgd"):
        start = {n: p.detach().clone() for n, p in parameters.items()}

        def step(optimizer: torch.optim.Optimizer, seed: int) -> None:
            torch.manual_seed(seed)
            for parameter in model.parameters():
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()

        saved = create_optimizer(model, name, lr=1e-2)
        step(saved, 1)
        between = {n: p.detach().clone() for n, p in parameters.items()}
        save_shards(tmp_path / name, whole_shards(model), state_by_name(saved, parameters))
        step(saved, 2)
        after = {n: p.detach().clone() for n, p in parameters.items()}
        for n, parameter in parameters.items():
            parameter.data.copy_(between[n])
        loaded = create_optimizer(model, name, lr=1e-2)
        state = load_shards(
            [tmp_path / name], whole_shards(model), KINDS[name].values, torch.float32
        )
        set_state(loaded, parameters, state)
        step(loaded, 2)
        for n, parameter in parameters.items():
            assert torch.equal(parameter, after[n]), (name, n)
            parameter.data.copy_(start[n])


def test_a_missing_part_is_named(model, workload, trained, tmp_path):
    placement = Placement(2, (0, 1, 0, 1, 1, 0), (0, 1, 1))
    paths = save_ranks(tmp_path, trained, model, workload, placement)
    with pytest.raises(InputError, match=r"blocks\.0\.attn\.qkv\.weight lacks index 0 of 72"):
        load_shards(
            paths[1:],
            [s for s in whole_shards(model) if "qkv" in s.name],
            KINDS["adamw"].values,
            torch.float32,
        )
    with pytest.raises(InputError, match=r"state of cls_token lacks all"):
        load_shards(paths[1:], whole_shards(model), KINDS["adamw"].values, torch.float32)
    other = Shard("blocks.0.attn.qkv.weight", (9, 4), 0, None)
    with pytest.raises(InputError, match=r"has shape \[72, 24\]; the model needs \[9, 4\]"):
        load_shards(paths, [other], KINDS["adamw"].values, torch.float32)
    paths[0].write_bytes(paths[0].read_bytes()[:100])
    with pytest.raises(InputError, match=r"0-of-2\.safetensors: is not a whole safetensors file"):
        load_shards(paths, whole_shards(model), KINDS["adamw"].values, torch.float32)


@pytest.mark.parametrize("odd", [torch.nan, torch.inf])
def test_what_is_no_finite_number_is_named(tmp_path, odd):
    shard = Shard("w", (3,), 0, None)
    tensors = {"exp_avg": torch.tensor([0.0, odd, 1.0]), "exp_avg_sq": torch.ones(3)}
    save_shards(tmp_path / "own", [shard], {"w": tensors | {"step": torch.tensor(1.0)}})
    with pytest.raises(InputError, match="own: exp_avg of w has values that are no numbers"):
        load_shards([tmp_path / "own"], [shard], KINDS["adamw"].values, torch.float32)
    write_state(tmp_path / "weights", {"w": torch.tensor([1.0, odd])})
    for indices in (None, np.array([1])):
        own = Shard("w", (2,), 0, indices)
        with pytest.raises(InputError, match="tensor w has values that are no numbers"):
            read_shards(tmp_path / "weights", (own,), torch.float32)
    kept = read_shards(tmp_path / "weights", (Shard("w", (2,), 0, np.array([0])),), torch.float32)
    assert kept["w"].tolist() == [1.0]


def test_slices_along_the_second_dimension():
    full = torch.arange(12.0).reshape(2, 6)
    left = Shard("w", (2, 6), 1, np.array([0, 2, 5]))
    right = Shard("w", (2, 6), 1, np.array([1, 3, 4]))
    pieces = [(right, right.take(full)), (left, left.take(full))]
    assert torch.equal(reslice(pieces, Shard("w", (2, 6), 0, None)), full)
    some = Shard("w", (2, 6), 1, np.array([1, 2]))
    assert torch.equal(reslice(pieces, some), full[:, 1:3])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64, torch.bool])
def test_files_are_safetensors(tmp_path, dtype):
    tensors = {"a": torch.randn(3, 2).to(dtype), "b": torch.ones((), dtype=dtype)}
    specs = [TensorSpec(n, tuple(t.shape), t.dtype) for n, t in tensors.items()]
    write_tensors(tmp_path / "f", specs, tensors.values(), {"note": "x"})
    with safe_open(tmp_path / "f", framework="pt") as file:
        assert file.metadata() == {"format": "pt", "note": "x"}
        for name, tensor in tensors.items():
            assert torch.equal(file.get_tensor(name), tensor)
