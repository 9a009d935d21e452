"""Scores of one cut of a mini-batch into micro-batches, for another cut of the same samples."""

from collections.abc import Sequence

import numpy as np

from d2ft_sched.errors import InputError
from d2ft_sched.files.counted import counted
from d2ft_sched.problem.scores import Scores


def redealt_scores(scores: Scores, given: Sequence[int], wanted: Sequence[int]) -> Scores:
    """Every sample takes an equal part of its micro-batch's score along.

    Args:
        scores: of every subnet and given micro-batch.
        given: samples of those micro-batches, neighbours in the mini-batch.
        wanted: of the micro-batches to score, of the same samples in the same order.

    Raises:
        InputError: the samples differ in number, or the scores in shape.
    """
    if sum(given) != sum(wanted) or scores.forward.shape[1] != len(given):
        raise InputError(
            f"scores are of {counted(scores.forward.shape[1], 'micro-batch')}; they must be "
            f"of {len(given)} with {counted(sum(wanted), 'sample')} together"
        )
    if tuple(given) == tuple(wanted):
        return scores
    ends, new_ends = np.cumsum(given), np.cumsum(wanted)
    stops = np.union1d(ends, new_ends)  # of stretches that lie in one micro-batch of either cut
    of_given, of_wanted = np.searchsorted(ends, stops), np.searchsorted(new_ends, stops)
    part = np.diff(stops, prepend=0) / np.array(given)[of_given]
    firsts = np.searchsorted(of_wanted, np.arange(len(wanted)))

    def dealt(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values[:, of_given] * part, firsts, axis=1)

    return Scores(dealt(scores.forward), dealt(scores.backward))
