"""Contribution scores of subnets to micro-batches, their file, and the value of operations."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from d2ft_sched.errors import InputError
from d2ft_sched.files.atomic_write import write_text
from d2ft_sched.files.counted import counted
from d2ft_sched.files.text_file import read_text
from d2ft_sched.schedule.operations import NUM_OPERATIONS, Operation

FORWARD_WEIGHT = 0.25
"""Share of the forward score in the value of FULL. A forward pass costs a third of FULL, so below
1/3 training a subnet of average scores is worth more per FLOP than only running it."""

COLUMNS = ("subnet", "microbatch", "forward_score", "backward_score")


@dataclass(frozen=True)
class Scores:
    """What running a subnet on a micro-batch is worth, unnormalised.

    Attributes:
        forward: contribution to the forward result, float >= 0 ``[num_subnets, num_microbatches]``.
        backward: contribution to the weight update, of the same shape.

    Raises:
        InputError: shapes differ, or a score is negative, NaN or infinite.
    """

    forward: np.ndarray
    backward: np.ndarray

    def __post_init__(self) -> None:
        if self.forward.ndim != 2 or self.forward.shape != self.backward.shape:
            raise InputError(
                f"scores: forward has shape {list(self.forward.shape)}, backward "
                f"{list(self.backward.shape)}; both must be [num_subnets, num_microbatches]"
            )
        for name, table in (("forward", self.forward), ("backward", self.backward)):
            wrong = np.argwhere(~(np.isfinite(table) & (table >= 0)))
            if len(wrong):
                s, i = wrong[0]
                raise InputError(
                    f"scores: {name} score of subnet {s}, micro-batch {i} is {table[s, i]}; "
                    f"it must be a finite number of at least 0"
                )

    def values(self, forward_weight: float = FORWARD_WEIGHT) -> np.ndarray:
        """Value of every operation, float ``[num_subnets, num_microbatches, 3]``.

        Each score is divided by its mean over the table, so that both have mean 1; a table of zeros
        stays zero. FORWARD_ONLY is worth ``forward_weight`` x forward score, FULL that plus
        ``1 - forward_weight`` x backward score, SHORTCUT nothing.
        """
        if not 0 <= forward_weight <= 1:
            raise InputError(f"forward weight is {forward_weight}; it must be between 0 and 1")
        value = np.zeros((*self.forward.shape, NUM_OPERATIONS))
        forward = forward_weight * _unit_mean(self.forward)
        value[..., Operation.FORWARD_ONLY] = forward
        value[..., Operation.FULL] = forward + (1 - forward_weight) * _unit_mean(self.backward)
        return value


def by_block(scores: Scores, block: np.ndarray) -> Scores:
    """Backward scores over the mean of their block, so that no block counts more than another.

    Args:
        scores: of any subnets.
        block: of each of them, int ``[num_subnets]``.
    """
    totals = np.bincount(block, scores.backward.sum(axis=1))
    counts = np.bincount(block) * scores.backward.shape[1]
    mean = np.where(totals > 0, totals / np.maximum(counts, 1), 1.0)
    return Scores(scores.forward, scores.backward / mean[block][:, None])


def uniform_scores(num_subnets: int, num_microbatches: int) -> Scores:
    """Every subnet contributes alike to every micro-batch."""
    ones = np.ones((num_subnets, num_microbatches))
    return Scores(ones, ones)


def drawn_scores(num_subnets: int, num_microbatches: int, seed: int, step: int) -> Scores:
    """Micro-batches in an order drawn for a step, the same for all subnets.

    What has to be dropped is then dropped by all alike, so that a forward pass keeps its meaning,
    and no sample is dropped in every epoch.
    """
    backward = np.random.default_rng((seed, step)).uniform(0.5, 1.5, num_microbatches)
    table = np.broadcast_to(backward, (num_subnets, num_microbatches))
    return Scores(np.ones_like(table), table)


def _unit_mean(table: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        mean = table.mean()
    if np.isinf(mean):
        table = table / table.max()
        mean = table.mean()
    return table / mean if mean > 0 else table


def save_scores(scores: Scores, path: Path) -> None:
    """Write a CSV table with one row per subnet and micro-batch; floats round-trip exactly."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for s, i in np.ndindex(scores.forward.shape):
        writer.writerow(
            (s, i, repr(float(scores.forward[s, i])), repr(float(scores.backward[s, i])))
        )
    write_text(path, text.getvalue())


def load_scores(path: Path, num_subnets: int, num_microbatches: int) -> Scores:
    """Read what `save_scores` wrote, rows in any order.

    Raises:
        InputError: not such a table, or a cell missing, doubled, out of range or not a number.
    """
    try:
        rows = list(csv.reader(io.StringIO(read_text(path, "a scores table"))))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except csv.Error as error:
        raise InputError(f"{path}: is not a scores table ({error})") from None
    if not rows or tuple(rows[0]) != COLUMNS:
        raise InputError(
            f"{path}: is not a scores table: the first line must be {','.join(COLUMNS)}"
        )
    forward = np.full((num_subnets, num_microbatches), np.nan)
    backward = np.full((num_subnets, num_microbatches), np.nan)
    filled = np.zeros((num_subnets, num_microbatches), dtype=bool)
    for line, row in enumerate(rows[1:], start=2):
        try:
            subnet, microbatch, *scores = row
            s, i = int(subnet), int(microbatch)
            score_f, score_b = map(float, scores)
        except ValueError:
            raise InputError(
                f"{path}: line {line} is {','.join(row)!r}; it must be two indices, two numbers"
            ) from None
        if not (0 <= s < num_subnets and 0 <= i < num_microbatches):
            raise InputError(
                f"{path}: line {line} is of subnet {s}, micro-batch {i}; the plan has "
                f"{counted(num_subnets, 'subnet')} and {counted(num_microbatches, 'micro-batch')}"
            )
        if filled[s, i]:
            raise InputError(f"{path}: line {line} repeats subnet {s}, micro-batch {i}")
        forward[s, i], backward[s, i], filled[s, i] = score_f, score_b, True
    if not filled.all():
        s, i = np.argwhere(~filled)[0]
        raise InputError(f"{path}: subnet {s}, micro-batch {i} has no line")
    try:
        return Scores(forward, backward)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
