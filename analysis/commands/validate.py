"""``d2ft validate``: predictions held against measurements."""

from pathlib import Path
from typing import Annotated

import typer

from analysis.commands import options
from analysis.names.placement_names import PlacementName
from analysis.names.precision_names import PrecisionName

OF_THE_PLANS = [
    "cluster_file", "model", "num_tokens", "num_classes", "heads_per_subnet", "microbatches",
    "microbatch_size", "waves", "placement", "precision", "lora_rank", "lora_alpha",
]  # fmt: skip
"""What plans say themselves."""


def run(
    ctx: typer.Context,
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
    model: options.TrainedModel = "vit_small_patch14_dinov2",
    image_size: options.ImageSize = None,
    num_tokens: options.NumTokens = None,
    num_classes: options.NumClasses = 10,
    heads_per_subnet: options.HeadsPerSubnet = "1",
    microbatches: options.Microbatches = 5,
    microbatch_size: options.MicrobatchSize = 16,
    waves: options.Waves = 1,
    overlap: Annotated[
        bool,
        typer.Option(
            "--overlap",
            help="Send the messages of one wave while another computes; several ranks only.",
        ),
    ] = False,
    placement: Annotated[
        PlacementName,
        typer.Option(help="Of subnets and owners on several ranks; see 'd2ft plan'."),
    ] = PlacementName.EVERY_DEVICE,
    repeats: Annotated[int, typer.Option(min=1, help="Timed steps of each plan.")] = 5,
    precision: options.Precision = PrecisionName.FLOAT32,
    lora_rank: options.LoraRank = None,
    lora_alpha: options.LoraAlpha = None,
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
    from analysis.planning.request import parse_heads, read_lora
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
                    model=model,
                    image_size=image_size,
                    num_tokens=num_tokens,
                    num_classes=num_classes,
                    heads=parse_heads(heads_per_subnet),
                    num_microbatches=microbatches,
                    microbatch_size=microbatch_size,
                    num_waves=waves,
                    overlap=overlap,
                    lora=read_lora(lora_rank, lora_alpha),
                    placement=placement,
                    num_repeats=repeats,
                    precision=precision,
                    device=device,
                    timeout_s=timeout,
                    seed=seed,
                    shared=shared,
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
