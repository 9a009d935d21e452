"""What one training step has to do: a model, its partition and a mini-batch."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from d2ft_sched.errors import InputError
from d2ft_sched.files.counted import counted
from d2ft_sched.files.sizes import MOST_CELLS, MOST_SAMPLES, check_at_most
from d2ft_sched.model.lora import Lora
from d2ft_sched.model.optimizer_states import OPTIMIZER_STATES
from d2ft_sched.model.partition import Partition
from d2ft_sched.model.shape import ModelShape, brief

ELEMENT_BYTES = {"float32": 4, "bfloat16": 2}
"""Of one value, by the precision of messages and lanes."""


@dataclass(frozen=True)
class Workload:
    """One mini-batch of a partitioned model.

    Attributes:
        shape: the model.
        partition: its subnets.
        microbatch_samples: samples of each micro-batch.
        element_bytes: bytes of one value in messages and lanes: 4 for float32, 2 where mixed
            precision computes them in bfloat16.
        parameter_bytes: bytes of one parameter that trains, of its gradient and optimizer state,
            which mixed precision leaves in float32.
        optimizer: a key of `OPTIMIZER_STATES`.
        lora: the adapters that train with the classifier, all else frozen; None for all parameters.
        frozen_bytes: bytes of one parameter that is frozen: 4 for float32, 2 for bfloat16; counts
            with adapters alone.
    """

    shape: ModelShape
    partition: Partition
    microbatch_samples: tuple[int, ...]
    element_bytes: int = 4
    parameter_bytes: int = 4
    optimizer: str = "adamw"
    lora: Lora | None = None
    frozen_bytes: int = 4

    def __post_init__(self) -> None:
        p, s = self.partition, self.shape
        if (p.num_blocks, p.num_heads, p.mlp_hidden) != (s.num_blocks, s.num_heads, s.mlp_hidden):
            raise InputError(
                f"the partition is of a model with {counted(p.num_blocks, 'block')}, "
                f"{counted(p.num_heads, 'head')} and "
                f"{p.mlp_hidden} hidden units; {s.name} has {s.num_blocks}, {s.num_heads} and "
                f"{s.mlp_hidden}"
            )
        if not self.microbatch_samples or any(n < 1 for n in self.microbatch_samples):
            raise InputError(
                f"micro-batches have {self.microbatch_samples} samples; each needs at least 1"
            )
        if self.lora is not None and self.lora.rank > s.width:
            raise InputError(
                f"LoRA rank is {brief(self.lora.rank)}; it must be at most the width of {s.name}, "
                f"{s.width}"
            )
        check_at_most(
            f"{len(p)} subnets x {len(self.microbatch_samples)} micro-batches",
            len(p) * len(self.microbatch_samples),
            MOST_CELLS,
            "cut the mini-batch into fewer, or put more heads into a subnet",
        )
        most = max(self.microbatch_samples)
        check_at_most(f"{most} samples of a micro-batch", most, MOST_SAMPLES, "it must be smaller")
        if self.optimizer not in OPTIMIZER_STATES:
            raise InputError(
                f"optimizer is {self.optimizer!r}; it must be one of {', '.join(OPTIMIZER_STATES)}"
            )

    @property
    def num_subnets(self) -> int:
        """Subnets of all blocks."""
        return len(self.partition)

    @property
    def num_microbatches(self) -> int:
        """Micro-batches of the mini-batch."""
        return len(self.microbatch_samples)

    @property
    def precision(self) -> str:
        """Of messages and lanes: bfloat16 where mixed precision computes them, else float32."""
        return _precision(self.element_bytes)

    @property
    def frozen_precision(self) -> str:
        """Of parameters that are frozen beside adapters."""
        return _precision(self.frozen_bytes)

    @cached_property
    def samples(self) -> np.ndarray:
        """Samples of each micro-batch, int ``[num_microbatches]``."""
        return _read_only(np.array(self.microbatch_samples))

    @cached_property
    def tokens(self) -> np.ndarray:
        """Tokens of each micro-batch, int ``[num_microbatches]``."""
        return _read_only(self.samples * self.shape.num_tokens)

    @property
    def activation_bytes(self) -> np.ndarray:
        """Bytes of one activation message ``[tokens, width]`` per micro-batch."""
        return self.tokens * self.shape.width * self.element_bytes

    @property
    def stream_bytes(self) -> np.ndarray:
        """Bytes of the residual stream ``[tokens, width]`` per micro-batch, which has the precision
        of the embedding."""
        size = self.parameter_bytes if self.lora is None else self.frozen_bytes
        return self.tokens * self.shape.width * size

    @property
    def norm_bytes(self) -> np.ndarray:
        """Bytes of what a norm of the trunk works in, ``[tokens, width]`` per micro-batch: RMS
        norms in float32 whatever the stream is."""
        if self.shape.norm == "rms":
            return self.tokens * self.shape.width * ELEMENT_BYTES["float32"]
        return self.stream_bytes

    @property
    def head_trains(self) -> bool:
        """Whether the classifier does: beside adapters a head over a vocabulary is frozen."""
        return self.lora is None or not self.shape.vocabulary_size


def _read_only(values: np.ndarray) -> np.ndarray:
    values.setflags(write=False)
    return values


def _precision(size: int) -> str:
    return "bfloat16" if size == ELEMENT_BYTES["bfloat16"] else "float32"
