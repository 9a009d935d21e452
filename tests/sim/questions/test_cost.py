"""Price and energy of a step: of what is stated, and absent where it is not."""

from dataclasses import replace

import pytest

from sim.questions.cost import device_cost, step_cost


def priced(step, *facts):
    devices = tuple(replace(d, **f) for d, f in zip(step.cluster.devices, facts, strict=True))
    return step.on(replace(step.cluster, devices=devices))


def test_every_device_is_paid_for_the_whole_step(random_step):
    step = priced(
        random_step(4, num_devices=2),
        {"price_per_hour": 3.6, "power_w": 200.0, "idle_power_w": 50.0},
        {"price_per_hour": 0.0, "power_w": 10.0, "idle_power_w": 1.0},
    )
    cost = step_cost(step)
    busy, idle = step.device_busy_s, step.device_idle_s
    assert cost.price == pytest.approx(3.6 / 3600 * step.step_s)
    assert cost.busy_energy_j == pytest.approx(200 * busy[0] + 10 * busy[1])
    assert cost.idle_energy_j == pytest.approx(50 * idle[0] + idle[1])
    assert cost.energy_j == pytest.approx(cost.busy_energy_j + cost.idle_energy_j)
    summary = cost.summary()
    assert summary["price_per_1000_steps"] == pytest.approx(1000 * cost.price)
    assert summary["energy_j_per_1000_steps"] == pytest.approx(1000 * cost.energy_j)
    assert device_cost(step)["price"].sum() == pytest.approx(cost.price)


def test_nothing_is_made_up(random_step):
    step = priced(random_step(4, num_devices=2), {"price_per_hour": 1.0, "power_w": 10.0}, {})
    assert step.device_busy_s.all()
    cost = step_cost(step)
    assert (cost.price, cost.busy_energy_j, cost.energy_j) == (None, None, None)
    assert cost.summary() == {}
    table = device_cost(step).set_index("device")
    assert table.loc["d0", "price"] == pytest.approx(step.step_s / 3600)
    assert table.loc["d1"].isna().all()


def test_a_device_that_never_computes_needs_no_power_stated(random_step):
    step = random_step(4, num_devices=2)
    placement = replace(
        step.placement,
        subnet_device=(0,) * len(step.placement.subnet_device),
        owner=(0,) * len(step.placement.owner),
    )
    cost = step_cost(priced(replace(step, placement=placement), {"power_w": 7.0}, {}))
    assert cost.busy_energy_j is not None
    assert (cost.price, cost.energy_j) == (None, None)
    assert set(cost.summary()) == {"busy_energy_j", "busy_energy_j_per_1000_steps"}
