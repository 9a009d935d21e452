"""``d2ft report``: one HTML file from whatever results a folder holds."""

from pathlib import Path
from typing import Annotated

import typer

from analysis.commands import options


def run(
    run_dir: Annotated[
        Path,
        typer.Argument(metavar="RUN_DIR", help="A folder with results of other commands."),
    ],
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Make one page of whatever results a folder holds: report.html and its pictures.

    Results of demo, plan, validate, study, finetune and sweep are also looked for in the folder of
    that name in RUN_DIR, and a dense training to hold another against in its folder 'dense'. The
    page is self-contained; what is not in the folder is said, with the command
    that would add it.
    """
    from analysis.console.output import print_json, print_line
    from analysis.reporting.write_report import write_report
    from d2ft_sched.files.provenance import provenance

    report = write_report(run_dir)
    if json:
        print_json({"report": str(report), "provenance": provenance(seed)})
    else:
        print_line(f"Wrote {report}")
