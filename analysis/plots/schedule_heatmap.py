"""The schedule as a heat map."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from analysis.plots.style import GREY, OPERATION_COLOURS, new_figure, plot_style
from d2ft_sched.plan.solved_plan import Plan
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.replica import first_microbatches


def schedule_heatmap(plan: Plan) -> Figure:
    """Operation of every subnet (columns, by device and then block) and micro-batch (rows).

    Shares in the legend count samples, as rows may have unequal numbers of them, over all subnets.
    Where there are several replicas, columns are in order of block, and lines part their rows.
    """
    several = len(plan.replicas) > 1
    device = np.array(plan.replicas[0].placement.subnet_device)
    if several:
        device = np.zeros_like(device)
    order = np.lexsort((plan.workload.partition.block, device))
    num_subnets, num_microbatches = plan.schedule.shape
    with plot_style():
        figure = new_figure(1.9 + 0.17 * min(max(num_microbatches, 5), 24))
        axes = figure.add_subplot()
        axes.imshow(
            plan.schedule[order].T,
            cmap=ListedColormap([OPERATION_COLOURS[op] for op in Operation]),
            vmin=-0.5,
            vmax=len(Operation) - 0.5,
            aspect="auto",
            interpolation="nearest",
        )
        if num_subnets <= 200:
            axes.set_xticks(np.arange(num_subnets + 1) - 0.5, minor=True)
            axes.set_yticks(np.arange(num_microbatches + 1) - 0.5, minor=True)
            axes.grid(which="minor", color="white", linewidth=0.6)
        axes.tick_params(which="minor", length=0)
        if several:
            _label_replicas(axes, plan)
        else:
            _label_devices(axes, plan, device[order])
        step = max(1, num_microbatches // 12)
        axes.set_yticks(range(0, num_microbatches, step))
        axes.set_ylabel("micro-batch (index)")
        axes.spines[:].set_visible(False)
        samples = plan.workload.samples
        of_samples = samples / samples.sum()
        counts = {op: (plan.schedule == op).mean(axis=0) @ of_samples for op in Operation}
        figure.legend(
            handles=[
                Patch(
                    facecolor=OPERATION_COLOURS[op],
                    edgecolor=GREY,
                    label=f"{op.name} ({100 * counts[op]:.0f} % of samples)",
                )
                for op in reversed(Operation)
                if counts[op] or op != Operation.REST
            ],
            loc="outside upper left",
            ncols=3,
        )
    return figure


def _label_devices(axes: Axes, plan: Plan, device: np.ndarray) -> None:
    bounds = np.flatnonzero(np.diff(device)) + 1
    starts, stops = np.r_[0, bounds], np.r_[bounds, len(device)]
    for bound in bounds:
        axes.axvline(bound - 0.5, color="black", linewidth=1.5)
    names = [plan.cluster.devices[device[start]].name for start in starts]
    every = max(1, len(names) // 40)
    crowded = sum(len(name) + 2 for name in names) > 110
    axes.set_xticks(
        ((starts + stops - 1) / 2)[::every],
        names[::every],
        rotation=90 if crowded else 0,
    )
    axes.tick_params(axis="x", length=0)
    num_blocks = plan.workload.shape.num_blocks
    axes.set_xlabel(
        f"subnets of each device, in order of block (0 to {num_blocks - 1} from left to right)"
    )


def _label_replicas(axes: Axes, plan: Plan) -> None:
    bounds = first_microbatches(plan.replicas)
    for bound in bounds[1:-1]:
        axes.axhline(bound - 0.5, color="black", linewidth=1.5)
    names = [device.name for device in plan.cluster.devices]
    beside = axes.secondary_yaxis("right")
    beside.set_yticks(
        (bounds[:-1] + bounds[1:] - 1) / 2,
        [" + ".join(names[d] for d in replica.devices) for replica in plan.replicas],
    )
    beside.tick_params(axis="y", length=0)
    beside.spines[:].set_visible(False)
    block = plan.workload.partition.block
    starts = np.flatnonzero(np.diff(block, prepend=-1))
    middles = (starts + np.r_[starts[1:], len(block)] - 1) / 2
    axes.set_xticks(middles, [str(b) for b in block[starts]])
    axes.tick_params(axis="x", length=0)
    axes.set_xlabel("subnets of each block, which every replica holds")
