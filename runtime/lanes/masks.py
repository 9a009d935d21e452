"""What a lane group computes and must not leave behind, set to zero."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Mask:
    """Which heads or hidden units of which samples count; its tensors are made once.

    Attributes:
        kept: bool ``[b, units]``.
        unit_width: columns of a unit: channels of a head, or 1.
    """

    kept: np.ndarray
    unit_width: int
    _made: dict[tuple[torch.dtype, torch.device, int, type], Tensor] = field(
        default_factory=dict, repr=False
    )

    def apply(self, values: Tensor, num_parts: int = 1, *, in_place: bool = False) -> Tensor:
        """Values ``[b N, num_parts * units * unit_width]``, zero where they do not count."""
        mask = self._tensor(values, num_parts)
        shaped = values.view(len(mask), -1, mask.shape[2])
        if in_place:
            shaped.mul_(mask)
            return values
        return (shaped * mask).view(values.shape)

    def _tensor(self, like: Tensor, num_parts: int) -> Tensor:
        key = like.dtype, like.device, num_parts, type(like)
        if key not in self._made:
            columns = np.tile(np.repeat(self.kept, self.unit_width, axis=1), (1, num_parts))
            made = torch.as_tensor(columns[:, None], device=like.device)
            self._made[key] = made.to(like.dtype)
        return self._made[key]


@dataclass(frozen=True, eq=False)
class Masks:
    """Those of a lane group; None where all of it counts.

    Attributes:
        runs: results, of all but SHORTCUT.
        passes: gradients of results, of FULL and REST.
        trains: results and gradients that dW is made of, of FULL.
    """

    runs: Mask | None = None
    passes: Mask | None = None
    trains: Mask | None = None

    @property
    def train_what_runs(self) -> bool:
        return self.trains is self.runs

    @property
    def train_what_passes(self) -> bool:
        return self.trains is self.passes


NO_MASKS = Masks()


def masks_of(runs: np.ndarray, passes: np.ndarray, trains: np.ndarray, unit_width: int) -> Masks:
    """From what counts, bool ``[b, units]`` each; equal ones are one mask."""
    made: dict[bytes, Mask | None] = {np.ones_like(runs).tobytes(): None}
    for kept in (runs, passes, trains):
        made.setdefault(kept.tobytes(), Mask(kept, unit_width))
    return Masks(made[runs.tobytes()], made[passes.tobytes()], made[trains.tobytes()])
