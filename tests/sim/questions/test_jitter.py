"""Step times under jitter beside the step without it and beside distributions in closed form."""

from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from d2ft_sched.errors import InputError
from sim.questions.jitter import Jitter, jittered_step_seconds, jittered_step_times


def test_no_jitter_is_the_predicted_step(random_step):
    for seed in range(6):
        step = replace(random_step(seed), num_waves=3)
        for prediction in (step.predicted(), step.predicted(overlap=True)):
            seconds = jittered_step_seconds(prediction, Jitter(), 4, seed=1)
            np.testing.assert_allclose(seconds, prediction.step_s, rtol=1e-12)


@pytest.mark.parametrize("overlap", [False, True])
def test_each_step_is_the_step_of_slower_devices(random_step, overlap):
    step = replace(random_step(3), num_waves=2)
    prediction = step.predicted(overlap)
    num_devices = len(step.cluster.devices)
    factors = tuple(float(f) for f in np.linspace(1.5, 4, num_devices))
    always = Jitter(straggler_probability=1.0, straggler_factor=factors)
    devices = tuple(
        d.scaled(compute=1 / f, memory_bandwidth=1 / f)
        for d, f in zip(step.cluster.devices, factors, strict=True)
    )
    slower = step.on(replace(step.cluster, devices=devices), overlap)
    seconds = jittered_step_seconds(prediction, always, 3, seed=0)
    np.testing.assert_allclose(seconds, slower.step_s, rtol=1e-9)


def test_one_device_alone_is_lognormal(random_step):
    step = random_step(1, num_devices=2)
    one = replace(
        step,
        cluster=replace(step.cluster, devices=step.cluster.devices[:1], links=(), switches=()),
        placement=replace(
            step.placement,
            num_devices=1,
            subnet_device=(0,) * len(step.placement.subnet_device),
            owner=(0,) * len(step.placement.owner),
        ),
    )
    prediction = one.predicted()
    sigma, num_steps = 0.3, 40_000
    seconds = jittered_step_seconds(prediction, Jitter(step_sigma=sigma), num_steps, seed=2)
    logs = np.log(seconds / prediction.step_s)
    assert logs.mean() == pytest.approx(0, abs=4 * sigma / num_steps**0.5)
    assert logs.std() == pytest.approx(sigma, rel=0.02)
    times = jittered_step_times(prediction, Jitter(step_sigma=sigma), num_steps, seed=2)
    for found, share in ((times.p50_s, 0.5), (times.p90_s, 0.9), (times.p99_s, 0.99)):
        expected = prediction.step_s * np.exp(sigma * NormalDist().inv_cdf(share))
        assert found == pytest.approx(expected, rel=0.03)
    assert times.slowdown == pytest.approx(np.exp(sigma**2 / 2), rel=0.01)


def test_stragglers_come_with_their_probability(random_step):
    prediction = random_step(4, num_devices=3).predicted()
    jitter = Jitter(straggler_probability=(0.0, 0.25, 0.0), straggler_factor=100.0)
    seconds = jittered_step_seconds(prediction, jitter, 20_000, seed=5)
    hit = seconds > prediction.step_s * (1 + 1e-9)
    assert hit.mean() == pytest.approx(0.25, abs=0.02)
    assert np.unique(np.round(seconds / prediction.step_s, 9)).size == 2


def test_noise_never_helps_on_average_and_seeds_repeat(random_step):
    prediction = random_step(7, num_devices=4).predicted()
    times = jittered_step_times(prediction, Jitter(phase_sigma=0.4), 500, seed=1)
    assert times.p50_s <= times.p90_s <= times.p99_s
    assert times.slowdown > 1
    assert times == jittered_step_times(prediction, Jitter(phase_sigma=0.4), 500, seed=1)
    assert times != jittered_step_times(prediction, Jitter(phase_sigma=0.4), 500, seed=2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"phase_sigma": -1.0}, "the spread of phases is -1.0; it must be 0 or more and finite"),
        ({"straggler_probability": 1.5}, "1.5; it must be between 0 and 1"),
        (
            {"straggler_factor": (1.0, 0.5)},
            "of a straggler is 0.5; it must be 1 or more",
        ),
    ],
)
def test_impossible_jitter(wrong, message):
    with pytest.raises(InputError, match=message):
        Jitter(**wrong)


def test_steps_without_end_are_refused(random_step):
    with pytest.raises(InputError, match=r"phase_sigma 800.0 .* steps without end"):
        jittered_step_times(random_step(0).predicted(), Jitter(phase_sigma=800.0))


def test_jitter_for_other_devices(random_step):
    prediction = random_step(0, num_devices=2).predicted()
    with pytest.raises(
        InputError, match="the spread of steps has 3 values; cluster 'random' has 2"
    ):
        jittered_step_seconds(prediction, Jitter(step_sigma=(0.1, 0.1, 0.1)), 5, seed=0)
    with pytest.raises(InputError, match="number of steps is 0"):
        jittered_step_seconds(prediction, Jitter(), 0, seed=0)
