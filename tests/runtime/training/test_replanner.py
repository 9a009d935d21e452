"""Re-planning on gloo ranks, on a clock that counts FLOPs: one rank gets slower, and recovers."""

import numpy as np
import pytest

from rank_processes import said_by_ranks
from replan_jobs import replan

NUM_RANKS, SLOW, SLOWDOWN = 3, 1, 2.5


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What every rank saw; the slow one is so from step 9 to step 24."""
    folder = tmp_path_factory.mktemp("replan")
    return said_by_ranks(replan, NUM_RANKS, folder, slow=SLOW, slowdown=SLOWDOWN)


def operations(rows: list[str], held: list[int]) -> int:
    """FULL and FORWARD_ONLY of some subnets."""
    return sum(letter != "S" for subnet in held for letter in rows[subnet])


def busy_s(said: list[dict], step: int) -> float:
    """Seconds that the slow rank computes in a step."""
    return said[SLOW]["steps"][step - 1]["busy_s"]


def test_all_ranks_hold_the_same_schedule_after_every_step(said):
    for other in said[1:]:
        assert [s["rows"] for s in other["steps"]] == [s["rows"] for s in said[0]["steps"]]
        assert other["changes"] == said[0]["changes"]


def test_the_slow_rank_gets_fewer_operations_and_the_others_keep_theirs(said):
    planned, then = np.array(said[0]["planned"]), np.array(said[0]["middle"])
    held = np.array(said[0]["held"])
    others = np.setdiff1d(np.arange(len(planned)), held)
    fewer = operations(then, held) / operations(planned, held)
    assert 0 < fewer < 1 / SLOWDOWN
    assert (then[others] == planned[others]).all()


def test_it_computes_as_long_as_before_and_the_plan_comes_back(said):
    before, disturbed, later, recovered = (busy_s(said, k) for k in (7, 9, 20, 32))
    assert disturbed == pytest.approx(SLOWDOWN * before)
    assert 0.8 * before < later < 1.1 * before
    assert recovered == pytest.approx(before)
    assert said[0]["steps"][-1]["rows"] == said[0]["planned"]


def test_it_happens_within_a_few_steps_and_is_logged_with_its_reason(said):
    changes = said[0]["changes"]
    assert {name for change in changes for name in change["devices"]} == {f"d{SLOW}"}
    first = next(change for change in changes if change["step"] > 8)
    assert first["step"] <= 12
    assert f"d{SLOW}: lanes take 2.5" in first["reason"]
    assert "FULL" in first["reason"]
    back = [change["step"] for change in changes if change["step"] > 24]
    assert back
    assert back[0] <= 28


def test_a_state_gives_the_same_schedule_again(said):
    for one in said:
        assert one["again"] == one["middle"] != one["planned"]
        assert one["same_state"]
