"""From gradients to weights, the same on one device and on every rank of several.

A step clips the gradients by the norm of all of them, updates what trains, and lets the running
average of weights follow. Where the loss was scaled for float16, gradients are scaled back first,
and a step in which they overflowed changes nothing but that scale. What rests stays as it is to the
bit: values, moments and average.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import torch
from torch import Tensor, nn

from d2ft_sched.errors import InputError
from d2ft_sched.model.optimizer_states import TOGETHER
from runtime.checkpoint.checkpoint import shard_file, shard_files
from runtime.checkpoint.optimizer_state import (
    State,
    counters_of,
    load_counters,
    load_shards,
    save_shards,
    set_counters,
    set_state,
    state_by_name,
)
from runtime.models.optimizers import (
    create_optimizer,
    layers_from_end,
    optimizer_kind,
    set_learning_rate,
)
from runtime.ranks.job import Ranks, start_sum
from runtime.ranks.shards import Shard
from runtime.training.finetune_settings import FineTuneSettings
from runtime.training.loss_scale import LossScale
from runtime.training.resting_rows import Resting, drop_gradients, update

OPTIMIZER, AVERAGE = "optimizer", "average"
"""Kinds of files of a checkpoint, and the value that the second holds of each parameter."""

_SCALE, _FINITE = "loss_scale", "finite_steps"
"""Names of counters of a loss that is scaled."""

_CLIP_EPSILON = 1e-6
"""Added to the norm that gradients are divided by, as torch does."""


@dataclass(frozen=True, eq=False)
class HeldPart:
    """What a process holds of a model.

    Attributes:
        module: the model, or a rank's part of it.
        shards: what of each of its parameters is here, in their order.
        written: those that this process speaks for, in files and in sums over the whole model, so
            that each value is there once, whoever holds it.
        names: of all parameters of the whole model.
        block_of: where in it those are that train, as `runtime.ranks.shards.parameter_blocks` says.
        dtype: of parameters that train.
        ranks: that hold the whole model together.
        is_cut: whether any of them holds only a part of a parameter.
    """

    module: nn.Module
    shards: Sequence[Shard]
    written: Sequence[Shard]
    names: Sequence[str]
    block_of: Mapping[str, int]
    dtype: torch.dtype
    ranks: Ranks
    is_cut: bool


class WeightUpdate:
    """An optimizer with what goes with it; all ranks must call each method together."""

    def __init__(self, held: HeldPart, optimizer: str, settings: FineTuneSettings) -> None:
        """Take what trains of `held`.

        Raises:
            InputError: the optimizer cannot update parts of a weight, and ranks hold such.
        """
        self._held, self._settings = held, settings
        self._kind = optimizer_kind(optimizer)
        self._is_elementwise = optimizer not in TOGETHER
        check_optimizer(optimizer, is_cut=held.is_cut)
        self._parameters = dict(held.module.named_parameters())
        self._trained = {n: p for n, p in self._parameters.items() if p.requires_grad}
        layers = layers_from_end(held.module, held.names, held.block_of)
        self._optimizer = create_optimizer(
            held.module,
            optimizer,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            layer_decay=settings.layer_decay,
            layers=layers,
        )
        self._average: dict[str, Tensor] | None = None
        self._scale = LossScale(is_on=settings.half == "float16")

    @property
    def loss_scale(self) -> float:
        """What the loss of the next step is to be multiplied by before backward."""
        return self._scale.value

    @torch.no_grad()
    def apply(self, lr: float, left: Resting) -> float | None:
        """Make a step of the gradients that are there, and drop them.

        Args:
            lr: learning rate, before layer-wise decay.
            left: what rests in this step.

        Returns:
            The norm of the gradients before they were clipped; None where nobody asks for it.
        """
        drop_gradients(left)
        norm, most = None, self._settings.clip_norm
        if most is not None or self._scale.is_on:
            norm = self._norm() / self.loss_scale
            factor = 1 if most is None else min(1.0, most / (norm + _CLIP_EPSILON))
            self._multiply(factor / self.loss_scale)
        self._begin_average()
        if norm is None or not self._scale.is_on or isfinite(norm):
            set_learning_rate(self._optimizer, lr)
            update(self._optimizer, left, is_elementwise=self._is_elementwise)
            self._follow(left)
        if norm is not None and self._scale.is_on:
            self._scale.after(is_finite=isfinite(norm))
        self._optimizer.zero_grad()
        return norm

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The average in place of the weights, where there is one."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def save(self, folder: Path) -> tuple[str, ...]:
        """Write this process's files of a checkpoint; their names."""
        state = state_by_name(self._optimizer, self._parameters)
        counters = counters_of(self._optimizer, self._kind.counters)
        if self._scale.is_on:
            counters |= {_SCALE: self._scale.value, _FINITE: self._scale.num_finite}
        names = [self._write(folder, OPTIMIZER, state, counters)]
        if self._settings.ema_decay is not None:
            average = self._average or {}
            values = {n: {AVERAGE: average[n]} if n in average else {} for n in self._parameters}
            names.append(self._write(folder, AVERAGE, values, {}))
        return tuple(names)

    def load(self, folder: Path) -> None:
        """Inverse of `save`, by whatever placement and number of ranks it was written.

        Raises:
            InputError: a file is damaged, or of another training.
        """
        files = shard_files(folder, OPTIMIZER)
        state = load_shards(files, self._held.shards, self._kind.values, self._held.dtype)
        names = (*self._kind.counters, *((_SCALE, _FINITE) if self._scale.is_on else ()))
        counters = load_counters(files, names)
        if self._scale.is_on and counters:
            self._scale.value = counters.pop(_SCALE)
            self._scale.num_finite = int(counters.pop(_FINITE))
        set_counters(self._optimizer, counters)
        set_state(self._optimizer, self._parameters, state)
        if self._settings.ema_decay is None:
            return
        files = shard_files(folder, AVERAGE)
        values = load_shards(files, self._held.shards, {AVERAGE}, self._held.dtype)
        average = {
            name: values[name][AVERAGE].to(parameter.device)
            for name, parameter in self._trained.items()
            if values[name]
        }
        self._average = average or None

    def _write(self, folder: Path, kind: str, state: State, counters: Mapping[str, float]) -> str:
        ranks = self._held.ranks
        name = shard_file(kind, ranks.rank, ranks.num_ranks)
        save_shards(folder / name, self._held.written, state, counters)
        return name

    def _norm(self) -> float:
        """Of all gradients of the whole model."""
        ranks = self._held.ranks
        counted = {shard.name for shard in self._held.written}
        squares = torch.zeros((), dtype=torch.float64, device=ranks.device)
        for name, parameter in self._trained.items():
            if name in counted and parameter.grad is not None:
                squares += torch.linalg.vector_norm(parameter.grad, dtype=torch.float64).square()
        start_sum(ranks, squares, "the norm of the gradients").wait()
        return float(squares.sqrt())

    def _multiply(self, factor: float) -> None:
        if factor != 1:
            for parameter in self._trained.values():
                if parameter.grad is not None:
                    parameter.grad.mul_(factor)

    def _begin_average(self) -> None:
        """With the weights as they are before the first step."""
        if self._settings.ema_decay is not None and self._average is None:
            self._average = {n: p.detach().clone() for n, p in self._trained.items()}

    def _follow(self, left: Resting) -> None:
        """Move the average towards the weights that have moved."""
        if self._average is None or self._settings.ema_decay is None:
            return
        rests = {*left.whole, *(rows.parameter for rows in left.elsewhere)}
        rows_of = {rows.parameter: rows for rows in left.rows}
        for name, average in self._average.items():
            parameter = self._trained[name]
            if parameter in rests:
                continue
            rows = rows_of.get(parameter)
            kept = [] if rows is None else [(part, part.clone()) for part in rows.of(average)]
            average.lerp_(parameter, 1 - self._settings.ema_decay)
            for part, values in kept:
                part.copy_(values)

    def _swap(self) -> None:
        for name, average in (self._average or {}).items():
            parameter = self._trained[name]
            assert self._average is not None
            self._average[name], parameter.data = parameter.data, average


def half_type(settings: FineTuneSettings) -> torch.dtype:
    """Of products in mixed precision."""
    return torch.float16 if settings.half == "float16" else torch.bfloat16


def check_optimizer(name: str, *, is_cut: bool) -> None:
    """Refuse an optimizer that cannot update what ranks hold.

    Raises:
        InputError: saying why.
    """
    if is_cut and name in TOGETHER:
        raise InputError(
            f"optimizer {name!r} takes norms of whole weights, and this plan's ranks hold parts of "
            f"them; choose one that does not, such as adamw or lion"
        )
