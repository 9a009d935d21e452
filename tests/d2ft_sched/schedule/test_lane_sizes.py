"""Lane groups counted at once beside those made one by one."""

from collections import Counter

import numpy as np
from d2ft_sched.schedule.lane_sizes import lane_sizes
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched.costs.flops import attention_flops, attention_flops_of
from d2ft_sched.costs.lane_traffic import lane_bytes_of
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import ModelShape
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.lanes import lane_groups
from d2ft_sched.schedule.placement import Placement


def workload_of(num_blocks: int, num_heads: int, samples: tuple[int, ...]) -> Workload:
    shape = ModelShape(
        "m", num_blocks, num_heads, head_dim=8, width=16, mlp_hidden=3 * num_heads + 1, num_tokens=5
    )
    return Workload(shape, partition_by_heads(shape, 1), samples)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Workload, Placement, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_heads = draw(st.sampled_from([1, 2, 5, 6, 6, 130]))
    samples = tuple(rng.integers(1, 4, draw(st.integers(1, 8))).tolist())
    workload = workload_of(draw(st.integers(1, 3)), num_heads, samples)
    num_devices, num = draw(st.integers(1, 4)), workload.num_subnets
    placement = Placement(
        num_devices, tuple(rng.integers(0, num_devices, num).tolist()), (0,) * len(samples)
    )
    schedule = rng.integers(0, 4, (num, len(samples))).astype(np.int8)
    if draw(st.booleans()):
        schedule = schedule[rng.integers(0, num, num)]
    if draw(st.booleans()):
        schedule = schedule[:, rng.integers(0, len(samples), len(samples))]
    return workload, placement, schedule, np.flatnonzero(rng.random(len(samples)) < 0.8)


@settings(deadline=None, max_examples=150)
@given(cases())
def test_sizes_are_those_of_the_groups(case):
    workload, placement, schedule, microbatches = case
    partition, device = workload.partition, np.array(placement.subnet_device)
    sizes = lane_sizes(workload, placement, schedule, microbatches)
    expected: Counter[tuple[int, ...]] = Counter()
    for block in range(partition.num_blocks):
        for d in range(placement.num_devices):
            for group in lane_groups(partition, schedule, block, device == d, microbatches):
                subnets, columns = list(group.subnets), list(group.microbatches)
                expected[
                    int(group.operation),
                    block,
                    d,
                    len(subnets),
                    int(partition.heads[subnets].sum()),
                    int(partition.hidden[subnets].sum()),
                    len(columns),
                    int(workload.tokens[columns].sum()),
                ] += 1
    assert Counter(zip(*(v.tolist() for v in vars(sizes).values()), strict=True)) == expected
    assert (np.diff(sizes.device) >= 0).all()


def test_a_group_computes_what_its_cells_do_and_reads_its_activations_and_weights_once():
    workload = workload_of(1, 5, (1, 2, 3))
    subnets, columns = [1, 2, 4], [0, 2]
    cells = np.ix_(subnets, columns)
    partition = workload.partition
    heads, hidden = partition.heads[subnets].sum(), partition.hidden[subnets].sum()
    tokens = workload.tokens[columns].sum()
    whole = attention_flops_of(workload, heads, tokens)
    assert whole.forward == attention_flops(workload).forward[cells].sum()
    assert whole.backward == attention_flops(workload).backward[cells].sum()
    together = lane_bytes_of(workload, heads, hidden, tokens)
    apart = lane_bytes_of(
        workload,
        partition.heads[subnets][:, None],
        partition.hidden[subnets][:, None],
        workload.tokens[columns],
    )
    element, width, channels = workload.element_bytes, 16, 8 * heads
    attention, mlp = 4 * width * channels, 2 * width * hidden
    again = {  # activations of 2 of 3 subnets, weights of 1 of 2 micro-batches
        "attention_forward": 2 * 3 * tokens * width + attention,
        "attention_backward": 2 * 5 * tokens * width + 3 * attention,
        "mlp_forward": 2 * 3 * tokens * width + mlp,
        "mlp_backward": 2 * 5 * tokens * width + 3 * mlp,
    }
    for name, extra in again.items():
        assert getattr(apart, name).sum() - getattr(together, name) == extra * element


def test_nothing_moves_where_nothing_runs():
    workload = workload_of(1, 5, (1, 2))
    for heads, hidden, tokens in ((2, 3, 0), (0, 0, 10)):
        moved = lane_bytes_of(workload, np.array(heads), np.array(hidden), np.array(tokens))
        assert not any(np.any(values) for values in vars(moved).values())
