"""What a lane group computes and must not leave behind, set to zero."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Mask:
    """Which heads or hidden units of which samples count, bool ``[b, units]``; its tensors are made
    once."""

    kept: np.ndarray
    _made: dict[tuple[torch.dtype, torch.device, tuple[int, ...], type], Tensor] = field(
        default_factory=dict, repr=False
    )

    def apply(self, values: Tensor, parts: tuple[int, ...], *, in_place: bool = False) -> Tensor:
        """Values ``[b N, columns]``, zero where they do not count.

        Args:
            values: of the group's samples.
            parts: columns of each unit in every part, as in `runtime.lanes.units.Units`.
            in_place: whether they may be overwritten.
        """
        mask = self._tensor(values, parts)
        shaped = values.view(len(mask), -1, mask.shape[2])
        if in_place:
            shaped.mul_(mask)
            return values
        return (shaped * mask).view(values.shape)

    def _tensor(self, like: Tensor, parts: tuple[int, ...]) -> Tensor:
        key = like.dtype, like.device, parts, type(like)
        if key not in self._made:
            columns = np.concatenate([np.repeat(self.kept, width, axis=1) for width in parts], 1)
            made = torch.as_tensor(columns[:, None], device=like.device)
            self._made[key] = made.to(like.dtype)
        return self._made[key]


@dataclass(frozen=True, eq=False)
class Masks:
    """Those of a lane group; None where all of it counts.

    Attributes:
        runs: results, of all but SHORTCUT.
        passes: gradients of results, of FULL and REST.
        trains: results and gradients of units that train which dW is made of, of FULL.
        train_what_runs: of units that train, `runs` leaves what `trains` does.
        train_what_passes: likewise `passes`.
    """

    runs: Mask | None = None
    passes: Mask | None = None
    trains: Mask | None = None
    train_what_runs: bool = True
    train_what_passes: bool = True


NO_MASKS = Masks()


def masks_of(
    runs: np.ndarray, passes: np.ndarray, trains: np.ndarray, trained: np.ndarray
) -> Masks:
    """From what counts, bool ``[b, units]`` each, and which units get a gradient, bool
    ``[units]``; equal ones are one mask."""
    every = np.ones_like(runs).tobytes()
    made: dict[bytes, Mask | None] = {every: None}
    all_of_trained = bool(trains[:, trained].all())
    for kept in (runs, passes, trains):
        made.setdefault(kept.tobytes(), Mask(kept))
    return Masks(
        made[runs.tobytes()],
        made[passes.tobytes()],
        made[every if all_of_trained else trains.tobytes()],
        train_what_runs=bool((runs == trains)[:, trained].all()),
        train_what_passes=bool((passes == trains)[:, trained].all()),
    )
