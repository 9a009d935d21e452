"""Which samples a rank needs."""

from collections.abc import Sequence

import numpy as np

from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.replica import Replica, microbatch_owners
from runtime.data.minibatches import Minibatches


def training_owners(
    minibatches: Minibatches, workload: Workload, replicas: Sequence[Replica]
) -> np.ndarray:
    """The rank that owns each training sample in the first epoch, int ``[num_samples]``.

    Samples that it leaves out belong to the first owner, which sees them in the fit of the
    classifier.
    """
    of_minibatch = np.repeat(microbatch_owners(replicas), workload.samples)
    owner = np.full(minibatches.num_samples, of_minibatch.min())
    owner[minibatches.of_epoch(1)] = of_minibatch[None, :]
    return owner


def training_needs(
    minibatches: Minibatches,
    num_epochs: int,
    workload: Workload,
    replicas: Sequence[Replica],
    rank: int,
    *,
    moves: bool = False,
) -> np.ndarray:
    """Which training samples a rank owns in some epoch, bool ``[num_samples]``; where samples move
    between replicas, an owner may come to own any."""
    if moves:
        return np.full(minibatches.num_samples, rank in microbatch_owners(replicas))
    needed = training_owners(minibatches, workload, replicas) == rank
    own = np.repeat(microbatch_owners(replicas), workload.samples) == rank
    for epoch in range(2, min(num_epochs, minibatches.num_different_epochs) + 1):
        needed[minibatches.of_epoch(epoch)[:, own]] = True
    return needed


def testing_owners(num_samples: int, replicas: Sequence[Replica]) -> np.ndarray:
    """The rank that classifies each test sample, in equal runs, int ``[num_samples]``."""
    owners = np.unique(microbatch_owners(replicas))
    return owners[np.arange(num_samples) * len(owners) // num_samples]
