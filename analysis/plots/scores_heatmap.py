"""Contribution scores of every head of every block."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.plots.style import SEQUENTIAL, new_figure, plot_style
from d2ft_sched.model.partition import Partition
from d2ft_sched.problem.scores import Scores


def score_heatmap(scores: Scores, partition: Partition) -> Figure:
    """Forward and backward scores, mean over micro-batches, and how much the latter vary over them.

    Heads of a subnet share its score; lines lie between subnets.

    Args:
        scores: of the partition's subnets, float ``[num_subnets, num_microbatches]`` each.
        partition: whose heads they are.
    """
    backward = scores.backward.mean(axis=1)
    variation = np.divide(
        scores.backward.std(axis=1), backward, out=np.zeros_like(backward), where=backward > 0
    )
    panels = (
        ("Forward score", "score (mean of all subnets = 1)", _relative(scores.forward)),
        ("Backward score", "score (mean of all subnets = 1)", _relative(scores.backward)),
        ("Backward, over micro-batches", "standard deviation (% of mean)", 100 * variation),
    )
    with plot_style():
        figure = new_figure(1.6 + 0.2 * min(max(partition.num_blocks, 6), 36), 9.0)
        for axes, (title, unit, values) in zip(
            figure.subplots(1, 3, sharey=True), panels, strict=True
        ):
            image = axes.imshow(
                _by_head(values, partition), cmap=SEQUENTIAL, aspect="auto", vmin=0,
                interpolation="nearest",
            )  # fmt: skip
            _subnet_lines(axes, partition)
            axes.set_title(title)
            axes.set_xlabel("head (index)")
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(MaxNLocator(12, integer=True))
            axes.spines[:].set_visible(False)
            figure.colorbar(image, ax=axes, location="bottom", label=unit, aspect=25)
        figure.axes[0].set_ylabel("block (index)")
    return figure


def _relative(table: np.ndarray) -> np.ndarray:
    mean = table.mean()
    return table.mean(axis=1) / mean if mean > 0 else table.mean(axis=1)


def _by_head(values: np.ndarray, partition: Partition) -> np.ndarray:
    """Value of each head's subnet, float ``[num_blocks, num_heads]``."""
    table = np.zeros((partition.num_blocks, partition.num_heads))
    for value, subnet in zip(values, partition.subnets, strict=True):
        table[subnet.block, list(subnet.heads)] = value
    return table


def _subnet_lines(axes: Axes, partition: Partition) -> None:
    if partition.num_blocks * partition.num_heads > 1000:
        return
    for subnet in partition.subnets:
        first, last = min(subnet.heads) - 0.5, max(subnet.heads) + 0.5
        axes.plot(
            [first, last, last, first, first],
            subnet.block + np.array([-0.5, -0.5, 0.5, 0.5, -0.5]),
            color="white",
            linewidth=0.8,
        )
    axes.set_xlim(-0.5, partition.num_heads - 0.5)
    axes.set_ylim(partition.num_blocks - 0.5, -0.5)
