"""Which samples a rank needs."""

import numpy as np

from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.placement import Placement
from runtime.data.minibatches import Minibatches


def training_owners(
    minibatches: Minibatches, workload: Workload, placement: Placement
) -> np.ndarray:
    """The rank that owns each training sample in the first epoch, int ``[num_samples]``.

    Samples that it leaves out belong to the first owner, which sees them in the fit of the
    classifier.
    """
    owner = np.full(minibatches.num_samples, placement.owners[0])
    owner[minibatches.of_epoch(1)] = np.repeat(placement.owner, workload.samples)[None, :]
    return owner


def training_needs(
    minibatches: Minibatches, num_epochs: int, workload: Workload, placement: Placement, rank: int
) -> np.ndarray:
    """Which training samples a rank owns in some epoch, bool ``[num_samples]``."""
    needed = training_owners(minibatches, workload, placement) == rank
    own = np.repeat(placement.owner, workload.samples) == rank
    for epoch in range(2, min(num_epochs, minibatches.num_different_epochs) + 1):
        needed[minibatches.of_epoch(epoch)[:, own]] = True
    return needed


def testing_owners(num_samples: int, placement: Placement) -> np.ndarray:
    """The rank that classifies each test sample, in equal runs, int ``[num_samples]``."""
    owners = np.array(placement.owners)
    return owners[np.arange(num_samples) * len(owners) // num_samples]
