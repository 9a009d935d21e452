"""A cluster as a graph, coloured by how busy a step keeps its devices and links."""

from collections.abc import Mapping

import networkx as nx
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.console.formatting import quantity
from analysis.plots.style import BLACK, GREY, SEQUENTIAL, new_figure, plot_style
from d2ft_sched.cluster.cluster import Cluster
from sim.prediction import Prediction
from sim.questions.utilisation import device_utilisation, link_utilisation

MAX_NAMED = 64
"""Devices up to which each has its name."""
_THIN, _THICK = 1.2, 6.0
_RADIUS_IN = 2.3

Positions = Mapping[str, np.ndarray]


def cluster_topology(prediction: Prediction) -> Figure:
    """Devices as circles, switches as squares; a link has the colour of its busier direction.

    Args:
        prediction: a simulated step; busy is a fraction of its time.
    """
    cluster = prediction.cluster
    positions = _positions(cluster)
    with plot_style():
        figure = new_figure(2 * _RADIUS_IN + 1.6, 8.0)
        axes = figure.add_subplot()
        axes.set_aspect("equal")
        axes.set_axis_off()
        axes.set(xticks=[], yticks=[])
        axes.margins(0.12)
        colours = ScalarMappable(Normalize(0, 100), SEQUENTIAL)
        _draw_links(axes, prediction, positions, colours)
        _draw_nodes(axes, prediction, positions, colours)
        figure.colorbar(colours, ax=axes, label="busy (% of the step, predicted)", shrink=0.7)
        axes.set_title(
            f"{cluster.name}: a step of {quantity(prediction.step_s, 's')}", loc="center"
        )
        _add_legend(figure, cluster)
    return figure


def _positions(cluster: Cluster) -> Positions:
    """Trees from their middle outwards, others on a circle where nothing but devices is."""
    graph = cluster.graph
    if len(graph) == 1:
        return {cluster.devices[0].name: np.zeros(2)}
    if nx.is_tree(graph) and cluster.switches:
        return _radial(graph, nx.center(graph.subgraph(cluster.switches))[0])
    if cluster.switches:
        return nx.kamada_kawai_layout(graph)
    return nx.circular_layout(graph)


def _radial(graph: nx.Graph, root: str) -> Positions:
    """Leaves around a circle in the order of a walk; every other node between its leaves."""
    tree = nx.bfs_tree(graph, root)
    depth = nx.shortest_path_length(tree, root)
    walk = list(nx.dfs_preorder_nodes(tree, root))
    leaves = [node for node in walk if not tree.out_degree(node)]
    angle = {leaf: np.pi / 2 - 2 * np.pi * i / len(leaves) for i, leaf in enumerate(leaves)}
    for node in reversed(walk):
        if node not in angle:
            own = [angle[child] for child in tree.successors(node)]
            angle[node] = (min(own) + max(own)) / 2
    deepest = max(depth.values())
    return {
        node: depth[node] / deepest * np.array([np.cos(angle[node]), np.sin(angle[node])])
        for node in graph
    }


def _draw_links(
    axes: Axes, prediction: Prediction, positions: Positions, colours: ScalarMappable
) -> None:
    cluster = prediction.cluster
    busy = dict.fromkeys((frozenset((k.source, k.target)) for k in cluster.links), 0.0)
    for row in link_utilisation(prediction).to_dict("records"):
        ends = frozenset(str(row["link"]).split(" -> "))
        busy[ends] = max(busy[ends], 100 * row["busy_fraction"])
    lines = [[positions[k.source], positions[k.target]] for k in cluster.links]
    widths = _widths(np.array([k.bandwidth_bytes_per_s for k in cluster.links]))
    axes.add_collection(LineCollection(lines, colors=GREY, linewidths=widths + 1.2, zorder=1))
    axes.add_collection(
        LineCollection(
            lines,
            colors=colours.to_rgba(np.array(list(busy.values()))),
            linewidths=widths,
            zorder=2,
        )
    )


def _widths(bandwidth: np.ndarray) -> np.ndarray:
    """Line widths in points, by the logarithm of the bandwidth."""
    rate = np.log10(bandwidth)
    if not rate.size or np.ptp(rate) < 1e-9:
        return np.full(rate.shape, (_THIN + _THICK) / 2)
    return _THIN + (_THICK - _THIN) * (rate - rate.min()) / np.ptp(rate)


def _draw_nodes(
    axes: Axes, prediction: Prediction, positions: Positions, colours: ScalarMappable
) -> None:
    cluster = prediction.cluster
    devices = device_utilisation(prediction)
    busy = 100 * devices["busy_fraction"].to_numpy()
    at = np.array([positions[d.name] for d in cluster.devices])
    is_small = len(cluster.devices) > 24
    axes.scatter(
        at[:, 0], at[:, 1], s=70 if is_small else 260, c=colours.to_rgba(busy), edgecolor=BLACK,
        linewidth=0.8, zorder=4,
    )  # fmt: skip
    if cluster.switches:
        squares = np.array([positions[name] for name in cluster.switches])
        axes.scatter(
            squares[:, 0], squares[:, 1], s=90, marker="s", color="white", edgecolor=BLACK, zorder=3
        )
    if len(cluster.devices) > MAX_NAMED:
        return
    middle = at.mean(axis=0)
    for device, own, percent in zip(cluster.devices, at, busy, strict=True):
        outwards = own - middle
        length = np.hypot(*outwards)
        x, y = outwards / length if length > 1e-9 else (0.0, -1.0)
        if is_small:
            axes.annotate(
                f"{device.name}, {percent:.0f} %", own, (9 * x, 9 * y), textcoords="offset points",
                fontsize=6, ha="left" if x >= 0 else "right", va="center", rotation_mode="anchor",
                rotation=np.degrees(np.arctan2(y, x) if x >= 0 else np.arctan2(-y, -x)),
            )  # fmt: skip
            continue
        axes.annotate(
            f"{device.name}\n{percent:.0f} %", own, (15 * x, 15 * y), textcoords="offset points",
            fontsize=8, ha="center" if abs(x) < 0.3 else "left" if x > 0 else "right",
            va="center" if abs(y) < 0.3 else "bottom" if y > 0 else "top",
        )  # fmt: skip


def _add_legend(figure: Figure, cluster: Cluster) -> None:
    handles = [
        Line2D([], [], marker="o", linestyle="", color="white", markeredgecolor=BLACK,
               markersize=9, label="device, busy % of the step"),
    ]  # fmt: skip
    if cluster.switches:
        handles.append(
            Line2D([], [], marker="s", linestyle="", color="white", markeredgecolor=BLACK,
                   markersize=7, label="switch")
        )  # fmt: skip
    rates = np.array([k.bandwidth_bytes_per_s for k in cluster.links])
    for index in sorted({int(rates.argmin()), int(rates.argmax())} if rates.size else ()):
        label = f"link of {quantity(rates[index], 'B/s')} each way"
        handles.append(Line2D([], [], color=GREY, linewidth=_widths(rates)[index], label=label))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
