"""What a family of models offers, so that everything else need not know which family it runs.

The guide is docs/add-a-model-family.md. Shapes: B samples, N tokens, D width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from d2ft_sched.model.shape import ModelShape
from runtime.data.input_format import InputFormat
from runtime.families.class_loss import Outcome
from runtime.families.splice import SplicedBlocks
from runtime.families.sublayer import Sublayer


@dataclass(frozen=True)
class UnitAxis:
    """Where the heads or hidden units of a block lie in one of its parameters.

    Attributes:
        block: which block.
        units: what is sliced.
        dim: along which dimension.
        parts: what the dimension is stacked of, as `runtime.lanes.held_units.unit_rows` calls it;
            nothing where all units of the block share the parameter whole.
    """

    block: int
    units: Literal["heads", "hidden"]
    dim: int
    parts: tuple[str, ...]


class ModelFamily(Protocol):
    """One family; `model` is always one that `owns` accepts, whole or a rank's part of it.

    Samples are one tensor whose first axis counts them: *stored* as the data set holds them, or
    *inputs* as the model takes them.
    """

    @property
    def weight_names(self) -> tuple[str, ...]:
        """Pretrained weights that `build` takes by name; others are files or folders."""
        ...

    def knows(self, name: str) -> bool:
        """Whether `build` builds models of that name."""
        ...

    def owns(self, model: nn.Module) -> bool:
        """Whether a model is of this family; others must not be touched."""
        ...

    def build(
        self,
        name: str,
        *,
        image_size: int | None,
        num_tokens: int | None,
        num_classes: int,
        weights: str | Path | None,
        pretrained: bool,
        seed: int,
    ) -> nn.Module:
        """As `runtime.models.build.build_model`, which has checked the numbers."""
        ...

    def default_weights(self, name: str) -> str | None:
        """The pretrained weights that come with a name and need no network, or None."""
        ...

    def input_format(self, shape: ModelShape) -> InputFormat:
        """What samples a model takes that has been planned for as `shape`.

        Raises InputError if the shape does not say it.
        """
        ...

    def model_name(self, model: nn.Module) -> str:
        """What `build` calls it."""
        ...

    def check_supported(self, model: nn.Module) -> None:
        """Raise InputError, naming the trait, if lanes would not compute the model exactly."""
        ...

    def shape_of(self, model: nn.Module) -> ModelShape:
        """The sizes of a supported model; every parameter is counted once."""
        ...

    def blocks(self, model: nn.Module) -> list[tuple[Sublayer, Sublayer]]:
        """Attention and MLP of every block, in order."""
        ...

    def embed(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """What enters the first block, ``[B, N, D]``."""
        ...

    def features(self, model: nn.Module, stream: Tensor, inputs: Tensor) -> Tensor:
        """What the classifier sees, ``[B, D]`` or of every token ``[B, N, D]``, of what leaves the
        last block, ``[B, N, D]``."""
        ...

    def whole_features(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """The same of inputs, computed by the model's library as it does: the untouched model."""
        ...

    def classifier(self, model: nn.Module) -> nn.Linear:
        """The last linear map, from features to logits."""
        ...

    @property
    def has_class_labels(self) -> bool:
        """Whether a label is a class for each sample, whose classifier is fitted and trains beside
        adapters; else one for each token, and the head is pretrained."""
        ...

    def num_counted(self, labels: Tensor) -> Tensor:
        """How many losses of each sample count, int64 ``[B]``."""
        ...

    def loss(
        self, model: nn.Module, features: Tensor, labels: Tensor, smoothing: float = 0.0
    ) -> Tensor:
        """Sum of the losses that count, a scalar with graph. A step divides it by `num_counted` of
        the whole mini-batch, however that is cut. Of each target the share `smoothing` is spread
        evenly over all that could be foretold."""
        ...

    def outcome(self, model: nn.Module, features: Tensor, labels: Tensor) -> Outcome:
        """The same without graph or smoothing, and how often the highest logits are the label's."""
        ...

    def random_labels(self, model: nn.Module, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Labels of random inputs, to time a step with."""
        ...

    def key_mask(self, model: nn.Module, samples: Tensor) -> Tensor | None:
        """What attention must know of tokens, ``[B, N]``, of stored samples or inputs: which may be
        looked at, bool, or whatever the family's core takes for it.

        None if nothing. On ranks everyone knows it of all samples, for it is not sent with them.
        """
        ...

    def to_inputs(self, model: nn.Module, stored: Tensor) -> Tensor:
        """Stored samples as the model takes them, on the same device."""
        ...

    def random_inputs(
        self, model: nn.Module, num_samples: int, generator: torch.Generator
    ) -> Tensor:
        """Inputs to time a step with, on the generator's device."""
        ...

    def companion_files(self, model: nn.Module, class_names: Sequence[str]) -> Mapping[str, str]:
        """Texts by file name that the family's library wants beside a file of weights.

        They say what the outputs are called, ``class_names[i]`` the i-th, where they can.
        """
        ...

    def unit_axis(self, parameter: str) -> UnitAxis | None:
        """Which axis of a parameter subnets share among them; None for the trunk's."""
        ...

    def spliced(self, model: nn.Module) -> SplicedBlocks | None:
        """Where lanes take the place of blocks of this family in any model, one of the user's.

        None if the model has no such blocks. Raises InputError, naming the trait, if lanes would
        not compute them exactly.
        """
        ...
