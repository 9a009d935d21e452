"""``d2ft validate``: predictions held against measurements."""

from pathlib import Path
from typing import Annotated

import typer

from analysis.commands import options
from analysis.commands.parsing.grouped_options import with_groups
from analysis.commands.parsing.tried_options import OF_THE_PLANS, TriedOptions


@with_groups
def run(
    ctx: typer.Context,
    tried: TriedOptions,
    *,
    plans: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[PLAN]...",
            help="Plans from 'd2ft plan' to run on their devices, in place of those made here.",
        ),
    ] = None,
    cluster_file: Annotated[
        Path | None,
        typer.Option(
            "--cluster",
            help="The devices that this runs on, as 'd2ft profile' measured them; alone this "
            "device is measured first.",
        ),
    ] = None,
    image_size: options.ImageSize = None,
    overlap: Annotated[
        bool,
        typer.Option(
            "--overlap",
            help="Send the messages of one wave while another computes; several ranks only.",
        ),
    ] = False,
    repeats: Annotated[int, typer.Option(min=1, help="Timed steps of each plan.")] = 5,
    timeout: Annotated[
        float, typer.Option(min=1.0, help="Seconds that a rank waits for another.")
    ] = 600.0,
    device: options.DeviceName = "auto",
    out: Annotated[
        Path, typer.Option(callback=options.folder_target, help="Folder for tables and pictures.")
    ] = Path("out/validate"),
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Run many plans on the devices at hand and show predicted beside measured.

    On one device as it is; on several as 'torchrun --no-python --nproc-per-node N d2ft validate
    --cluster FILE' or 'd2ft testbed --cluster ASKED -- d2ft validate --cluster MEASURED'. No plan
    is one that a calibration has seen. Plans that are given, of any replicas, need a rank for each
    device of theirs.
    """
    from analysis.console.output import (
        messages,
        outside_calibration,
        print_json,
        print_line,
        print_warnings,
    )
    from analysis.console.progress import TerminalProgress
    from analysis.validating.given_plans import PlansRequest, validate_plans
    from analysis.validating.run_validation import ValidationRequest, validate
    from analysis.validating.validation_files import (
        print_validation,
        save_validation,
        validation_summary,
    )

    shared = options.option_values(ctx, ["plans", "cluster_file", "device", "out", "json"])
    progress = TerminalProgress(messages)
    with outside_calibration() as warned:
        if plans:
            options.refuse_given(ctx, OF_THE_PLANS, "the plans have their own")
            validated = validate_plans(
                PlansRequest(
                    files=plans,
                    image_size=image_size,
                    overlap=overlap,
                    num_repeats=repeats,
                    device=device,
                    timeout_s=timeout,
                    seed=seed,
                    shared=shared,
                ),
                progress,
            )
        else:
            validated = validate(
                ValidationRequest(
                    cluster_file=cluster_file,
                    image_size=image_size,
                    overlap=overlap,
                    num_repeats=repeats,
                    device=device,
                    timeout_s=timeout,
                    seed=seed,
                    shared=shared,
                    **tried.asked(),
                ),
                progress,
            )
    if not validated.speaks:
        return
    print_warnings(warned)
    written = save_validation(validated, out, seed)
    if json:
        print_json(validation_summary(validated, seed))
        return
    print_validation(validated)
    for path in written:
        print_line(f"Wrote {path}")
