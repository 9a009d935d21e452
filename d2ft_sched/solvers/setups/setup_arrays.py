"""A problem with setups as one mixed-integer programme in sparse arrays.

Three binary variables per item, for FORWARD_ONLY, FULL and REST; SHORTCUT is all at 0. One more per
group: at least every FULL of it, at most what every REST of it leaves of 1.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from d2ft_sched.problem.setups import SetupProblem
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.solvers.mip_arrays import MipArrays, ProgrammeRows
from d2ft_sched.solvers.setups.setup_rows import NUM_CHOICES, SetupRows

ACTIVE = np.array([Operation.FORWARD_ONLY, Operation.FULL, Operation.REST])


@dataclass(frozen=True, eq=False)
class SetupArrays(MipArrays):
    """As `MipArrays`; variable ``j * num_items + item`` is operation ``ACTIVE[j]`` of an item, then
    come the groups.

    Attributes:
        group: of each subnet.
    """

    group: np.ndarray

    @property
    def num_item_variables(self) -> int:
        return self.num_variables - int(self.group.max()) - 1

    @property
    def largest(self) -> float:
        """Value of the best operation of every item: a bound that takes no solver."""
        gain = self.objective[: self.num_item_variables].reshape(len(ACTIVE), -1).max(axis=0)
        return self.offset + self.scale * float(np.maximum(gain, 0.0).sum())

    def schedule(self, x: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Operations, int8 of the given shape, from the values of the variables."""
        chosen = ACTIVE @ np.round(x[: self.num_item_variables]).reshape(len(ACTIVE), -1)
        return np.clip(chosen, 0, Operation.REST).astype(np.int8).reshape(shape)

    def variables(self, schedule: np.ndarray) -> np.ndarray:
        """Inverse of `schedule`."""
        of_items = schedule.ravel() == ACTIVE[:, None]
        full = (schedule == Operation.FULL).any(axis=1)
        of_groups = np.bincount(self.group, full, minlength=int(self.group.max()) + 1) > 0
        return np.concatenate([of_items.ravel(), of_groups]).astype(float)


def setup_arrays(problem: SetupProblem, limits: SetupRows) -> SetupArrays:
    """The programme of a problem, of which `limits` are the rows."""
    num_items, num_groups = problem.problem.num_items, problem.num_groups
    value = problem.value.reshape(-1, NUM_CHOICES).T
    item = np.arange(num_items)
    group = len(ACTIVE) * num_items + np.repeat(problem.group, problem.problem.num_microbatches)
    full, rest = num_items + item, 2 * num_items + item
    active = np.arange(len(ACTIVE))[:, None] * num_items
    rows = ProgrammeRows()
    one = np.ones(num_items)
    count = len(ACTIVE)
    rows.add(np.tile(item, count), (active + item).ravel(), np.tile(one, count), one)
    needed = np.flatnonzero(~limits.allowed[Operation.SHORTCUT])
    rows.add(
        np.tile(np.arange(len(needed)), count),
        (active + needed).ravel(),
        -np.ones(count * len(needed)),
        -np.ones(len(needed)),
    )
    both = np.tile(item, 2)
    trains = np.concatenate([full, group]), np.concatenate([one, -one])
    rests = np.concatenate([rest, group]), np.concatenate([one, one])
    rows.add(both, *trains, np.zeros(num_items))
    rows.add(both, *rests, one)
    by_choice = [limits.matrix[:, j * num_items : (j + 1) * num_items] for j in range(NUM_CHOICES)]
    skipped = by_choice[Operation.SHORTCUT]
    setups = limits.matrix[:, NUM_CHOICES * num_items :]
    extra = sparse.coo_array(sparse.hstack([*(by_choice[o] - skipped for o in ACTIVE), setups]))
    left = limits.limit - np.asarray(skipped.sum(axis=1)).ravel()
    possible = np.concatenate([limits.allowed[ACTIVE].ravel(), limits.may_train])
    used = possible[extra.col] & (extra.data != 0)
    rows.add_scaled(extra.row[used], extra.col[used], extra.data[used], left)
    row, column, coefficient = rows.joined()
    base = np.where(limits.allowed[Operation.SHORTCUT], value[Operation.SHORTCUT], 0.0)
    gain = np.where(limits.allowed[ACTIVE], value[ACTIVE] - base, 0.0).ravel()
    scale = float(np.abs(gain).max()) or 1.0
    return SetupArrays(
        objective=np.concatenate([gain / scale, np.zeros(num_groups)]),
        scale=scale,
        offset=float(base.sum()),
        possible=possible,
        row=row,
        column=column,
        coefficient=coefficient,
        upper=np.concatenate(rows.upper),
        whole=np.concatenate(rows.whole),
        group=problem.group,
    )
