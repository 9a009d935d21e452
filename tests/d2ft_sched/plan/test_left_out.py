"""What of a mini-batch runs: micro-batches that pass no subnet at all are left out whole."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import ModelShape
from d2ft_sched.model.workload import Workload
from d2ft_sched.plan.left_out import running
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.replica import Replica

SHAPE = ModelShape("m", 2, 2, 8, 16, 32, 5)


def replica(*owner: int, num_waves: int = 1) -> Replica:
    return Replica(Placement(4, (owner[0],) * 4, owner), num_waves)


@given(st.data())
def test_what_runs_is_what_passes_a_subnet(data):
    replicas = (replica(0, 0, 0, num_waves=2), replica(3, 3))
    samples = tuple(data.draw(st.lists(st.integers(1, 4), min_size=5, max_size=5)))
    workload = Workload(SHAPE, partition_by_heads(SHAPE, 1), samples)
    cells = data.draw(st.lists(st.sampled_from(list(Operation)), min_size=20, max_size=20))
    schedule = np.array(cells, dtype=np.int8).reshape(4, 5)
    schedule[:, sorted(data.draw(st.sets(st.integers(0, 4))))] = Operation.SHORTCUT
    found = running(workload, replicas, schedule)

    passes = (schedule != Operation.SHORTCUT).any(axis=0)
    for own in (slice(0, 3), slice(3, 5)):  # a replica without any keeps all
        passes[own] |= not passes[own].any()
    assert found.microbatches.tolist() == np.flatnonzero(passes).tolist()
    assert (found.schedule == schedule[:, passes]).all()
    of_sample = np.repeat(np.arange(5), samples)
    assert found.samples.tolist() == np.flatnonzero(passes[of_sample]).tolist()
    assert sum(found.workload.microbatch_samples) == len(found.samples)
    assert [r.num_microbatches for r in found.replicas] == [passes[:3].sum(), passes[3:].sum()]
    assert [r.devices for r in found.replicas] == [(0,), (3,)]
    assert found.replicas[0].num_waves == min(2, passes[:3].sum())
