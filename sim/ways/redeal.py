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
            f"of {len(given)} "
            f"with {counted(sum(wanted), 'sample')} together"
        )
    if tuple(given) == tuple(wanted):
        return scores
    ends, new_ends = np.cumsum(given), np.cumsum(wanted)
    starts, new_starts = ends - given, new_ends - wanted
    common = np.minimum(ends[:, None], new_ends) - np.maximum(starts[:, None], new_starts)
    part = np.maximum(common, 0) / np.array(given)[:, None]
    return Scores(scores.forward @ part, scores.backward @ part)
