"""``d2ft report``: one HTML file from a run directory."""

from pathlib import Path
from typing import Annotated

import typer

from analysis import options


def run(
    run_dir: Annotated[
        Path, typer.Argument(metavar="RUN_DIR", help="A folder that 'd2ft demo' wrote.")
    ],
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Make the report of a run again: report.html, self-contained, and its pictures."""
    from analysis.output import print_json
    from analysis.report import write_report
    from d2ft_sched.provenance import provenance

    report = write_report(run_dir)
    if json:
        print_json({"report": str(report), "provenance": provenance(seed)})
    else:
        typer.echo(f"Wrote {report}")
