"""One wave of a step on one rank: trunk, dispatch, lanes and combine, forward and backward.

Forward and backward are generators that pause after they have started an exchange. All ranks run
the same exchanges in the same order; those in which nothing moves between any two are left out by
all. Shapes: B samples owned in the wave, N tokens, D width.
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from d2ft_sched.costs.gradient_sums import EMBEDDING
from runtime.families.sublayer import Sublayer
from runtime.lanes.products import compute_dtype
from runtime.lanes.slices import SublayerLanes
from runtime.ranks.all_to_all import (
    ExchangePhase,
    SentBytes,
    gather_runs,
    scatter_runs,
    start_all_to_all,
)
from runtime.ranks.rank_lanes import rank_lanes_backward, rank_lanes_forward
from runtime.ranks.rank_model import RankModel
from runtime.ranks.rank_slices import RankBlock, RankWave
from runtime.ranks.rank_trunk import (
    Kept,
    add_branch,
    add_branch_gradients,
    gradient_of,
    into_branch,
    through_norm,
)
from runtime.ranks.step_gradients import StepGradients
from runtime.torch_device import Stopwatch


@dataclass(frozen=True)
class RankBatch:
    """A mini-batch as one rank has it.

    Attributes:
        inputs: of the samples owned, as the model takes them, ``[num_owned, ...]``.
        labels: of these samples.
        num_counted: losses that count in the whole mini-batch, of the samples that run.
        key_mask: what attention must know of tokens of all samples of the mini-batch,
            ``[num_samples, N]``; None for nothing.
        label_smoothing: share of each target that is spread evenly.
        loss_scale: factor of all gradients.
    """

    inputs: Tensor
    labels: Tensor
    num_counted: Tensor
    key_mask: Tensor | None = None
    label_smoothing: float = 0.0
    loss_scale: float = 1.0


@dataclass(frozen=True)
class _SublayerOfWave:
    """Attention or MLP of a block in one wave.

    Attributes:
        sublayer: what is held of it.
        lanes: of the subnets held.
        is_reached: whether the gradient of its output on any sample owned is needed.
        hands_on: whether that of the lanes' input is, and is not zero.
    """

    sublayer: Sublayer
    lanes: SublayerLanes
    is_reached: bool
    hands_on: bool


class WavePass:
    """Runs one wave, forward and then backward.

    Attributes:
        features: what the classifier sees of the samples owned, without graph, after forward.
        loss: this rank's part of the mean loss of the mini-batch; 0 in a pass that is forward only.
    """

    def __init__(
        self,
        model: RankModel,
        wave: RankWave,
        batch: RankBatch,
        gradients: StepGradients | None,
        watch: Stopwatch | None,
        counted: SentBytes | None,
    ) -> None:
        """Prepare a pass; without `gradients` it is one forward only."""
        self._model, self._wave = model, wave
        self._batch = batch
        self._gradients, self._watch, self._counted = gradients, watch, counted
        self._trains_trunk = model.workload.lora is None
        shape = model.workload.shape
        self._num_tokens, self._width = shape.num_tokens, shape.width
        self._num_own = wave.num_samples * shape.num_tokens
        self._probe = torch.empty(0, dtype=model.dtype, device=model.ranks.device)
        self._dtype = compute_dtype(self._probe)
        self._kept: list[Kept] = []
        self.features = self.loss = self._probe.new_zeros(())

    def forward(self) -> Iterator[None]:
        """From the inputs to `features` and `loss`."""
        module, family, batch = self._model.module, self._model.family, self._batch
        stream = self._probe
        if self._num_own:
            self._embedded = family.embed(module, batch.inputs)
            stream = self._embedded.detach()
        for index, block in enumerate(self._wave.blocks):
            for part in self._sublayers(index):
                phase = ExchangePhase("forward", index, part.sublayer.name, "dispatch")
                stream = yield from self._sublayer_forward(stream, part, block, phase)
        if self._num_own:
            self._last = stream.requires_grad_()
            features = family.features(module, self._last, batch.inputs)
            self.features = features.detach()
            if self._gradients is not None:
                smoothing = batch.label_smoothing
                total = family.loss(module, features, batch.labels, smoothing)
                self._loss_graph = total / batch.num_counted.clamp_min(1)
                self.loss = self._loss_graph.detach()
        self._lap("forward trunk")

    def backward(self) -> Iterator[None]:
        """From `loss` to the gradients of all parameters held, added to what they have."""
        gradients, num_blocks = self._gradients, len(self._wave.blocks)
        assert gradients is not None
        grad_stream = self._probe
        gradients.begin(num_blocks)
        if self._num_own:
            (self._batch.loss_scale * self._loss_graph).backward()
            grad_stream = gradient_of(self._last)
            del self._loss_graph, self._last
        gradients.end(num_blocks)
        for index in reversed(range(num_blocks)):
            block = self._wave.blocks[index]
            gradients.begin(index)
            for part in reversed(self._sublayers(index)):
                phase = ExchangePhase("backward", index, part.sublayer.name, "dispatch")
                grad_stream = yield from self._sublayer_backward(grad_stream, part, block, phase)
            gradients.end(index)
        gradients.begin(EMBEDDING)
        if self._num_own:
            if self._trains_trunk:
                self._embedded.backward(grad_stream)
            del self._embedded
        gradients.end(EMBEDDING)
        self._lap("backward trunk")

    def _sublayer_forward(
        self, stream: Tensor, part: _SublayerOfWave, block: RankBlock, phase: ExchangePhase
    ) -> Generator[None, None, Tensor]:
        """The stream after the sub-layer, ``[B, N, D]``."""
        sublayer, lanes = part.sublayer, part.lanes
        route, own, kept = block.routes[0], self._num_own, Kept()
        lane_input = self._lane_input(stream, part, block, kept)
        self._lap("forward trunk")

        x = self._rows(0) if lane_input is None else lane_input
        if not route.is_idle:
            wait = self._start(
                x[own:], gather_runs(x, route.send_runs), route.received, route.sent, phase
            )
            yield
            wait()
        self._lap("forward dispatch")

        if lanes.train:
            kept.lane_input = x
        out = torch.empty_like(x) if lanes.begins else torch.zeros_like(x)
        if sublayer.is_held and lanes.run:
            key_mask = self._key_mask(block)
            rank_lanes_forward(x, sublayer, lanes, self._num_tokens, key_mask, out, kept)
        self._lap("forward lanes")

        if not route.is_idle:
            returned = self._rows(route.num_sent)
            phase = phase._replace(name="combine")
            wait = self._start(returned, out[own:], route.sent, route.received, phase)
            yield
            wait()
            scatter_runs(returned, out, route.send_runs, add=True)
        self._lap("forward combine")

        branch = None
        if block.runs:
            branch = out[:own].clone() if route.num_received else out
            if self._trains_trunk and sublayer.scale is not None:
                kept.branch = branch
        self._kept.append(kept)
        return self._after_lanes(stream, branch, part, kept) if own else stream

    def _lane_input(
        self, stream: Tensor, part: _SublayerOfWave, block: RankBlock, kept: Kept
    ) -> Tensor | None:
        """What the lanes see, ``[T, D]``, with room for what is received; None for nothing."""
        sublayer, num_received = part.sublayer, block.routes[0].num_received
        if not block.runs:
            return self._rows(self._num_own + num_received) if num_received else None
        lane_input = stream
        norms = sublayer.norm_first and part.hands_on
        with torch.set_grad_enabled(norms):
            if sublayer.norm_first:
                lane_input = sublayer.norm(stream.requires_grad_(norms))
            lane_input = lane_input.to(self._dtype).flatten(0, 1)
        if norms:
            kept.norm_input, kept.norm_graph = stream, get_gradient_edge(lane_input)
        lane_input = lane_input.detach()
        return torch.cat([lane_input, self._rows(num_received)]) if num_received else lane_input

    def _after_lanes(
        self, stream: Tensor, branch: Tensor | None, part: _SublayerOfWave, kept: Kept
    ) -> Tensor:
        """The stream after the sub-layer, of what it was and the sum of all results."""
        total = add_branch(stream.detach(), branch, part.sublayer)
        if part.sublayer.norm_first:
            return total
        is_traced = part.is_reached and torch.is_grad_enabled()
        with torch.set_grad_enabled(is_traced):
            normed = part.sublayer.norm(total.requires_grad_(is_traced))
        if is_traced:
            kept.norm_input, kept.norm_graph = total, get_gradient_edge(normed)
        return normed.detach()

    def _sublayer_backward(
        self, grad_stream: Tensor, part: _SublayerOfWave, block: RankBlock, phase: ExchangePhase
    ) -> Generator[None, None, Tensor]:
        """The gradient of the stream before the sub-layer, ``[B, N, D]``."""
        sublayer, lanes = part.sublayer, part.lanes
        route, own, kept = block.routes[1], self._num_own, self._kept.pop()
        grad_branch = self._rows(0)
        if own and part.is_reached and not sublayer.norm_first:
            grad_stream = through_norm(kept, grad_stream)
        if own:
            flat = grad_stream.contiguous().flatten(0, 1)
            if self._trains_trunk:
                add_branch_gradients(flat, kept.branch, sublayer)
            if block.runs_backward:
                grad_branch = into_branch(flat, sublayer).to(self._dtype)
        self._lap("backward trunk")

        if not route.is_idle:
            received, into_lanes = self._rows(route.num_received), None
            send = gather_runs(grad_branch, route.send_runs)
            if route.num_received:
                into_lanes = self._rows(own + block.routes[0].num_received)
                if len(route.receive_runs) == 1:
                    received = gather_runs(into_lanes, route.receive_runs)
            wait = self._start(received, send, route.received, route.sent, phase)
            yield
            if into_lanes is not None and block.runs_backward:
                into_lanes[:own] = grad_branch
            wait()
            if into_lanes is not None:
                if len(route.receive_runs) > 1:
                    scatter_runs(received, into_lanes, route.receive_runs, add=False)
                grad_branch = into_lanes
        self._lap("backward dispatch")

        grad_input: Tensor | None = self._rows(0)
        if lanes.backward:
            assert self._gradients is not None
            grad_input = rank_lanes_backward(grad_branch, sublayer, lanes, kept, self._gradients)
        elif block.runs_backward or route.num_received:
            grad_input = None
        if grad_input is None:
            grad_input = self._rows(own + block.routes[0].num_received).zero_()
        self._lap("backward lanes")

        if not route.is_idle:
            returned = self._rows(route.num_sent)
            send = gather_runs(grad_input, route.receive_runs)
            phase = phase._replace(name="combine")
            wait = self._start(returned, send, route.sent, route.received, phase)
            yield
            wait()
            scatter_runs(returned, grad_input, route.send_runs, add=True)
        self._lap("backward combine")

        if not part.hands_on:
            return grad_stream
        if sublayer.norm_first:
            return grad_stream + through_norm(kept, grad_input[:own])
        return grad_stream + grad_input[:own].view_as(grad_stream)

    def _start(
        self,
        receive: Tensor,
        send: Tensor,
        received: tuple[int, ...],
        sent: tuple[int, ...],
        phase: ExchangePhase,
    ) -> Callable[[], None]:
        return start_all_to_all(
            self._model.ranks,
            self._model.peers,
            receive,
            send,
            received,
            sent,
            phase,
            self._counted,
        )

    def _sublayers(self, block: int) -> list[_SublayerOfWave]:
        sublayers, of_wave = self._model.blocks[block], self._wave.blocks[block]
        lanes = (of_wave.lanes.attention, of_wave.lanes.mlp)
        return list(map(_SublayerOfWave, sublayers, lanes, of_wave.is_reached, of_wave.hands_on))

    def _key_mask(self, block: RankBlock) -> Tensor | None:
        """Of the samples that the lanes have, ``[num_lane_samples, N]``."""
        if self._batch.key_mask is None:
            return None
        return gather_runs(self._batch.key_mask.flatten(), block.lane_tokens).view(
            -1, self._num_tokens
        )

    def _rows(self, num_tokens: int) -> Tensor:
        return self._probe.new_empty(num_tokens, self._width, dtype=self._dtype)

    def _lap(self, name: str) -> None:
        if self._watch is not None:
            self._watch.lap(name)
