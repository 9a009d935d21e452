"""The samples of a data set that one rank reads."""

from collections.abc import Generator, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from runtime.data.dataset import Batch, Samples, Wanted
from runtime.ranks.rank_model import RankModel


class OwnSamples:
    """The samples of a rank on its device; of all samples the labels and where they are padded."""

    def __init__(self, model: RankModel, samples: Samples, is_own: np.ndarray) -> None:
        self._model, self._device = model, model.ranks.device
        self.labels = samples.labels
        stored = samples.in_memory
        mask = None if stored is None else model.family.key_mask(model.module, stored)
        self.key_mask = None if mask is None else mask.to(self._device)
        self._own = samples.own(is_own).to(self._device)

    def read(self, wanted: Iterable[Wanted]) -> Generator[Batch, None, None]:
        """As `runtime.data.dataset.Samples.read`, of the rank's own samples."""
        return self._own.read(wanted)

    def passes(self, rows_of: Sequence[np.ndarray]) -> Iterator[Tensor]:
        """Some of the rank's own samples after others, as the model takes them."""
        for rows, batch in zip(rows_of, self.read(map(Wanted, rows_of)), strict=True):
            yield self.inputs(batch, rows)

    def inputs(self, batch: Batch, rows: np.ndarray) -> Tensor:
        """Of a batch, as the model takes them."""
        return self._model.family.to_inputs(self._model.module, batch.of(rows))

    def key_mask_of(self, samples: np.ndarray) -> Tensor | None:
        """Of any samples."""
        if self.key_mask is None:
            return None
        return self.key_mask[torch.from_numpy(samples).to(self._device)]
