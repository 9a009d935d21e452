"""Lanes in the blocks of a model whose training loop is not ours."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from d2ft_sched.errors import InputError
from d2ft_sched.plan.solved_plan import Plan
from runtime.families.known_families import FAMILIES
from runtime.families.splice import SplicedBlocks
from runtime.families.sublayer import Sublayer
from runtime.lanes.slice_schedule import slice_schedule
from runtime.lanes.slices import ScheduleSlices, SublayerLanes, Wave
from runtime.own_loop.batch import batch_size, take_runs
from runtime.own_loop.check_fit import check_fit
from runtime.own_loop.own_part import first_samples, own_part
from runtime.own_loop.spliced_method import GradientForAll, replace_method
from runtime.partitioned_step import run_lanes
from runtime.ranks.shards import Shard
from runtime.training.resting_rows import Held, Resting, hold, put_back, resting_of
from runtime.training.schedule_source import redrawn_schedules

_REMEMBERED = 256
"""Schedules whose slices are kept."""


def apply_plan(
    model: nn.Module,
    plan: Plan,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    num_waves: int = 1,
    seed: int = 0,
) -> "ScheduledModel":
    """Let a model's blocks run as a plan says whenever the model trains.

    The model stays what it is: its parameters, their names and its ``state_dict``, what is around
    its blocks, hooks, autocast, `torch.nn.parallel.DistributedDataParallel` around it. In
    evaluation (``model.eval()``) its blocks compute what they always did. Copies of it are not
    scheduled.

    The schedule goes by a sample's position in the batch. Where it leaves samples out,
    `ScheduledModel.take` takes the others; what rests, and samples left out, are drawn anew
    in each step as ``d2ft finetune`` does. A batch that is shorter than the plan's runs under the
    operations of the positions that it has; where these leave all of it out, it runs whole.

    Where `torch.distributed` has several ranks, the plan has as many replicas, of one device each,
    and each rank's batch is its replica's part: `ScheduledModel.num_samples`, with the loss times
    `ScheduledModel.loss_weight`. On one process, the whole mini-batch of any plan.

    Args:
        model: that has the blocks of a VisionTransformer of timm or of a transformer of
            `runtime.families`, with adapters of peft on all their maps or with none.
        plan: for a model of these sizes.
        optimizer: whose every step takes the schedule a step on, and leaves rows of weights that
            rest, and their moments, as they are. Where closures make the gradients inside of its
            step, or without one, call `ScheduledModel.before_update` and `after_update`.
        num_waves: passes through the model that a batch is cut into, see `ScheduledModel.waves`.
        seed: of what is drawn.

    Raises:
        InputError: the model's blocks do not fit the plan, or cannot run in lanes; a replica is cut
            over devices and there are several ranks (``d2ft finetune`` runs it); the replicas are
            not as many as the ranks.
    """
    return ScheduledModel(model, plan, optimizer, num_waves=num_waves, seed=seed)


class ScheduledModel:
    """A model under a plan, as `apply_plan` makes it."""

    def __init__(
        self,
        model: nn.Module,
        plan: Plan,
        optimizer: torch.optim.Optimizer | None,
        *,
        num_waves: int,
        seed: int,
    ) -> None:
        self.model = model
        self._family, self._spliced = _find_blocks(model)
        check_fit(self._spliced, plan.workload)
        self._own = own_part(plan)
        self._workload = self._own.workload
        if not 1 <= num_waves <= self._workload.num_microbatches:
            raise InputError(
                f"num_waves is {num_waves}; it must be 1 to {self._workload.num_microbatches} "
                f"micro-batches"
            )
        self._num_waves = num_waves
        redrawn = redrawn_schedules(plan, seed)
        self._schedules = (lambda step, _: plan.schedule) if redrawn is None else redrawn
        self._step, self._is_off = 0, False
        self._wave: Wave | None = None
        self._held: Held | None = None
        self._slices = lru_cache(_REMEMBERED)(self._new_slices)
        self._resting = lru_cache(_REMEMBERED)(self._new_resting)
        self._schedule = self._schedules(0, 0)
        for index, splices in enumerate(self._spliced.blocks):
            for name, splice in zip(("attention", "mlp"), splices, strict=True):
                replace_method(splice, partial(self._lanes, index, name), self._is_active)
        self._hooks = [] if optimizer is None else self._hooks_of(optimizer)

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """The model's own result."""
        return self.model(*inputs, **options)

    @property
    def num_samples(self) -> int:
        """Of a whole batch here, those that a schedule leaves out among them."""
        return int(self._workload.samples.sum())

    @property
    def num_steps_done(self) -> int:
        """Steps that the schedule is on; set it to go on after a checkpoint."""
        return self._step

    @num_steps_done.setter
    def num_steps_done(self, step: int) -> None:
        self._step, self._wave = step, None
        self._schedule = self._schedules(step, 0)

    @property
    def schedule(self) -> np.ndarray:
        """Operations of this step's batch here, int8 ``[num_subnets, num_microbatches]``."""
        return self._schedule[:, self._own.microbatches]

    @property
    def loss_weight(self) -> float:
        """What a mean loss here is multiplied by, so that the mean of the ranks' gradients is that
        of all samples that run: 1 on one process."""
        return self._own.loss_weight(self._schedule)

    def take(self, batch: Any) -> Any:
        """The samples of a batch that this step runs on, in a container of the same kind.

        Raises:
            InputError: the batch is longer than the plan's, or the plan runs in several waves.
        """
        if self._num_waves > 1:
            raise InputError(f"a batch runs in {self._num_waves} waves here: go through `waves`")
        ((_, taken),) = self.waves(batch)
        return taken

    def waves(self, batch: Any) -> Iterator[tuple[float, Any]]:
        """The parts of a batch that pass through the model one after another.

        A mean loss of a part times its weight, summed, is the mean loss of the batch.

        Args:
            batch: tensors ``[num_samples, ...]``, alone or in mappings, lists and tuples.

        Yields:
            The weight, and the part.

        Raises:
            InputError: the batch is longer than the plan's.
        """
        slices = self._slices_of(batch_size(batch), self._workload.shape.num_tokens)
        for index, wave in enumerate(slices.waves):
            num_samples = sum(stop - start for start, stop in wave.samples)
            self._wave, self._wave_index = wave, index
            self._batch_samples = batch_size(batch)
            yield num_samples / slices.num_samples, take_runs(batch, wave.samples)

    def before_update(self, optimizer: torch.optim.Optimizer) -> None:
        """When all gradients are there, before `optimizer` uses them: what rests is held."""
        for parameter in self._trunk:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        rests = self._resting(np.ascontiguousarray(self._schedule).tobytes())
        self._held = hold(optimizer, rests)

    def after_update(self, optimizer: torch.optim.Optimizer) -> None:
        """Put back what rests, and go on to the next step's schedule."""
        if self._held is not None:
            put_back(optimizer, self._held)
        self._held = None
        self.num_steps_done += 1

    @contextmanager
    def off(self) -> Iterator[None]:
        """As if there were no plan."""
        before, self._is_off = self._is_off, True
        try:
            yield
        finally:
            self._is_off = before

    def remove(self) -> None:
        """Give the model its own methods back, and the optimizer its steps."""
        for splices in self._spliced.blocks:
            for splice in splices:
                vars(splice.module).pop(splice.method, None)
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _is_active(self, module: nn.Module) -> bool:
        return module.training and not self._is_off

    def _lanes(
        self, block: int, name: str, sublayer: Sublayer, x: Tensor, key_mask: Tensor | None
    ) -> Tensor:
        lanes: SublayerLanes = getattr(self._wave_of(x).blocks[block], name)
        if lanes.run:
            branch = run_lanes(sublayer, lanes, x, key_mask)
        else:
            bias = sublayer.bias_out
            branch = torch.zeros_like(x) if bias is None else bias.to(x.dtype).expand(x.shape)
        if not self._own.is_distributed:
            return branch
        trainable = [p for p in sublayer.parameters() if p.requires_grad]
        return GradientForAll.apply(branch, x, *trainable)

    def _wave_of(self, x: Tensor) -> Wave:
        """That of a forward pass whose blocks see `x`, ``[B, N, D]``."""
        num_samples, num_tokens = x.shape[:2]
        if self._wave is None:
            slices = self._slices_of(num_samples, num_tokens)
            if slices.num_samples < num_samples:
                raise InputError(
                    f"this step's schedule leaves out {num_samples - slices.num_samples} of "
                    f"{num_samples} samples: take the others of each batch with `take`"
                )
            if len(slices.waves) > 1:
                raise InputError(
                    f"a batch runs in {len(slices.waves)} waves here: go through `waves`"
                )
            self._wave, self._wave_index = slices.waves[0], 0
            self._batch_samples = num_samples
        of_wave = sum(stop - start for start, stop in self._wave.samples)
        if of_wave != num_samples:
            raise InputError(
                f"the model was given {num_samples} samples where this step's schedule has "
                f"{of_wave}: give it what `take` took, and say when a step is done"
            )
        if num_tokens == self._workload.shape.num_tokens:
            return self._wave
        return self._slices_of(self._batch_samples, num_tokens).waves[self._wave_index]

    def _slices_of(self, num_samples: int, num_tokens: int) -> ScheduleSlices:
        return self._slices(self.schedule.tobytes(), num_samples, num_tokens)

    def _new_slices(self, rows: bytes, num_samples: int, num_tokens: int) -> ScheduleSlices:
        schedule = np.frombuffer(rows, np.int8).reshape(self._workload.num_subnets, -1)
        workload, schedule = first_samples(self._workload, schedule, num_samples)
        shape = replace(workload.shape, num_tokens=num_tokens)
        num_waves = min(self._num_waves, schedule.shape[1])
        return slice_schedule(replace(workload, shape=shape), schedule, num_waves)

    def _new_resting(self, rows: bytes) -> Resting:
        schedule = np.frombuffer(rows, np.int8).reshape(self._workload.num_subnets, -1)
        prefix = f"{self._spliced.name}." if self._spliced.name else ""
        parameters = {
            self._spliced.family_name + name.removeprefix(prefix): parameter
            for name, parameter in self.model.named_parameters()
            if name.startswith(prefix)
        }
        whole = [Shard(name, tuple(p.shape), 0, None) for name, p in parameters.items()]
        return resting_of(self._family, parameters, whole, self._workload, schedule)

    def _hooks_of(self, optimizer: torch.optim.Optimizer) -> list[Any]:
        def before(optimizer: torch.optim.Optimizer, inputs: Any, options: Any) -> None:
            if any(value is not None for value in (*inputs[1:], *options.values())):
                raise InputError(
                    "an optimizer that is given a closure makes gradients inside of its step: do "
                    "not give it to `apply_plan`, but call `before_update` and `after_update`"
                )
            self.before_update(optimizer)

        def after(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            self.after_update(optimizer)

        return [
            optimizer.register_step_pre_hook(before),
            optimizer.register_step_post_hook(after),
        ]

    @cached_property
    def _trunk(self) -> list[nn.Parameter]:
        """What the plan always trains: all but the maps of blocks."""
        in_maps = {
            id(parameter)
            for splices in self._spliced.blocks
            for splice in splices
            for parameter in splice.sublayer.parameters()
            if parameter is not splice.sublayer.bias_out
        }
        return [p for p in self.model.parameters() if id(p) not in in_maps and p.requires_grad]


def _find_blocks(model: nn.Module) -> tuple[Any, SplicedBlocks]:
    for family in FAMILIES:
        spliced = family.spliced(model)
        if spliced is not None:
            return family, spliced
    raise InputError(
        f"a {type(model).__name__} has no blocks of one model that can run in lanes: a plain "
        f"VisionTransformer of timm, or a transformer of the families in the manual"
    )
