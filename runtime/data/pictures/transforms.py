"""From a picture to the tensor that is stored: as timm evaluates a model, or changed for training.

Every picture that is changed is drawn with a seed of its own, so that the one of a seed, an epoch
and a sample is the same whoever reads it.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from runtime.data.input_format import PictureFormat

Augment = Literal["none", "light", "timm"]
"""What is done to training pictures.

``none``: as for evaluation. ``light``: a random crop of half to all of the area, mirrored or not,
with little change of brightness, contrast and saturation. ``timm``: what recipes for timm's ViTs
have, a random crop of 8 to 100 % of the area, mirrored or not, RandAugment (which changes colours,
so that timm leaves the other change of them out), and a rectangle erased.
"""
AUGMENTS: tuple[Augment, ...] = get_args(Augment)

RAND_AUGMENT = "rand-m9-mmax9-mstd0.5-inc1"
"""timm's name for two of its operations at magnitudes around 9, as the recipes of its ViTs have
them, but none above: at 10 it asks for pictures of no bits, which Pillow 13 refuses."""
_OPTIONS: dict[Augment, dict[str, Any]] = {
    "light": {"scale": (0.5, 1.0), "color_jitter": 0.1},
    "timm": {"auto_augment": RAND_AUGMENT, "interpolation": "random"},
}
"""Of `timm.data.create_transform`, beside its defaults."""
_ERASED = {"none": 0.0, "light": 0.0, "timm": 0.25}
"""Share of pictures in which a rectangle is erased."""


@dataclass(frozen=True)
class Transforms:
    """How the pictures of one part of a data set become tensors.

    Attributes:
        form: what is stored.
        augment: what is done to them in training.
        seed: of that.
    """

    form: PictureFormat
    augment: Augment = "none"
    seed: int = 0

    def evaluated(self, picture: Image.Image) -> Tensor:
        """From RGB to uint8 ``[3, image_size, image_size]``, the same every time."""
        return self._evaluate(picture)

    def trained(self, picture: Image.Image, epoch: int, sample: int) -> Tensor:
        """The same as training sees it: `sample` of its part, in an epoch counted from 1.

        Global generators are seeded with what it is; see `generators_kept`.
        """
        if self.augment == "none":
            return self.evaluated(picture)
        seed_generators(self.seed, epoch, sample)
        changed = self._change(picture)
        erased = self._erase(torch.ones_like(changed[:1]))[0].numpy() == 0
        if erased.any():
            rows, columns = (np.flatnonzero(erased.any(axis)) for axis in (1, 0))
            rectangle = np.s_[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            changed[rectangle] = self._mean_colour
        return changed

    @cached_property
    def _evaluate(self) -> Callable[[Image.Image], Tensor]:
        return create_transform(
            self.form.image_size,
            interpolation=self.form.interpolation,
            crop_pct=self.form.crop_share,
            crop_mode=self.form.crop_mode,
            mean=self.form.mean,
            normalize=False,
        )

    @cached_property
    def _change(self) -> Callable[[Image.Image], Tensor]:
        own = {"interpolation": self.form.interpolation} | _OPTIONS[self.augment]
        return create_transform(
            self.form.image_size, is_training=True, mean=self.form.mean, normalize=False, **own
        )

    @cached_property
    def _erase(self) -> RandomErasing:
        """timm's, which is for normalised pictures and leaves 0 there, the mean colour."""
        return RandomErasing(_ERASED[self.augment], mode="const", device="cpu")

    @cached_property
    def _mean_colour(self) -> Tensor:
        return torch.tensor(self.form.mean).mul(255).round().to(torch.uint8)[:, None, None]


def seed_generators(seed: int, epoch: int, sample: int) -> None:
    """Let what transforms draw follow from these three.

    Those of timm draw from Python's and numpy's global generators, torchvision's from torch's.
    """
    words = np.random.SeedSequence((seed, epoch, sample)).generate_state(4).tolist()
    random.seed(words[0])
    np.random.seed(words[1])  # noqa: NPY002
    torch.default_generator.manual_seed(words[2] << 32 | words[3])


@contextmanager
def generators_kept() -> Iterator[None]:
    """Global generators are afterwards as they were before."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
