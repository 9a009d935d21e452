"""``d2ft diff``: what differs between two plans."""

from pathlib import Path
from typing import Annotated

import typer

from analysis.commands import options


def run(
    first: Annotated[Path, typer.Argument(metavar="A", help="A plan from 'd2ft plan'.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another plan of the same model.")],
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Compare two plans: settings, placement, operations of each device, predicted effect."""
    from analysis.console.output import print_json, print_line
    from analysis.planning.explain_tables import print_diff
    from analysis.planning.plan_diff import diff_plans
    from d2ft_sched.files.provenance import provenance
    from d2ft_sched.plan.plan_file import load_plan

    diff = diff_plans(load_plan(first), load_plan(second))
    if json:
        print_json({**diff.as_dict(), "provenance": provenance(seed)})
        return
    if not (diff.settings or diff.num_moved or diff.num_reowned or diff.changed):
        print_line(f"{first} and {second} are the same plan.")
        return
    print_diff(diff, first.name, second.name)
