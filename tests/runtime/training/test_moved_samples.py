"""Samples that move between replicas on gloo ranks, on a clock that counts FLOPs: one rank gets
slower, and recovers."""

import pytest

from moving_jobs import NUM_EPOCHS, SAVED, SLOW_STEPS, STEPS_PER_EPOCH, cases, move
from rank_cases import small_model
from rank_processes import said_by_ranks

NUM_RANKS = 3
CASES = cases(small_model())
each_case = pytest.mark.parametrize("name", CASES)


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What every rank saw of every case."""
    folder = tmp_path_factory.mktemp("move")
    return said_by_ranks(move, NUM_RANKS, folder)


def of_step(said: list[dict], name: str, step: int, what: str) -> list:
    return [one[name]["steps"][step - 1][what] for one in said]


@each_case
def test_the_slow_rank_s_replica_gets_fewer_samples_and_replicas_end_together(said, name):
    case = CASES[name]
    planned, (then, *others) = case.deal.samples, of_step(said, name, SAVED, "samples")
    assert others == [then] * (NUM_RANKS - 1)
    (slow,) = (i for i, r in enumerate(case.deal.replicas) if case.slow in r.devices)
    assert sum(then) == sum(planned)
    assert 1 <= then[slow] <= planned[slow] / case.slowdown + 1
    before, disturbed, later = (
        of_step(said, name, step, "busy_s") for step in (SLOW_STEPS[0], SLOW_STEPS[1], SAVED)
    )
    assert disturbed[case.slow] > 0.9 * case.slowdown * before[case.slow]
    a_sample_s = before[case.slow] / planned[slow]
    assert max(later) < max(before) * sum(planned) / (sum(planned) - planned[slow]) + a_sample_s
    assert max(later) < 0.75 * max(disturbed)


@each_case
def test_it_is_logged_with_its_reason_and_the_plan_comes_back(said, name):
    case = CASES[name]
    for one in said:
        assert one[name]["changes"] == said[0][name]["changes"]
    first, last = (said[0][name]["changes"][i] for i in (0, -1))
    assert len(said[0][name]["changes"]) <= 3
    assert SLOW_STEPS[0] < first["step"] <= SLOW_STEPS[0] + 4
    names = [[f"d{device}" for device in replica.devices] for replica in case.deal.replicas]
    assert [devices for devices, _, _ in first["shares"]] == names
    assert [before for _, before, _ in first["shares"]] == list(case.deal.samples)
    assert f"d{case.slow}: lanes take {case.slowdown:.1f}" in first["reason"]
    for devices, before, now in first["shares"]:
        assert f"samples on {' + '.join(devices)}: {before} -> {now}" in first["reason"]
    assert last["step"] <= SLOW_STEPS[-1] + 5
    assert [now for _, _, now in last["shares"]] == list(case.deal.samples)


@each_case
def test_steps_equal_those_of_one_process_before_and_after_samples_moved(said, name):
    steps = said[0][name]["steps"]
    assert len(steps) == NUM_EPOCHS * STEPS_PER_EPOCH
    assert [s["loss"] for s in steps] == pytest.approx(said[0][name]["alone"], rel=1e-9)
    assert said[0][name]["most_apart"] < 1e-9
    assert {s["num_samples"] for s in steps} == {sum(CASES[name].deal.samples)}
    assert len({s["flops"] for s in steps}) <= (1 if name == "dense" else 3)


@each_case
def test_a_state_gives_the_same_deal_again_and_steps_go_on_bitwise(said, name):
    changes = [change["step"] for change in said[0][name]["changes"] if change["step"] > SAVED]
    stays = changes[0] - SAVED
    assert stays >= 2
    for one in said:
        losses = [s["loss"] for s in one[name]["steps"]][SAVED:]
        assert one[name]["resumed"][:stays] == losses[:stays]
        assert one[name]["pace"][CASES[name].slow] == pytest.approx(CASES[name].slowdown, rel=0.1)


def test_ranks_that_come_to_different_deals_stop(said):
    for one in said:
        assert one["of another mind"] == (
            "rank 2 has another deal of samples at the beginning than rank 0"
        )
