"""``d2ft profile``: measure this device, and score a model's subnets on it."""

from pathlib import Path
from typing import Annotated

import typer

from analysis import options


def run(
    out: Annotated[Path, typer.Option(help="Device file to write.")] = Path("device.yaml"),
    name: Annotated[str, typer.Option(help="What clusters call this device.")] = "this-device",
    model: options.TrainedModel = "vit_small_patch14_dinov2",
    weights: options.Weights = None,
    pretrained: options.Pretrained = False,
    image_size: options.ImageSize = None,
    num_classes: options.NumClasses = 10,
    heads_per_subnet: options.HeadsPerSubnet = "1",
    microbatches: options.Microbatches = 5,
    microbatch_size: options.MicrobatchSize = 16,
    repeats: Annotated[int, typer.Option(min=1, help="Measurements of each size.")] = 5,
    shape_out: Annotated[
        Path | None, typer.Option(help="Also write the model's sizes, for 'd2ft plan --model'.")
    ] = None,
    scores_out: Annotated[
        Path | None, typer.Option(help="Also score the subnets on --data and write the table.")
    ] = None,
    data: options.Data = "mnist-subset",
    data_root: options.DataRoot = None,
    download: options.Download = False,
    num_train: options.NumTrain = None,
    num_minibatches: Annotated[
        int, typer.Option(min=1, help="Mini-batches whose scores are averaged.")
    ] = 4,
    device: options.DeviceName = "auto",
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Measure how long this device takes over sizes of work, for cluster files.

    Put the result into a cluster file as {name: ..., file: device.yaml}.
    """
    from analysis.options import parse_heads
    from analysis.output import amount, messages, print_json, print_table, seconds
    from analysis.progress import TerminalProgress
    from d2ft_sched.device_file import device_to_dict, dump_device
    from d2ft_sched.partition import partition_by_heads
    from d2ft_sched.provenance import provenance
    from d2ft_sched.scores import save_scores
    from d2ft_sched.shape_file import save_model_shape
    from d2ft_sched.workload import Workload
    from runtime.data.load import load_data
    from runtime.device import keep_freed_memory, select_device
    from runtime.linear_probe import fit_classifier
    from runtime.models import build_model, shape_of
    from runtime.profile import profile_device
    from runtime.scores import mean_scores
    from runtime.training_scores import training_scores

    keep_freed_memory()
    torch_device = select_device(device)
    built = build_model(
        model,
        image_size=image_size,
        num_classes=num_classes,
        weights=weights,
        pretrained=pretrained,
        seed=seed,
    ).to(torch_device)
    shape = shape_of(built)
    workload = Workload(
        shape,
        partition_by_heads(shape, parse_heads(heads_per_subnet)),
        (microbatch_size,) * microbatches,
    )
    progress = TerminalProgress(messages)
    if scores_out:
        with progress.stage("Score subnets") as tell:
            images = load_data(
                data,
                image_size=built.patch_embed.img_size[0],
                num_train=num_train,
                seed=seed,
                data_root=data_root,
                download=download,
            )
            fit_classifier(built, images.train.to(torch_device))
            scores = []
            for own in training_scores(
                built, images, workload, seed, torch_device, num_minibatches
            ):
                scores.append(own)
                tell(len(scores), num_minibatches)
        save_scores(mean_scores(scores), scores_out)
    with progress.stage("Profile this device") as tell:
        profiled = profile_device(
            built, workload, torch_device, name=name, num_repeats=repeats, progress=tell
        )
    dump_device(profiled, out)
    if shape_out:
        save_model_shape(shape, shape_out)
    if json:
        print_json({"device": device_to_dict(profiled), "provenance": provenance(seed)})
        return
    print_table(
        f"{profiled.name}: {profiled.source}",
        ["kind of work", "smallest", "takes", "largest", "takes", "rate at the largest"],
        [
            [
                str(kind),
                amount(curve.work[0], unit),
                seconds(curve.seconds[0]),
                amount(curve.work[-1], unit),
                seconds(curve.seconds[-1]),
                amount(curve.work[-1] / curve.seconds[-1], f"{unit}/s"),
            ]
            for kind, curve in profiled.curves.items()
            for unit in ("B" if kind.is_memory_bound else "FLOP",)
        ],
    )
    for path in (out, shape_out, scores_out):
        if path:
            typer.echo(f"Wrote {path}")
