"""What the trunk computes and moves, piece by piece as it is timed."""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.cluster.compute_curve import WorkKind
from d2ft_sched.costs.flops import TrunkFlops, trunk_flops
from d2ft_sched.costs.memory_traffic import TrunkBytes, trunk_bytes_moved
from d2ft_sched.costs.vocabulary_head import head_bytes_moved
from d2ft_sched.model.workload import Workload


@dataclass(frozen=True)
class TrunkPiece:
    """Work of an owner that one curve times.

    Attributes:
        kinds: of its forward and its backward pass.
        flops, moved: of every micro-batch.
    """

    kinds: tuple[WorkKind, WorkKind]
    flops: TrunkFlops
    moved: TrunkBytes

    @property
    def directions(self) -> tuple[tuple[WorkKind, np.ndarray, np.ndarray], ...]:
        """Kind, FLOPs and bytes moved, forward and backward."""
        return (
            (self.kinds[0], self.flops.forward, self.moved.forward),
            (self.kinds[1], self.flops.backward, self.moved.backward),
        )


def trunk_pieces(
    workload: Workload, num_running: np.ndarray | None = None
) -> tuple[TrunkPiece, ...]:
    """Norms, residuals, embedding and classifier, which memory binds; and a head over a vocabulary,
    a product like those of MLPs, whose curve times it.

    Args:
        workload: the model and its micro-batches.
        num_running: as of `trunk_bytes_moved`.
    """
    flops, moved = trunk_flops(workload), trunk_bytes_moved(workload, num_running)
    kinds = (WorkKind.TRUNK_FORWARD, WorkKind.TRUNK_BACKWARD)
    if not workload.shape.vocabulary_size:
        return (TrunkPiece(kinds, flops, moved),)
    of_head = workload.samples * float(workload.shape.classifier_flops)
    head = TrunkFlops(of_head, of_head * (1 + workload.head_trains))
    rest = TrunkFlops(flops.forward - head.forward, flops.backward - head.backward)
    return (
        TrunkPiece(kinds, rest, moved),
        TrunkPiece(
            (WorkKind.MLP_FORWARD, WorkKind.MLP_BACKWARD),
            head,
            TrunkBytes(*head_bytes_moved(workload)),
        ),
    )
