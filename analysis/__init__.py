"""What to conclude: requests as the command line reads them, comparisons, pictures and the report.

`read_request` and `plan_request` are ``d2ft plan``, `compare_solvers` is ``d2ft compare``, `Sweep`
is ``d2ft sweep``; functions of pictures take a result or a table and return a matplotlib Figure.
"""

from typing import TYPE_CHECKING

from d2ft_sched.lazy_names import lazy_names

if TYPE_CHECKING:
    from analysis.comparing.comparison import compare_solvers as compare_solvers
    from analysis.comparing.comparison import comparison_table as comparison_table
    from analysis.console.formatting import percent as percent
    from analysis.console.formatting import quantity as quantity
    from analysis.names.placement_names import PlacementName as PlacementName
    from analysis.planning.plan_request import plan_request as plan_request
    from analysis.planning.request import Request as Request
    from analysis.planning.request import read_request as read_request
    from analysis.plots.cluster_graph import cluster_topology as cluster_topology
    from analysis.plots.device_workload import workload_per_device as workload_per_device
    from analysis.plots.save import save_both as save_both
    from analysis.plots.solvers import solver_comparison as solver_comparison
    from analysis.plots.timeline import step_gantt as step_gantt
    from analysis.plots.validation import predicted_against_measured as predicted_against_measured
    from analysis.reporting.write_report import write_report as write_report
    from analysis.results.savings import Pair as Pair
    from analysis.results.savings import rank_correlation as rank_correlation
    from analysis.results.savings import worst_error as worst_error
    from analysis.sweeping.run_sweep import Sweep as Sweep
    from analysis.sweeping.sweep_grid import Axes as Axes
    from analysis.sweeping.sweep_grid import Common as Common
    from analysis.sweeping.sweep_grid import grid_points as grid_points
    from analysis.sweeping.sweep_plots import save_sweep_plots as save_sweep_plots
else:
    __all__, __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "planning.request": "Request read_request",
            "planning.plan_request": "plan_request",
            "names.placement_names": "PlacementName",
            "comparing.comparison": "compare_solvers comparison_table",
            "sweeping.sweep_grid": "Axes Common grid_points",
            "sweeping.run_sweep": "Sweep",
            "sweeping.sweep_plots": "save_sweep_plots",
            "plots.timeline": "step_gantt",
            "plots.cluster_graph": "cluster_topology",
            "plots.device_workload": "workload_per_device",
            "plots.solvers": "solver_comparison",
            "plots.validation": "predicted_against_measured",
            "plots.save": "save_both",
            "results.savings": "Pair rank_correlation worst_error",
            "console.formatting": "quantity percent",
            "reporting.write_report": "write_report",
        },
    )
