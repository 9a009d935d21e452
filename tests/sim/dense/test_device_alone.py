"""One device with all samples: closed forms, the simulator's step, memory, and no plan in it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.cluster.compute_curve import ComputeCurve, WorkKind
from d2ft_sched.cluster.device import Device
from d2ft_sched.cluster.device_presets import preset_device
from d2ft_sched.costs.memory import device_memory
from d2ft_sched.deployment import deploy
from d2ft_sched.model.lora import Lora
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import ModelShape, vision_transformer_shape
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.replica import Replica
from d2ft_sched.schedule.schedule import uniform_schedule
from sim.dense.device_alone import device_alone
from sim.step import simulate_step

SHAPE = ModelShape(
    "m",
    num_blocks=3,
    num_heads=6,
    head_dim=8,
    width=48,
    mlp_hidden=96,
    num_tokens=5,
    embed_flops=960,
    classifier_flops=960,
    trunk_parameters=4321,
    classifier_parameters=480,
)
CURVES = {kind: ComputeCurve((1e2, 1e6, 1e9), (2e-5, 1e-4, 9e-2)) for kind in WorkKind}
DEVICES = {
    "computing": Device("d", 1e9, 10**9, 1e18),
    "moving": Device("d", 1e18, 10**9, 1e8),
    "both": Device("d", 1e9, 10**9, 1e9, launch_s=1e-5),
    "measured": Device("d", 1e9, 10**9, 1e9, curves=CURVES),
}
ADAPTERS = {"full": None, "LoRA": Lora(4, 8.0)}


def workload_of(samples: tuple[int, ...], heads: int = 6, lora: Lora | None = None) -> Workload:
    return Workload(SHAPE, partition_by_heads(SHAPE, heads), samples, lora=lora)


def simulated(workload: Workload, device: Device, num_waves: int):
    num_subnets, num = workload.num_subnets, workload.num_microbatches
    dense = uniform_schedule(num_subnets, num, Operation.FULL)
    placement = Placement(1, (0,) * num_subnets, (0,) * num)
    return simulate_step(deploy(workload, Cluster("one", (device,)), placement, num_waves), dense)


@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
@pytest.mark.parametrize("lora", ADAPTERS.values(), ids=ADAPTERS)
def test_a_single_pass_is_the_simulators_step(device, lora):
    run = device_alone(workload_of((3, 2, 6), 2, lora), device)
    said = simulated(workload_of((11,), 6, lora), device, 1)
    assert run.pass_samples == (11,)
    assert run.step_s == pytest.approx(said.step_s)
    assert run.flops == said.flops
    assert run.fits
    np.testing.assert_allclose(run.memory.total, said.peak_memory_bytes)


@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
@pytest.mark.parametrize("lora", ADAPTERS.values(), ids=ADAPTERS)
def test_passes_are_the_simulators_waves(device, lora):
    workload = workload_of((12,), lora=lora)
    (needed,) = device_memory(
        workload_of((4, 4), lora=lora),
        Replica(Placement(1, (0,) * 3, (0, 0)), 2),
        uniform_schedule(3, 2, Operation.FULL),
    ).total
    run = device_alone(workload, replace(device, memory_bytes=int(needed)))
    said = simulated(workload_of((4, 4, 4), lora=lora), device, 3)
    assert run.pass_samples == (4, 4, 4)
    assert run.step_s == pytest.approx(said.step_s)
    assert run.peak_memory_bytes == needed
    assert not device_alone(workload, replace(device, memory_bytes=1000)).fits


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 60),
    st.sampled_from([1, 2, 3, 6]),
    st.integers(0, 2**32 - 1),
    st.sampled_from(sorted(DEVICES)),
    st.sampled_from(sorted(ADAPTERS)),
)
def test_neither_the_cut_nor_the_microbatches_count(total, heads, seed, device, lora):
    rng = np.random.default_rng(seed)
    cuts = np.flatnonzero(rng.random(total - 1) < 0.5) + 1 if total > 1 else []
    samples = tuple(np.diff([0, *cuts, total]).tolist())
    run = device_alone(workload_of(samples, heads, ADAPTERS[lora]), DEVICES[device])
    whole = device_alone(workload_of((total,), 6, ADAPTERS[lora]), DEVICES[device])
    assert (run.step_s, run.pass_samples) == (whole.step_s, whole.pass_samples)


def test_it_computes_at_the_devices_rate():
    run = device_alone(workload_of((4, 4)), DEVICES["computing"])
    assert run.step_s == pytest.approx(run.flops / 1e9, rel=1e-6)


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 40), st.floats(0.02, 1.0))
def test_it_takes_the_fewest_passes_that_fit(total, share):
    at_once = device_alone(workload_of((total,)), DEVICES["both"]).peak_memory_bytes
    device = replace(DEVICES["both"], memory_bytes=int(at_once * share))
    run = device_alone(workload_of((total,)), device)

    def needs(num_passes: int) -> float:
        largest = -(-total // num_passes)
        waves = min(num_passes, 2)
        return float(
            device_memory(
                workload_of((largest,) * waves),
                Replica(Placement(1, (0,) * 3, (0,) * waves), waves),
                uniform_schedule(3, waves, Operation.FULL),
            ).total[0]
        )

    fitting = [k for k in range(1, total + 1) if needs(k) <= device.memory_bytes]
    assert run.fits == bool(fitting)
    assert run.num_passes == min(fitting, default=total)
    assert sum(run.pass_samples) == total


@pytest.mark.parametrize("heads", [1, 12])
def test_a_vit_b_on_a_4090(heads):
    shape = vision_transformer_shape(
        "vit_base_patch16_224",
        image_size=224,
        patch_size=16,
        width=768,
        num_blocks=12,
        num_heads=12,
        mlp_hidden=3072,
        num_classes=10,
    )
    desk, shelf = preset_device("rtx-4090", "desk"), preset_device("rtx-3090", "shelf")
    full = Workload(shape, partition_by_heads(shape, heads), (16,) * 5)
    found = device_alone(full, desk)
    assert found.step_s < device_alone(full, shelf).step_s
    assert found.step_s == pytest.approx(0.195, abs=0.001)
    adapters = device_alone(replace(full, lora=Lora(8, 8.0)), desk)
    assert adapters.step_s == pytest.approx(0.150, abs=0.001)
    many = device_alone(full, desk, 512)
    assert many.fits
    assert many.num_passes > 1
    assert 512 / 80 * 0.9 < many.step_s / found.step_s < 512 / 80
