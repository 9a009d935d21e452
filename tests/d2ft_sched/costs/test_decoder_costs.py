"""Closed forms of decoders against sums over single matrix products, tensors and parameters."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched.costs.flops import (
    attention_flops,
    mlp_flops,
    operation_flops,
    step_flops,
    trunk_flops,
)
from d2ft_sched.costs.gradient_sums import gradient_sums
from d2ft_sched.costs.memory import device_memory, memory_besides_operations
from d2ft_sched.costs.parameters import (
    device_parameters,
    trained_device_parameters,
    trained_parameters,
)
from d2ft_sched.costs.trunk_work import trunk_pieces
from d2ft_sched.costs.vocabulary_head import HEAD_CHUNK_TOKENS
from d2ft_sched.model.decoder_config import DECODER_TYPES, decoder_shape
from d2ft_sched.model.lora import Lora
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import ModelShape
from d2ft_sched.model.shape_file import load_model_shape
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement, place_round_robin
from d2ft_sched.schedule.replica import Replica
from d2ft_sched.schedule.schedule import uniform_schedule


def shape_of(
    model_type: str = "llama",
    keys: int = 2,
    queries_of_each: int = 3,
    head_dim: int = 4,
    hidden: int = 14,
    num_tokens: int = 5,
    tied: bool = False,
    width: int = 16,
) -> ModelShape:
    return decoder_shape(
        "small",
        {
            "model_type": model_type,
            "hidden_size": width,
            "intermediate_size": hidden,
            "num_hidden_layers": 3,
            "num_attention_heads": keys * queries_of_each,
            "num_key_value_heads": keys,
            "head_dim": head_dim,
            "vocab_size": 50,
            "tie_word_embeddings": tied,
            "max_position_embeddings": 4096,
        },
        num_tokens,
    )


SHAPES = st.builds(
    shape_of,
    model_type=st.sampled_from(DECODER_TYPES),
    keys=st.integers(1, 3),
    queries_of_each=st.integers(1, 4),
    head_dim=st.integers(1, 6),
    hidden=st.integers(3, 30),
    num_tokens=st.integers(1, 9),
    tied=st.booleans(),
    width=st.integers(1, 20),
)
ADAPTERS = st.sampled_from([None, Lora(1, 2.0), Lora(3, 3.0)])


def workload_of(shape: ModelShape, lora: Lora | None = None, **more) -> Workload:
    rank = None if lora is None else Lora(min(lora.rank, shape.width), lora.alpha)
    return Workload(shape, partition_by_heads(shape, 1), (1, 2, 2), lora=rank, **more)


def dense(workload: Workload) -> np.ndarray:
    return uniform_schedule(workload.num_subnets, workload.num_microbatches, Operation.FULL)


def product_flops(rows: int, inner: int, columns: int) -> int:
    return 2 * rows * inner * columns


def counted_flops(workload: Workload, recomputes: bool = False) -> int:
    """The dense step on one device, product by product."""
    shape, lora, tokens = workload.shape, workload.lora, int(workload.tokens.sum())
    queries = shape.num_heads * shape.queries_per_head * shape.head_dim
    keys, width, hidden = shape.num_heads * shape.head_dim, shape.width, shape.mlp_hidden
    into = [[queries, keys, keys], [hidden, hidden]]
    out_of = [queries, hidden]
    samples = int(workload.samples.sum())
    seen = samples * sum(i + 1 for i in range(shape.num_tokens))
    core = 2 * 2 * seen * queries
    total = 0
    for block in range(shape.num_blocks):
        for sublayer in range(2):
            needs_dx = lora is None or block > 0 or sublayer > 0
            maps = [(rows, width, needs_dx) for rows in into[sublayer]]
            for rows, columns, dx in [*maps, (width, out_of[sublayer], True)]:
                one = product_flops(tokens, columns, rows)
                total += one + one * dx  # forward, dX
                if lora is None:
                    total += one  # dW
                else:
                    first = product_flops(tokens, columns, lora.rank)
                    second = product_flops(tokens, lora.rank, rows)
                    total += first + second  # forward
                    total += second + second  # of B, and on to A
                    total += first + first * dx  # of A, and on to the input
            if recomputes:
                for rows in into[sublayer]:
                    total += product_flops(tokens, width, rows)
                    if lora is not None:
                        total += product_flops(tokens, lora.rank, rows)
        total += core + core * 5 // 2 + core * recomputes
    head = product_flops(tokens, width, shape.vocabulary_size)
    return total + head * (3 if lora is None else 2)


@given(shape=SHAPES, lora=ADAPTERS, recomputes=st.booleans())
@settings(max_examples=80, deadline=None)
def test_flops_are_those_of_the_single_products(shape, lora, recomputes) -> None:
    workload = workload_of(shape, lora)
    placement = Placement(
        1, (0,) * workload.num_subnets, (0,) * 3, recomputing=(0,) if recomputes else ()
    )
    expected = counted_flops(workload, recomputes)
    assert step_flops(workload, dense(workload), placement) == pytest.approx(expected, rel=1e-12)
    trunk = trunk_flops(workload)
    of_operations = operation_flops(workload, placement)[..., Operation.FULL].sum()
    together = of_operations + trunk.forward.sum() + trunk.backward.sum()
    assert together == pytest.approx(expected, rel=1e-12)
    pieces = trunk_pieces(workload)
    assert sum(p.flops.forward.sum() + p.flops.backward.sum() for p in pieces) == pytest.approx(
        trunk.forward.sum() + trunk.backward.sum()
    )


def test_llama_3_8b_by_hand() -> None:
    shape = load_model_shape("Llama-3-8B")
    assert shape.num_parameters == 8_030_261_248
    workload = Workload(shape, partition_by_heads(shape, 1), (1,))
    maps = 2 * 4096 * (32 * 128 + 8 * 128 + 8 * 128 + 32 * 128 + 3 * 14_336)
    assert maps == 436_207_616
    scores_and_values = 2 * (2048 + 1) * 32 * 128
    assert scores_and_values == 16_785_408
    head = 2 * 4096 * 128_256
    assert head == 1_050_673_152
    by_hand = 2048 * (32 * (maps + scores_and_values) + head)
    forward = attention_flops(workload).forward.sum() + mlp_flops(workload).forward.sum()
    forward += trunk_flops(workload).forward.sum()
    assert forward == pytest.approx(by_hand, rel=1e-12)
    assert forward / 2048 == pytest.approx(15.55e9, rel=1e-3)


@given(shape=SHAPES, lora=ADAPTERS, num_devices=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_devices_hold_every_parameter(shape, lora, num_devices) -> None:
    workload = workload_of(shape, lora)
    placement = place_round_robin(workload.partition, 3, num_devices)
    held = device_parameters(workload, placement)
    width, dim = shape.width, shape.head_dim
    rank = 0 if workload.lora is None else workload.lora.rank
    holders = min(num_devices, shape.num_heads)
    owners = min(num_devices, 3)
    shared = 2 * dim * shape.query_key_norm
    queries, keys = shape.num_heads * shape.queries_per_head * dim, shape.num_heads * dim
    own_factors = rank * (queries + keys + keys + queries + 3 * shape.mlp_hidden)
    shared_factors = rank * 7 * width
    expected = shape.num_parameters + (owners - 1) * shape.trunk_parameters
    expected += shape.num_blocks * ((holders - 1) * shared + own_factors + holders * shared_factors)
    assert held.sum() == expected
    trained = trained_device_parameters(workload, placement)
    if workload.lora is None:
        assert (trained == held).all()
        assert trained_parameters(workload) == shape.num_parameters
    else:
        assert trained.sum() == shape.num_blocks * (own_factors + holders * shared_factors)
        assert trained_parameters(workload) == shape.num_blocks * (own_factors + shared_factors)


@given(shape=SHAPES, lora=ADAPTERS)
@settings(max_examples=40, deadline=None)
def test_replicas_sum_every_gradient_once(shape, lora) -> None:
    workload = replace(workload_of(shape, lora), microbatch_samples=(2, 1))
    two = [Replica(Placement(2, (d,) * workload.num_subnets, (d,))) for d in (0, 1)]
    sums = gradient_sums(workload, two, dense(workload))
    assert sum(one.num_values for one in sums) == trained_parameters(workload)


@pytest.mark.parametrize("model_type", ["llama", "qwen3"])
def test_norms_that_heads_share_are_summed_over_their_holders(model_type: str) -> None:
    workload = workload_of(shape_of(model_type))
    placement = Placement(3, (0, 1) * 3, (2,) * 3)
    sums = gradient_sums(workload, [Replica(placement)], dense(workload))
    shared = [one for one in sums if one.has_shared_factors]
    assert [one.members for one in shared] == [(0, 1)] * (3 if model_type == "qwen3" else 0)
    assert all(one.num_values == 2 * workload.shape.head_dim for one in shared)


def test_frozen_weights_and_adapters_have_precisions_of_their_own() -> None:
    shape = load_model_shape("Llama-3-8B")
    workload = Workload(
        shape,
        partition_by_heads(shape, 1),
        (1,),
        element_bytes=2,
        lora=Lora(16, 16.0),
        frozen_bytes=2,
    )
    placement = place_round_robin(workload.partition, 1, 1)
    sides = [(4096, 4096), (4096, 1024), (4096, 1024), (4096, 4096), *[(4096, 14_336)] * 3]
    adapters = 32 * 16 * sum(into + out_of for into, out_of in sides)
    assert adapters == trained_parameters(workload) == 41_943_040
    memory = device_memory(workload, Replica(placement), dense(workload))
    assert memory.parameters[0] == 2 * 8_030_261_248 + 4 * adapters
    assert memory.optimizer_state[0] == 2 * 4 * adapters
    assert memory.gradients[0] == 4 * adapters


@pytest.mark.parametrize("lora", [None, Lora(2, 2.0)])
@pytest.mark.parametrize("model_type", ["llama", "qwen3"])
def test_activations_are_those_of_the_single_tensors(model_type: str, lora: Lora | None) -> None:
    shape = shape_of(model_type)
    workload = workload_of(shape, lora)
    placement = place_round_robin(workload.partition, 3, 1)
    memory = device_memory(workload, Replica(placement), dense(workload))
    tokens, width, rank = int(workload.tokens.sum()), shape.width, 2
    queries = shape.num_heads * shape.queries_per_head * shape.head_dim
    keys = shape.num_heads * shape.head_dim
    total = 0
    for block in range(shape.num_blocks):
        attention = [queries, keys, keys, queries, shape.num_heads * shape.queries_per_head]
        if model_type == "qwen3":
            attention += [queries, keys] * (2 if lora is None else 1)
        mlp = [shape.mlp_hidden] * 4
        total += sum(attention) + sum(mlp)
        for sublayer in range(2):
            total += width  # what the maps in take
            goes_on = lora is None or block > 0 or sublayer > 0
            total += width * goes_on * (2 if lora is None else 1)  # norm
        if lora is not None:
            total += 7 * rank  # products with shared factors
    total += width + width * (2 if lora is None else 1)  # at the embedding, in the last norm
    total += width  # the gradient of the head's input
    assert memory.activations[0] == 4 * tokens * total


@given(
    shape=SHAPES,
    lora=ADAPTERS,
    rests=st.booleans(),
    num_waves=st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_computing_forward_again_keeps_inputs_alone(shape, lora, rests, num_waves) -> None:
    workload = workload_of(shape, lora)
    schedule = dense(workload)
    if rests:
        schedule[workload.partition.block == 1] = Operation.REST
    plain = place_round_robin(workload.partition, 3, 2)
    again = replace(plain, recomputing=(1,))
    before, after = (
        device_memory(workload, Replica(p, num_waves), schedule) for p in (plain, again)
    )
    assert after.activations[0] == before.activations[0]
    assert after.total[0] == before.total[0]
    if not rests:
        # Of what rests nothing but the core's inputs is kept, which may be less than the norm's.
        assert after.activations[1] <= before.activations[1]
    for name in ("parameters", "gradients", "optimizer_state", "exchange_buffers"):
        assert (getattr(after, name) == getattr(before, name)).all()
    assert step_flops(workload, schedule, again) >= step_flops(workload, schedule, plain)
    besides = memory_besides_operations(workload, Replica(again, num_waves))
    assert (
        besides[1]
        >= device_memory(workload, Replica(again, num_waves), dense(workload)).total[1] - 1e-6
    )


def test_a_model_of_many_blocks_needs_much_less_memory_so() -> None:
    shape = load_model_shape("Llama-3-8B")
    workload = Workload(
        shape, partition_by_heads(shape, 8), (1,), 2, lora=Lora(16, 16.0), frozen_bytes=2
    )
    plain = place_round_robin(workload.partition, 1, 1)
    before, after = (
        device_memory(workload, Replica(p), dense(workload)).total[0]
        for p in (plain, replace(plain, recomputing=(0,)))
    )
    assert before > 27e9
    assert after < 21e9


def test_the_head_is_cut_by_tokens() -> None:
    """Twice the tokens beyond a chunk need no more room for logits."""
    shape = shape_of(num_tokens=HEAD_CHUNK_TOKENS)
    wide = replace(shape, vocabulary_size=10**6)
    placement = Placement(1, (0,) * 6, (0,))
    for samples in (1, 2, 4):
        workload = Workload(wide, partition_by_heads(wide, 1), (samples,), lora=Lora(1, 1.0))
        memory = device_memory(workload, Replica(placement), dense(workload))
        assert memory.workspace[0] == HEAD_CHUNK_TOKENS * 10**6 * 4
        assert memory.total[0] > memory.workspace[0]


@pytest.mark.parametrize("tied", [False, True])
def test_a_tied_embedding_has_its_gradient_made_twice(tied: bool) -> None:
    """Where it is trained; beside adapters nothing of the vocabulary is."""
    shape = shape_of(tied=tied)
    workload = workload_of(shape)
    placement = place_round_robin(workload.partition, 3, 1)
    memory = device_memory(workload, Replica(placement), dense(workload))
    besides = memory.parameters + memory.optimizer_state + memory.inputs + memory.exchange_buffers
    least = memory.gradients + (shape.vocabulary_size * shape.width * 4 if tied else 0)
    assert (memory.total >= besides + least).all()
    adapted = replace(workload, lora=Lora(1, 1.0))
    assert trained_parameters(adapted) < shape.num_parameters - shape.trunk_parameters
