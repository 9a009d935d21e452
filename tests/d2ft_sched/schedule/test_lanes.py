import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import ModelShape
from d2ft_sched.schedule.lanes import lane_groups
from d2ft_sched.schedule.operations import Operation

SHAPE = ModelShape("m", num_blocks=2, num_heads=4, head_dim=2, width=8, mlp_hidden=16, num_tokens=5)
PARTITION = partition_by_heads(SHAPE, 1)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6))
def test_groups_cover_every_active_cell_once_with_its_operation(seed, num_microbatches):
    rng = np.random.default_rng(seed)
    schedule = rng.integers(0, 4, (len(PARTITION), num_microbatches)).astype(np.int8)
    held = rng.random(len(PARTITION)) < 0.7
    wave = np.flatnonzero(rng.random(num_microbatches) < 0.8)
    covered = np.zeros_like(schedule)
    for block in range(SHAPE.num_blocks):
        for group in lane_groups(PARTITION, schedule, block, held, wave):
            assert {PARTITION.subnets[s].block for s in group.subnets} == {block}
            cells = np.ix_(group.subnets, group.microbatches)
            assert not covered[cells].any()
            covered[cells] = group.operation
    expected = np.where(held[:, None] & np.isin(np.arange(num_microbatches), wave), schedule, 0)
    np.testing.assert_array_equal(covered, expected)


def test_equal_rows_or_columns_become_one_group():
    dense = np.full((8, 3), Operation.FULL, dtype=np.int8)
    assert len(lane_groups(PARTITION, dense, 1)) == 1
    by_microbatch = dense.copy()
    by_microbatch[:, 1] = Operation.SHORTCUT
    (group,) = lane_groups(PARTITION, by_microbatch, 0)
    assert group.microbatches == (0, 2)
    one_slow = dense.copy()
    one_slow[3, 1:] = Operation.FORWARD_ONLY
    assert {
        (g.operation.letter, g.subnets, g.microbatches) for g in lane_groups(PARTITION, one_slow, 0)
    } == {
        ("F", (0, 1, 2), (0, 1, 2)),
        ("F", (3,), (0,)),
        ("O", (3,), (1, 2)),
    }
