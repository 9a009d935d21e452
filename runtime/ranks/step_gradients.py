"""The gradients of a rank's parameters in one step, and their sums over ranks that hold the same.

Gradients of which all that a rank holds is in one sum are made in that sum's bucket, so that
nothing is copied; others are copied in and out. A sum starts when the last wave is through its
block, while backward goes on to the blocks before it. All ranks go through blocks in the same
order, so they start the same sums in the same order.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from d2ft_sched.costs.gradient_sums import EMBEDDING
from runtime.families.sublayer import Sublayer
from runtime.lanes.linears import Linears
from runtime.lanes.products import clear_gradient, parameter_gradient_buffer
from runtime.lanes.slices import SublayerLanes
from runtime.lanes.units import Units
from runtime.ranks.all_to_all import SentBytes
from runtime.ranks.gradient_buckets import Bucket
from runtime.ranks.job import Pending, start_sum
from runtime.ranks.rank_model import RankModel
from runtime.ranks.rank_slices import RankSlices


class _Open(NamedTuple):
    """A bucket and its values in this step."""

    bucket: Bucket
    flat: Tensor


class StepGradients:
    """Makes gradients block by block, as backward comes to them, and sums them.

    The trunk's parameters always get one, those of subnets where any micro-batch of the step, of
    this replica or another, trains any of the heads or hidden units held; zeros where nothing
    reaches them here. Others rest and get none.
    """

    def __init__(self, model: RankModel, slices: RankSlices, counted: SentBytes | None) -> None:
        """Drop the gradients that are there.

        Args:
            model: what the rank holds.
            slices: of the step's schedule; its waves all go through all blocks.
            counted: bytes of the sums, as a ring's, are added to it.
        """
        self._model, self._counted, self._trained = model, counted, slices.trained
        blocks = range(EMBEDDING, model.workload.shape.num_blocks + 1)
        self._waves_left = dict.fromkeys(blocks, max(1, len(slices.waves)))
        self._sums = {block: [one for one in slices.sums if one.block == block] for block in blocks}
        self._opened: dict[int, list[_Open]] = {}
        self._places: dict[Tensor, Tensor] = {}
        self._made: dict[Sublayer, Linears] = {}
        self._pending: list[tuple[_Open, Pending]] = []
        for parameter in model.module.parameters():
            parameter.grad = None

    def begin(self, block: int) -> None:
        """A wave comes to a block; -1 is the embedding, `num_blocks` the classifier.

        A head that is the embedding leaves its gradient where the embedding's is added to it.
        """
        model, shape = self._model, self._model.workload.shape
        if block == shape.num_blocks and shape.tied_vocabulary:
            self.begin(EMBEDDING)
        if block in self._opened:
            return
        opened = self._opened.setdefault(block, [])
        parameters = model.held_of_block[block]
        for one in self._sums[block]:
            if model.ranks.rank not in one.members:
                continue
            bucket = model.bucket(one)
            flat = torch.empty(bucket.num_values, dtype=model.dtype, device=model.ranks.device)
            opened.append(_Open(bucket, flat))
            for part in bucket.parts:
                if part.positions is None:
                    self._places[parameters[part.shard.name]] = part.of(flat)
        is_at_ends = not 0 <= block < model.workload.shape.num_blocks
        for name, parameter in parameters.items():
            if is_at_ends and parameter not in self._places:
                continue  # autograd makes it
            if name not in model.made_by_lanes and not self._rests(name, parameter):
                self._set_zeros(parameter)

    def of_lanes(self, sublayer: Sublayer, lanes: SublayerLanes) -> tuple[Linears, bool]:
        """Gradients of the weights held, for lanes to add to, where these train; and whether they
        hold nothing yet."""
        made = self._made.get(sublayer)
        if made is not None:
            return made, False
        made = self._made[sublayer] = self._new(sublayer, lanes)
        return made, True

    def end(self, block: int) -> None:
        """A wave has been through a block; after the last one its sums start."""
        self._waves_left[block] -= 1
        if self._waves_left[block]:
            return
        model, parameters = self._model, self._model.held_of_block[block]
        for name, parameter in parameters.items():
            if parameter.grad is None and not self._rests(name, parameter):
                self._set_zeros(parameter)
        for one in self._opened[block]:
            for part in one.bucket.parts:
                part.put(_gradient(parameters[part.shard.name]), one.flat)
            if self._counted is not None:
                num_bytes = one.flat.numel() * one.flat.element_size()
                self._counted.add_all_reduce(model.ranks.rank, one.bucket.members, num_bytes)
            pending = start_sum(model.ranks, one.flat, one.bucket.what, one.bucket.group)
            self._pending.append((one, pending))

    def pass_by(self) -> None:
        """On a rank of which nothing runs: zeros for all sums, in the order of backward."""
        for block in sorted(self._waves_left, reverse=True):
            self.begin(block)
            self.end(block)

    def finish(self) -> None:
        """Wait for the sums.

        Raises:
            RankError: another rank died or hung.
        """
        parameters = self._model.parameters
        for one, pending in self._pending:
            pending.wait()
            for part in one.bucket.parts:
                part.take(_gradient(parameters[part.shard.name]), one.flat)

    def _rests(self, name: str, parameter: nn.Parameter) -> bool:
        axis = self._model.unit_axes[name]
        if axis is None or parameter in self._places:
            return False
        return not len(self._trained[axis.block].of(axis.units))

    def _set_zeros(self, parameter: nn.Parameter) -> None:
        place = self._places.get(parameter)
        parameter.grad = torch.zeros_like(parameter) if place is None else place.zero_()

    def _new(self, sublayer: Sublayer, lanes: SublayerLanes) -> Linears:
        """In their buckets where they have places there."""

        def place(parameter: Tensor, untrained: Units | None, dim: int) -> Tensor:
            made = self._places.get(parameter)
            if made is None:
                return parameter_gradient_buffer(parameter, untrained, dim)
            clear_gradient(made, untrained, dim)
            return made

        in_core = tuple(_gradient(parameter) for parameter in sublayer.core_parameters)
        made = replace(sublayer.linears().with_places(lanes, place), in_core=in_core)
        sublayer.set_gradients(made)
        return made


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
