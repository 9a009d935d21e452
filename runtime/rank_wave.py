"""One wave of a step on one rank: trunk, dispatch, lanes and combine, forward and backward.

Forward and backward are generators that pause after they have started an exchange. All ranks run
the same exchanges in the same order; those in which nothing moves between any two are left out by
all. Shapes: B samples owned in the wave, N tokens, D width.
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from runtime.device import Stopwatch
from runtime.exchange import (
    ExchangePhase,
    SentBytes,
    gather_runs,
    scatter_runs,
    start_all_to_all,
)
from runtime.lane_math import compute_dtype, without_autocast
from runtime.lane_pass import (
    CoreGraph,
    can_overwrite,
    lanes_backward,
    lanes_forward,
    parameter_gradients,
)
from runtime.lane_slices import SublayerLanes
from runtime.rank_model import RankModel, Sublayer
from runtime.rank_slices import RankBlock, RankWave


@dataclass
class _Kept:
    """What a sub-layer keeps for backward.

    Attributes:
        stream: input of the norm, a leaf ``[B, N, D]``; None if no micro-batch owned trains.
        lane_input: normed activations ``[T, D]``, owned before received; they carry the norm's
            graph where `stream` is a leaf. None if nothing here needs them.
        graphs: of the cores of the FULL groups.
        branch: sum of all ranks' results ``[B N, D]`` where LayerScale needs it.
    """

    stream: Tensor | None
    lane_input: Tensor | None
    graphs: list[CoreGraph]
    branch: Tensor | None


class WavePass:
    """Runs one wave, forward and then backward.

    Attributes:
        loss: this rank's part of the mean cross-entropy of the mini-batch, once forward is over.
    """

    def __init__(
        self,
        model: RankModel,
        wave: RankWave,
        images: Tensor,
        labels: Tensor,
        num_samples: int,
        watch: Stopwatch | None,
        counted: SentBytes | None,
    ) -> None:
        self._model, self._wave = model, wave
        self._images, self._labels, self._num_samples = images, labels, num_samples
        self._watch, self._counted = watch, counted
        shape = model.workload.shape
        self._num_tokens, self._width = shape.num_tokens, shape.width
        self._num_own = wave.num_samples * shape.num_tokens
        self._probe = torch.empty(0, dtype=model.dtype, device=model.ranks.device)
        self._dtype = compute_dtype(self._probe)
        self._kept: list[_Kept] = []
        self.loss = self._probe.new_zeros(())

    def forward(self) -> Iterator[None]:
        """From the images to `loss`."""
        module = self._model.module
        stream = self._probe
        if self._num_own:
            self._embedded = module.norm_pre(module._pos_embed(module.patch_embed(self._images)))
            stream = self._embedded.detach()
        for index, block in enumerate(self._wave.blocks):
            for sublayer, lanes in self._sublayers(index):
                phase = ExchangePhase("forward", index, sublayer.name, "dispatch")
                stream = yield from self._sublayer_forward(stream, sublayer, block, lanes, phase)
        if self._num_own:
            self._last = stream.requires_grad_()
            logits = module.forward_head(module.norm(self._last))
            total = F.cross_entropy(logits, self._labels, reduction="sum")
            self._loss_graph = total / self._num_samples
            self.loss = self._loss_graph.detach()
        self._lap("forward trunk")

    def backward(self) -> Iterator[None]:
        """From `loss` to the gradients of all parameters held, added to what they have."""
        grad_stream = self._probe
        if self._num_own:
            self._loss_graph.backward()
            grad_stream = _gradient_of(self._last)
            del self._loss_graph, self._last
        for index in reversed(range(len(self._wave.blocks))):
            block = self._wave.blocks[index]
            for sublayer, lanes in reversed(self._sublayers(index)):
                phase = ExchangePhase("backward", index, sublayer.name, "dispatch")
                grad_stream = yield from self._sublayer_backward(
                    grad_stream, sublayer, block, lanes, phase
                )
        if self._num_own:
            self._embedded.backward(grad_stream)
            del self._embedded
        self._lap("backward trunk")

    def _sublayer_forward(
        self,
        stream: Tensor,
        sublayer: Sublayer,
        block: RankBlock,
        lanes: SublayerLanes,
        phase: ExchangePhase,
    ) -> Generator[None, None, Tensor]:
        """The stream after the sub-layer, ``[B, N, D]``."""
        route, own = block.routes[0], self._num_own
        lane_input = leaf = branch = None
        if block.runs:
            leaf = stream.requires_grad_(block.trains)
            with torch.set_grad_enabled(block.trains):
                lane_input = sublayer.norm(leaf).to(self._dtype).flatten(0, 1)
                if route.num_received:
                    room = lane_input.new_empty(route.num_received, self._width)
                    lane_input = torch.cat([lane_input, room])
        elif route.num_received:
            lane_input = self._rows(own + route.num_received)
        self._lap("forward trunk")

        x = self._rows(0) if lane_input is None else lane_input.detach()
        if not route.is_idle:
            wait = self._start(
                x[own:], gather_runs(x, route.send_runs), route.received, route.sent, phase
            )
            yield
            wait()
        self._lap("forward dispatch")

        out, graphs = torch.zeros_like(x), []
        if sublayer.linears is not None and (lanes.full or lanes.forward_only):
            with without_autocast(x):
                graphs = lanes_forward(
                    x, sublayer.linears, sublayer.core, lanes, self._num_tokens, out
                )
        self._lap("forward lanes")

        if not route.is_idle:
            returned = self._rows(route.num_sent)
            phase = phase._replace(name="combine")
            wait = self._start(returned, out[own:], route.sent, route.received, phase)
            yield
            wait()
            scatter_runs(returned, out, route.send_runs, add=True)
        self._lap("forward combine")

        if block.runs:
            branch = out[:own].clone() if route.num_received else out
        self._kept.append(
            _Kept(
                stream=leaf if block.trains else None,
                lane_input=lane_input if block.trains or lanes.full else None,
                graphs=graphs,
                branch=None if sublayer.scale is None else branch,
            )
        )
        return self._add_branch(stream.detach(), branch, sublayer) if own else stream

    def _sublayer_backward(
        self,
        grad_stream: Tensor,
        sublayer: Sublayer,
        block: RankBlock,
        lanes: SublayerLanes,
        phase: ExchangePhase,
    ) -> Generator[None, None, Tensor]:
        """The gradient of the stream before the sub-layer, ``[B, N, D]``."""
        route, own, kept = block.routes[1], self._num_own, self._kept.pop()
        grad_branch = self._rows(0)
        if own:
            grad_branch = self._branch_backward(grad_stream, kept.branch, sublayer, block.trains)
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
            if into_lanes is not None and block.trains:
                into_lanes[:own] = grad_branch
            wait()
            if into_lanes is not None:
                if len(route.receive_runs) > 1:
                    scatter_runs(received, into_lanes, route.receive_runs, add=False)
                grad_branch = into_lanes
        self._lap("backward dispatch")

        grad_input = self._rows(0)
        if lanes.full:
            grad_input = self._lanes_backward(grad_branch, sublayer, lanes, kept)
        elif block.trains or route.num_received:
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

        if kept.stream is not None and kept.lane_input is not None:
            kept.lane_input.backward(grad_input)
            grad_stream = grad_stream + _gradient_of(kept.stream)
        return grad_stream

    def _lanes_backward(
        self, grad_branch: Tensor, sublayer: Sublayer, lanes: SublayerLanes, kept: _Kept
    ) -> Tensor:
        linears = sublayer.linears
        assert linears is not None
        assert kept.lane_input is not None
        overwrite = linears.weight_in.grad is None and can_overwrite(lanes)
        gradients = parameter_gradients(linears, overwrite=overwrite)
        x = kept.lane_input.detach()
        with without_autocast(x):
            return lanes_backward(
                grad_branch, x, linears, kept.graphs, lanes, gradients, overwrite=overwrite
            )

    @torch.no_grad()
    def _add_branch(self, stream: Tensor, branch: Tensor | None, sublayer: Sublayer) -> Tensor:
        """``stream + scale * (branch + bias)``; the branch is ``[B N, D]`` or None for zeros."""
        delta: Tensor | None = sublayer.bias
        if branch is not None:
            branch = branch.view_as(stream)
            delta = branch if delta is None else branch + delta
        if delta is None:
            return stream
        return stream + (delta if sublayer.scale is None else delta * sublayer.scale)

    @torch.no_grad()
    def _branch_backward(
        self, grad_stream: Tensor, branch: Tensor | None, sublayer: Sublayer, trains: bool
    ) -> Tensor:
        """The gradient of the branch ``[B N, D]`` if it trains; adds those of bias and scale."""
        bias, scale = sublayer.bias, sublayer.scale
        grad_stream = grad_stream.contiguous().flatten(0, 1)
        total = grad_stream.sum(0)
        if scale is not None:
            if branch is not None:
                _gradient_of(scale).add_((grad_stream * branch).sum(0))
            if bias is not None:
                _gradient_of(scale).addcmul_(total, bias)
        if bias is not None:
            _gradient_of(bias).add_(total if scale is None else total * scale)
        if not trains:
            return self._rows(0)
        return (grad_stream if scale is None else grad_stream * scale).to(self._dtype)

    def _start(
        self,
        receive: Tensor,
        send: Tensor,
        received: tuple[int, ...],
        sent: tuple[int, ...],
        phase: ExchangePhase,
    ) -> Callable[[], None]:
        return start_all_to_all(
            self._model.ranks, receive, send, received, sent, phase, self._counted
        )

    def _sublayers(self, block: int) -> list[tuple[Sublayer, SublayerLanes]]:
        attention, mlp = self._model.blocks[block]
        lanes = self._wave.blocks[block].lanes
        return [(attention, lanes.attention), (mlp, lanes.mlp)]

    def _rows(self, num_tokens: int) -> Tensor:
        return self._probe.new_empty(num_tokens, self._width, dtype=self._dtype)

    def _lap(self, name: str) -> None:
        if self._watch is not None:
            self._watch.lap(name)


def _gradient_of(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad
