"""What rests: heads, as the studies found better, and blocks where these are what is possible."""

from dataclasses import replace

import numpy as np
import pytest

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.cluster.device import Device
from d2ft_sched.costs.flops import operation_flops
from d2ft_sched.model.lora import Lora
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import vision_transformer_shape
from d2ft_sched.model.workload import Workload
from d2ft_sched.plan.redrawn import redrawn, resting_units
from d2ft_sched.schedule.operations import Operation, trains_in_step
from sim.step import simulate_step
from sim.ways.candidates import Candidate, candidate
from sim.ways.estimate.load import Load
from sim.ways.estimate.steps import WaySteps
from sim.ways.price import price
from sim.ways.resting_loads import HEADS_PAY, NUM_DRAWS, best_resting, resting_loads

SHAPE = vision_transformer_shape(
    "tiny", image_size=24, patch_size=8, width=48, num_blocks=4, num_heads=4, mlp_hidden=96,
    num_classes=10,
)  # fmt: skip
WORKLOAD = Workload(SHAPE, partition_by_heads(SHAPE, 1), (8, 8, 8, 8))
BLOCK = WORKLOAD.partition.block


def alone(memory_bytes: float) -> Cluster:
    return Cluster("alone", (Device("d", 1e9, int(memory_bytes), 1e9),))


def on_one(cluster: Cluster, load: Load, num_samples: int) -> Candidate:
    """As it would be planned if there were room."""
    steps = WaySteps(WORKLOAD, alone(1e9))
    found = steps.level(((0,),), replace(load, num_samples=num_samples))
    assert found is not None
    made = candidate(steps, found)
    return replace(
        made, cluster=cluster, priced=price(replace(made, cluster=cluster), made.schedule)
    )


def is_of_blocks(schedule: np.ndarray) -> bool:
    return resting_units(schedule, BLOCK).tolist() == BLOCK.tolist()


@pytest.mark.parametrize("fraction", [0.01, 0.25, 0.5, 0.8])
@pytest.mark.parametrize("compute", [0.1, 0.6, 1.0])
def test_loads_spend_what_they_may(fraction: float, compute: float) -> None:
    heads, blocks = resting_loads(WORKLOAD, fraction, compute, 3)
    assert sum(heads.trains) == max(1, int(16 * fraction))
    assert sum(blocks.trains) == 4 * max(1, int(4 * fraction))
    assert set(blocks.trained_part) <= {0.0, 1.0}
    flops = operation_flops(replace(WORKLOAD, microbatch_samples=(1,)))[:, 0]
    for load in (heads, blocks):
        each = np.where(load.trains, flops[:, Operation.FULL], flops[:, Operation.REST]).sum()
        most = compute * 32 * flops[:, Operation.FULL].sum() / each
        assert load.num_samples == min(32, max(1, int(most * (1 + 1e-12))))


def test_adapters_rest_by_blocks_and_subnets_that_are_blocks_are_one_load() -> None:
    (adapters,) = resting_loads(replace(WORKLOAD, lora=Lora(4, 8.0)), 0.5, 0.6, 0)
    assert set(adapters.trained_part) == {0.0, 1.0}
    whole = replace(WORKLOAD, partition=partition_by_heads(SHAPE, 4))
    assert len(resting_loads(whole, 0.5, 0.6, 0)) == 1


@pytest.mark.parametrize("excess", [0.5 * HEADS_PAY, 1.5 * HEADS_PAY])
def test_blocks_are_taken_for_clearly_more_samples_a_second(excess: float) -> None:
    heads, blocks = resting_loads(WORKLOAD, 0.25, 1.0, 0)
    steps, asked = WaySteps(WORKLOAD, alone(1e9)), list[Load]()
    of_blocks = on_one(alone(1e9), blocks, 32)

    def planned(load: Load) -> Candidate:
        asked.append(load)
        made = on_one(alone(1e9), load, 32)
        slow = of_blocks.step_s * (1 + excess)
        return replace(made, priced=replace(made.priced, step_s=slow)) if load == heads else made

    found = best_resting(steps, (heads, blocks), planned, 0)
    assert found is not None
    assert is_of_blocks(found.schedule) == (excess > HEADS_PAY)
    assert asked == ([heads, blocks] if excess > HEADS_PAY else [heads])


def test_memory_has_to_hold_other_draws_too() -> None:
    heads, blocks = resting_loads(WORKLOAD, 0.25, 1.0, 0)
    roomy = alone(1e9)
    first = on_one(roomy, heads, 32)
    unit = resting_units(first.schedule, BLOCK)
    others = [redrawn(first.schedule, unit, step, 0) for step in range(1, 1 + NUM_DRAWS)]
    needed = [simulate_step(first, schedule).peak_memory_bytes[0] for schedule in others]
    own = first.priced.peak_memory_bytes[0]
    assert own < max(needed), "the first draw needs the most: take another seed"
    for memory_bytes in ((own + max(needed)) / 2, max(needed) + 1):
        cluster = alone(memory_bytes)
        assert on_one(cluster, heads, 32).priced.fits
        planned = lambda load, on=cluster: on_one(on, load, 32)  # noqa: E731
        found = best_resting(WaySteps(WORKLOAD, cluster), (heads, blocks), planned, 0)
        assert found is not None
        assert is_of_blocks(found.schedule) == (memory_bytes < max(needed))
        assert trains_in_step(found.schedule).mean() == 0.25
