"""Steps that memory does not hold, told before they are allocated."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from d2ft_sched.costs.memory import device_memory
from d2ft_sched.errors import InputError
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape_file import load_model_shape
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement, place_round_robin
from d2ft_sched.schedule.replica import Replica
from d2ft_sched.schedule.schedule import uniform_schedule
from runtime.measure import step_memory
from runtime.measure.step_memory import check_step_on_ranks, check_whole_step
from runtime.ranks.job import Ranks

SHAPE = load_model_shape("vit_tiny_patch16_224", image_size=32, num_classes=2)
WORKLOAD = Workload(SHAPE, partition_by_heads(SHAPE, 1), (2,) * 3)
DENSE = uniform_schedule(WORKLOAD.num_subnets, 3, Operation.FULL)
CPU = torch.device("cpu")


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``host(there_are, local_rank, num_local, rank, num_ranks)``: what this process runs on."""

    def make(there_are: float, *seat: int) -> None:
        monkeypatch.setattr(step_memory, "memory_bytes", lambda device: there_are)
        names = ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "RANK", "WORLD_SIZE")
        for name, value in zip(names, seat, strict=False):
            monkeypatch.setenv(name, str(value))

    return make


@pytest.mark.parametrize("num_waves", [1, 3])
def test_a_step_that_only_just_fits_is_not_refused(host: Callable, num_waves: int) -> None:
    alone = Placement(1, (0,) * WORKLOAD.num_subnets, (0,) * 3)
    needed = device_memory(WORKLOAD, Replica(alone, num_waves), DENSE).total[0]
    ranks = Ranks(0, 1, CPU)
    host(needed)
    check_whole_step(WORKLOAD, DENSE, ranks, num_waves=num_waves)
    host(0.99 * needed)
    with pytest.raises(InputError, match=r"6 samples of vit_tiny_patch16_224 take .*; this device"):
        check_whole_step(WORKLOAD, DENSE, ranks, num_waves=num_waves)


def test_ranks_of_a_host_share_its_memory_and_those_of_others_do_not(host: Callable) -> None:
    placement = place_round_robin(WORKLOAD.partition, 3, 4)
    needed = device_memory(WORKLOAD, Replica(placement), DENSE).total
    replicas = (Replica(placement),)
    of_two = needed[2:].sum()
    host(1.05 * of_two, 1, 2, 3, 4)
    check_step_on_ranks(WORKLOAD, replicas, DENSE, Ranks(3, 4, CPU))
    host(0.9 * of_two, 1, 2, 3, 4)
    with pytest.raises(InputError, match="in a step; the host of these 2 ranks has"):
        check_step_on_ranks(WORKLOAD, replicas, DENSE, Ranks(3, 4, CPU))
    host(0.9 * of_two, 0, 1, 3, 4)
    check_step_on_ranks(WORKLOAD, replicas, DENSE, Ranks(3, 4, CPU))


def test_ranks_that_hold_the_whole_model_need_it_each(host: Callable) -> None:
    alone = Placement(1, (0,) * WORKLOAD.num_subnets, (0,) * 3)
    needed = device_memory(WORKLOAD, Replica(alone), DENSE).total[0]
    host(1.5 * needed, 0, 2, 0, 2)
    with pytest.raises(InputError, match="host of these 2 ranks"):
        check_whole_step(WORKLOAD, DENSE, Ranks(0, 2, CPU))
    host(2.5 * needed, 0, 2, 0, 2)
    check_whole_step(WORKLOAD, DENSE, Ranks(0, 2, CPU))
    nothing = np.zeros_like(DENSE)
    host(0.9 * needed, 0, 1, 0, 2)
    check_whole_step(WORKLOAD, nothing, Ranks(0, 2, CPU))
