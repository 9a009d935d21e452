"""Blocks that rest by what a training has seen."""

import numpy as np

from d2ft_sched.schedule.operations import Operation
from runtime.peers.scored_rest import ScoredRest

UNIT = np.repeat(np.arange(4), 2)


def trained(schedule):
    return {int(u) for u in UNIT[(schedule == Operation.FULL).any(axis=1)]}


def schedules():
    first = np.full((8, 3), Operation.REST, dtype=np.int8)
    first[:2] = Operation.FULL
    first[:, 2] = Operation.SHORTCUT
    return first, ScoredRest(first, UNIT, seed=0)


def test_units_are_drawn_by_the_sums_that_were_seen():
    first, scored = schedules()
    seen = np.full((8, 3), np.nan)
    seen[:, :2] = np.repeat([0.0, 1.0, 0.0, 3.0], 2)[:, None]
    before = [next(iter(trained(scored(step, 0)))) for step in range(400)]
    scored.see(0, seen)
    after = [next(iter(trained(scored(step, 0)))) for step in range(400)]
    assert min(np.bincount(before, minlength=4)) > 70
    times = np.bincount(after, minlength=4)
    assert (times[0], times[2]) == (0, 0)
    assert 240 < times[3] < 360
    for step in range(5):
        schedule = scored(step, 0)
        assert (schedule[:, 2] == Operation.SHORTCUT).all()
        assert len(trained(schedule)) == len(trained(first)) == 1


def test_what_was_not_seen_counts_as_the_mean_and_averages_go_on():
    _, scored = schedules()
    seen = np.full((8, 3), np.nan)
    seen[2:4, 0] = 1.0
    scored.see(0, seen)
    times = np.bincount([next(iter(trained(scored(step, 0)))) for step in range(400)], minlength=4)
    assert min(times) > 70
    seen[2:4, 0] = 0.0
    for _ in range(400):
        scored.see(0, seen)
    seen[0:2, 0] = 1.0
    scored.see(0, seen)
    times = np.bincount([next(iter(trained(scored(step, 0)))) for step in range(400)], minlength=4)
    assert times[1] == 0
