"""``d2ft plot``: a picture of a file that another command wrote."""

from pathlib import Path
from typing import Annotated

import typer

from analysis.commands import options
from analysis.names.picture_names import PictureName


def run(
    name: Annotated[
        PictureName,
        typer.Argument(
            metavar="PICTURE",
            help="Of a plan: schedule, timeline, workload, topology. Of a scores table: scores. Of "
            "a sweep's table: tradeoff, step-time. Of plans.csv of 'd2ft validate': validation. Of "
            "a table of 'd2ft compare': solvers. Of curves.csv of 'd2ft study': accuracy, "
            "accuracy-time; of its summary.csv: accuracy-ranked.",
        ),
    ],
    file: Annotated[Path, typer.Argument(help="The plan or table.")],
    plan: Annotated[
        Path | None, typer.Option(help="With scores: a plan of the same subnets.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN=VALUE", help="Only these rows of a table, as solver=dp. Repeatable."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Picture to write: .png, .svg or .pdf, without an ending PNG and SVG; default the "
            "picture's name beside the file."
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Draw a picture of a plan, a scores table or a result table.

    Step times, utilisation and timelines of plans are predictions.
    """
    from analysis.console.output import outside_calibration, print_json, print_line, print_warnings
    from analysis.plots.save import picture_paths, save_figure
    from analysis.reporting.picture_files import picture

    paths = picture_paths(out or file.with_name(name.value))
    with outside_calibration() as warned:
        figure = picture(name, file, plan_file=plan, where=where or ())
    for path in paths:
        save_figure(figure, path)
    print_warnings(warned)
    if json:
        print_json({"picture": name.value, "files": [str(path) for path in paths]})
        return
    for path in paths:
        print_line(f"Wrote {path}")
