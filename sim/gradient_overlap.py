"""When gradients are summed, while backward goes on.

A sum may start when all replicas have been through its block. Sums that need the same link are
carried one after another, in the order of issue. Exchanges go first: they take as long as without
sums, and a sum gets what they leave of its links. So no link ever carries more than it can; that
runtimes share links differently moves time between the two, but not the end of both.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from d2ft_sched.cluster.cluster import Cluster
from sim.network.exchange_time import channel_seconds, link_loads
from sim.prediction import Phase


@dataclass(frozen=True, eq=False)
class Contention:
    """What sums and exchanges of a step take from one another; phases by index.

    Attributes:
        group: of every sum, by the links that it needs.
        conflicts: whether sums of two groups need the same link, bool ``[num_groups, num_groups]``.
        taken: of every group, the part of its pace that exchanges take while they are under way.
    """

    group: dict[int, int]
    conflicts: np.ndarray
    taken: tuple[dict[int, float], ...]


def contention(cluster: Cluster, phases: Sequence[Phase]) -> Contention:
    """Find out from the phases of a step, in the order of issue; starts are not looked at."""
    group_of: dict[bytes, int] = {}
    group: dict[int, int] = {}
    need: list[np.ndarray] = []
    for index, phase in enumerate(phases):
        if not phase.is_sum or phase.pair_bytes is None:
            continue
        key = (phase.pair_bytes > 0).tobytes()
        if key not in group_of:
            group_of[key] = len(need)
            need.append(_pace(cluster, phase))
        group[index] = group_of[key]
    if not need:
        return Contention({}, np.zeros((0, 0), dtype=bool), ())
    needed = np.stack(need)
    used = needed > 0
    taken = tuple(dict[int, float]() for _ in need)
    known: dict[bytes, np.ndarray] = {}
    for index, phase in enumerate(phases):
        if phase.pair_bytes is None or phase.is_sum or phase.direction != "backward":
            continue
        if not phase.duration_s:
            continue
        key = phase.pair_bytes.tobytes()
        if key not in known:
            left = np.maximum(0.0, 1 - _pace(cluster, phase))
            pace = np.divide(left, needed, out=np.ones_like(needed), where=used)
            known[key] = 1 - np.minimum(1.0, pace.min(axis=1))
        for of_group, lost in zip(taken, known[key].tolist(), strict=True):
            if lost > 0:
                of_group[index] = lost
    return Contention(group, used.astype(int) @ used.T.astype(int) > 0, taken)


def _pace(cluster: Cluster, phase: Phase) -> np.ndarray:
    """Part of the bandwidth of every channel that messages take, ``[num_directed_links]``."""
    assert phase.pair_bytes is not None
    busy_s = channel_seconds(cluster, link_loads(cluster, phase.pair_bytes))
    return np.minimum(1.0, busy_s / phase.alone_s) if phase.alone_s else np.zeros_like(busy_s)


def sum_times(
    found: Contention,
    sums: Iterable[tuple[int, float | np.ndarray, float]],
    under_way: dict[int, tuple[np.ndarray, np.ndarray]],
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Start and end of every sum, float ``[]`` or ``[num_steps]``.

    Args:
        found: from `contention`.
        sums: index, seconds at which it may start, and seconds that it takes alone; in the order of
            issue.
        under_way: start and end of every exchange in backward, by index.
    """
    free_s: list[np.ndarray] = [np.zeros(()) for _ in found.taken]
    progress: dict[int, list[_Progress]] = {}
    times = {}
    for index, ready_s, alone_s in sums:
        group = found.group[index]
        start_s = np.asarray(ready_s, dtype=float)
        for other in np.flatnonzero(found.conflicts[group]).tolist():
            start_s = np.maximum(start_s, free_s[other])
        if found.taken[group]:
            if group not in progress:
                progress[group] = _progress(found.taken[group], under_way)
            ends = [
                one.end_s(float(at_s), alone_s)
                for one, at_s in zip(
                    progress[group],
                    np.broadcast_to(start_s.ravel(), len(progress[group])),
                    strict=True,
                )
            ]
            end_s = np.array(ends).reshape(start_s.shape if len(ends) == 1 else -1)
        else:
            end_s = start_s + alone_s
        free_s[group] = end_s
        times[index] = (start_s, end_s)
    return times


@dataclass(frozen=True)
class _Progress:
    """How far sums of a group would be at some moments, had they never paused, in seconds of
    work; between them the pace is even, and full after the last."""

    moment_s: np.ndarray
    done_s: np.ndarray

    def end_s(self, start_s: float, alone_s: float) -> float:
        """When a sum that starts then is done."""
        if not alone_s:
            return start_s
        goal_s = self._at(start_s) + alone_s
        last_s, last_done_s = float(self.moment_s[-1]), float(self.done_s[-1])
        if goal_s >= last_done_s:
            return max(start_s, last_s) + goal_s - max(self._at(start_s), last_done_s)
        after = int(np.searchsorted(self.done_s, goal_s))
        first_s, first_done_s = self.moment_s[after - 1], self.done_s[after - 1]
        pace = (self.done_s[after] - first_done_s) / (self.moment_s[after] - first_s)
        return float(max(start_s, first_s + (goal_s - first_done_s) / pace))

    def _at(self, moment_s: float) -> float:
        last_s = float(self.moment_s[-1])
        within = float(np.interp(moment_s, self.moment_s, self.done_s))
        return within + max(0.0, moment_s - last_s)


def _progress(
    taken: dict[int, float], under_way: dict[int, tuple[np.ndarray, np.ndarray]]
) -> list[_Progress]:
    """One for each step."""
    lost = np.array(list(taken.values()))
    starts = np.stack(np.broadcast_arrays(*(np.atleast_1d(under_way[i][0]) for i in taken)))
    ends = np.stack(np.broadcast_arrays(*(np.atleast_1d(under_way[i][1]) for i in taken)))
    found = []
    for start_s, end_s in zip(starts.T, ends.T, strict=True):
        moment_s = np.concatenate([[0.0], start_s, end_s])
        change = np.concatenate([[0.0], -lost, lost])
        order = np.argsort(moment_s, kind="stable")
        moment_s = moment_s[order]
        pace = np.clip(1 + np.cumsum(change[order]), 0.0, 1.0)
        done_s = np.concatenate([[0.0], np.cumsum(pace[:-1] * np.diff(moment_s))])
        found.append(_Progress(moment_s, done_s))
    return found
