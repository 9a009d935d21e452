"""``d2ft study``: methods x budgets x seeds on one data set, resumable."""

from pathlib import Path
from typing import Annotated

import typer

from analysis.commands import options


def run(
    study_file: Annotated[
        Path | None, typer.Argument(metavar="STUDY", help="A study file; see examples/studies.")
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            callback=options.folder_target, help="Folder of results; a second run goes on there."
        ),
    ] = Path("out/study"),
    data: Annotated[
        str | None,
        typer.Option(help="The study's pictures elsewhere, such as imagefolder:PATH."),
    ] = None,
    data_root: options.DataRoot = None,
    download: options.Download = False,
    workers: options.Workers = None,
    device: options.DeviceName = "auto",
    only: Annotated[
        list[str] | None, typer.Option(help="Only the method of this name; may be repeated.")
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(help="Only this seed of the study; may be repeated.")
    ] = None,
    cluster: Annotated[
        list[str] | None, typer.Option(help="Only the cluster of this name; may be repeated.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads on a CPU; default those torch chooses.")
    ] = None,
    max_runs: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many runs; the rest can follow later.")
    ] = None,
    summarize: Annotated[
        Path | None, typer.Option(help="Only summarise the results of this folder.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Train every method of a study for every budget and seed, and compare them.

    Writes runs.csv (a row per run), curves.csv (a row per evaluation), provenance.json,
    summary.csv, summary.md (the table) and plots. Runs that are in runs.csv already are not
    repeated, and several of these commands may work on one folder at once: start one with
    --threads 1 for each core. Seconds on the cluster are predictions of the simulator.
    """
    from analysis.console.output import messages, percent, print_cells, print_json, print_line
    from analysis.console.study_progress import StudyProgress
    from analysis.studying.study_file import load_study
    from analysis.studying.study_grid import Selection
    from analysis.studying.study_settings import run_study
    from analysis.studying.study_start import Pictures
    from analysis.studying.study_summary import methods_table, write_summary
    from d2ft_sched.errors import InputError
    from runtime.steady_settings import steady_process
    from runtime.torch_device import set_threads

    if (study_file is None) == (summarize is None):
        raise InputError("give a study file, or --summarize with the folder of its results")
    if study_file is not None:
        set_threads(threads)
        steady_process()
        study = load_study(study_file)
        with StudyProgress(messages, study.name) as progress:
            for row in run_study(
                study,
                study_file.parent,
                out,
                pictures=Pictures(data, data_root, download, device, workers),
                selection=Selection(tuple(only or ()), tuple(seed or ()), tuple(cluster or ())),
                max_runs=max_runs,
                tell=progress.tell,
                note=progress.say,
            ):
                result = percent(row["top1"]) if "top1" in row else row["note"]
                progress.say(
                    f"{row['cluster']}, {row['budget']}, {row['method']}, seed {row['seed']}: "
                    f"{result}"
                )
    folder = summarize or out
    table = write_summary(folder)
    if json:
        rows = [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]
        print_json({"out": str(folder), "summary": rows})
        return
    print_cells(methods_table(table))
    print_line(f"Wrote {folder}")
