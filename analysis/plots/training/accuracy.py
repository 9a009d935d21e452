"""Accuracy of fine-tuning runs against what they spent."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from analysis.plots.style import GREY, new_figure, plot_style, run_styles, run_title, scaled_axis
from analysis.results.run_records import TrainingMeasurement


def accuracy_curves(training: Mapping[str, TrainingMeasurement], num_test: int) -> Figure:
    """Top-1 accuracy against epochs (left) and against FLOPs of training (right).

    Bars at the last epoch are 95 % intervals of a binomial proportion over `num_test` samples; they
    say nothing of the spread over seeds.
    """
    styles = run_styles(training)
    with plot_style():
        figure = new_figure(3.4)
        by_epoch, by_flops = figure.subplots(1, 2, sharey=True)
        factor = scaled_axis(
            by_flops, "x", max(t.flops for t in training.values()), "measured training compute",
            "FLOP",
        )  # fmt: skip
        for index, (name, run) in enumerate(training.items()):
            colour, marker, line = styles[name]
            accuracy = 100 * np.array(
                [run.test_accuracy_before, *(e.test_accuracy for e in run.epochs)]
            )
            flops = factor * np.cumsum([0.0, *(e.flops for e in run.epochs)])
            epochs = np.array([0, *(e.epoch for e in run.epochs)])
            last = run.test_accuracy
            interval = 196 * np.sqrt(last * (1 - last) / num_test)
            for axes, x in ((by_epoch, epochs), (by_flops, flops)):
                axes.plot(
                    x, accuracy, color=colour, marker=marker, linestyle=line, markersize=5,
                    label=run_title(name) if axes is by_epoch else None,
                )  # fmt: skip
                axes.errorbar(
                    x[-1], accuracy[-1], interval, color=colour, capsize=3 + 2 * index, linewidth=1
                )
                axes.grid(color=GREY, alpha=0.25, linewidth=0.6)
        by_epoch.set_xlabel("epochs (number)")
        by_epoch.set_ylabel("test accuracy, top-1 (%)")
        by_epoch.xaxis.get_major_locator().set_params(integer=True)
        figure.legend(loc="outside upper center", ncols=4)
    return figure
