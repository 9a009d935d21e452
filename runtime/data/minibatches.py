"""Mini-batches of micro-batches, drawn once, so that a schedule can belong to each."""

import numpy as np

from d2ft_sched.errors import InputError


def draw_minibatches(num_samples: int, minibatch_samples: int, seed: int) -> np.ndarray:
    """Which samples make each mini-batch, int ``[num_minibatches, minibatch_samples]``.

    Samples are shuffled once; those left over at the end are in no mini-batch.

    Raises:
        InputError: there are fewer samples than one mini-batch needs.
    """
    num_minibatches = num_samples // minibatch_samples
    if num_minibatches == 0:
        raise InputError(
            f"{num_samples} training samples do not fill one mini-batch of {minibatch_samples}; "
            f"take more of them, or fewer or smaller micro-batches"
        )
    shuffled = np.random.default_rng(seed).permutation(num_samples)
    return shuffled[: num_minibatches * minibatch_samples].reshape(num_minibatches, -1)


def epoch_order(num_minibatches: int, epoch: int, seed: int) -> np.ndarray:
    """The order in which an epoch goes through the mini-batches, int ``[num_minibatches]``."""
    return np.random.default_rng((seed, epoch)).permutation(num_minibatches)
