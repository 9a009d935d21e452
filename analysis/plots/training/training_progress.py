"""Loss and accuracy of trainings over their steps."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.plots.style import GREY, new_figure, plot_style, run_styles, run_title

SMOOTHED_SHARE = 0.05
"""Of all steps: over how many the heavier line of losses is a mean."""


@dataclass(frozen=True, eq=False)
class Progress:
    """A training as it went.

    Attributes:
        loss: of each step, by its number; NaN where it was not finite.
        top1: fraction of the test samples, by the number of steps done.
        num_test: test samples.
        perplexity: of the test texts, by the number of steps done; NaN of classes.
    """

    loss: pd.Series
    top1: pd.Series
    num_test: int
    perplexity: pd.Series


def training_progress(runs: Mapping[str, Progress]) -> Figure:
    """Training loss of every step (left), accuracy or perplexity at every evaluation (right).

    The heavier line is a running mean of the losses. The bar at the last accuracy is a 95 %
    interval of a binomial proportion; it says nothing of the spread over seeds.

    Args:
        runs: by name, as `analysis.plots.style.run_styles` knows them.
    """
    styles = run_styles(runs)
    with plot_style():
        figure = new_figure(3.4)
        losses, accuracy = figure.subplots(1, 2)
        for index, (name, run) in enumerate(runs.items()):
            colour, marker, line = styles[name]
            window = max(1, round(SMOOTHED_SHARE * len(run.loss)))
            smooth = run.loss.rolling(window, min_periods=1).mean()
            losses.plot(run.loss.index, run.loss, color=colour, alpha=0.35, linewidth=0.8)
            losses.plot(
                smooth.index, smooth, color=colour, linestyle=line, linewidth=1.6,
                marker=marker if len(smooth) < 3 else None, label=run_title(name),
            )  # fmt: skip
            foretells = run.perplexity.notna().any()
            judged = run.perplexity if foretells else 100 * run.top1
            accuracy.plot(
                judged.index, judged, color=colour, marker=marker, linestyle=line, markersize=5
            )
            if len(judged) and not foretells:
                last = float(run.top1.iloc[-1])
                interval = 196 * np.sqrt(last * (1 - last) / run.num_test)
                accuracy.errorbar(
                    judged.index[-1], judged.iloc[-1], interval, color=colour,
                    capsize=3 + 2 * index, linewidth=1,
                )  # fmt: skip
        of_tokens = any(run.perplexity.notna().any() for run in runs.values())
        losses.set_ylabel(f"training loss (nats per {'token' if of_tokens else 'sample'})")
        losses.set_ylim(0, None)
        accuracy.set_ylabel(
            "perplexity of held-out text (number)" if of_tokens else "test accuracy, top-1 (%)"
        )
        for axes in (losses, accuracy):
            axes.set_xlabel("step (number)")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(color=GREY, alpha=0.25, linewidth=0.6)
        figure.legend(loc="outside upper center", ncols=4)
    return figure
