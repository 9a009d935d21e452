"""``d2ft profile``: measure this device, and score a model's subnets on it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analysis.commands import options
from analysis.names.bad_file_names import OnBadFileName
from analysis.names.precision_names import PrecisionName

if TYPE_CHECKING:
    from d2ft_sched.model.workload import Workload
    from runtime.ranks.job import Ranks

DEVICE_FILE = "device.yaml"


def run(
    ctx: typer.Context,
    out: Annotated[
        Path | None,
        typer.Option(
            callback=options.file_target, help=f"Device file to write; default: {DEVICE_FILE}."
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="What clusters call this device.")] = "this-device",
    model: options.TrainedModel = "vit_small_patch14_dinov2",
    weights: options.Weights = None,
    pretrained: options.Pretrained = False,
    image_size: options.ImageSize = None,
    num_tokens: options.NumTokens = None,
    num_classes: options.NumClasses = 10,
    heads_per_subnet: options.HeadsPerSubnet = "1",
    microbatches: options.Microbatches = 5,
    microbatch_size: options.MicrobatchSize = 16,
    precision: options.Precision = PrecisionName.FLOAT32,
    repeats: Annotated[int, typer.Option(min=1, max=10_000, help="Measurements of each size.")] = 5,
    shape_out: Annotated[
        Path | None,
        typer.Option(
            callback=options.file_target,
            help="Also write the model's sizes, for 'd2ft plan --model'.",
        ),
    ] = None,
    scores_out: Annotated[
        Path | None,
        typer.Option(
            callback=options.file_target,
            help="Also score the subnets on --data and write the table.",
        ),
    ] = None,
    cluster_out: Annotated[
        Path | None,
        typer.Option(
            callback=options.file_target,
            help="Under torchrun or d2ft testbed: measure all ranks and the network between them "
            "and write a cluster file, instead of a device file.",
        ),
    ] = None,
    data: options.Data = "mnist-subset",
    data_root: options.DataRoot = None,
    download: options.Download = False,
    num_train: options.NumTrain = None,
    on_bad_file: options.OnBadFile = OnBadFileName.FAIL,
    workers: options.Workers = None,
    num_minibatches: Annotated[
        int, typer.Option(min=1, max=10_000, help="Mini-batches whose scores are averaged.")
    ] = 4,
    device: options.DeviceName = "auto",
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Measure how long this device takes over sizes of work, for cluster files.

    Put the result into a cluster file as {name: ..., file: device.yaml}; or let torchrun or
    'd2ft testbed' run it on every device with --cluster-out, and have the cluster file at once.
    """
    import numpy as np

    from analysis.console.output import (
        amount,
        messages,
        print_json,
        print_line,
        print_table,
        seconds,
    )
    from analysis.console.progress import TerminalProgress
    from analysis.finetuning.data_notes import skipped_notes
    from analysis.planning.request import parse_heads
    from d2ft_sched.cluster.device_file import device_to_dict, dump_device
    from d2ft_sched.errors import InputError
    from d2ft_sched.files.atomic_write import check_file_target
    from d2ft_sched.files.provenance import provenance
    from d2ft_sched.model.partition import partition_by_heads
    from d2ft_sched.model.shape_file import save_model_shape
    from d2ft_sched.model.workload import ELEMENT_BYTES, Workload
    from d2ft_sched.problem.scores import save_scores
    from d2ft_sched.schedule.operations import Operation
    from runtime.data.load_data import load_data
    from runtime.data.pictures.load_pictures import PictureReading
    from runtime.measure.device_profile import largest_timed, profile_device
    from runtime.measure.step_memory import check_whole_step
    from runtime.models.build import build_model, has_class_labels, input_format_of, shape_of
    from runtime.models.linear_probe import fit_classifier
    from runtime.ranks.agreement import check_same, together
    from runtime.ranks.job import Ranks, init_ranks
    from runtime.scoring.minibatch_scores import mean_scores
    from runtime.scoring.training_scores import training_scores
    from runtime.steady_settings import steady_process
    from runtime.torch_device import select_device

    if scores_out is None:
        names = ["data", "data_root", "download", "num_train", "on_bad_file", "workers"]
        names.append("num_minibatches")
        options.refuse_given(ctx, names, "it goes with --scores-out")
    device_file = out or Path(DEVICE_FILE)
    if cluster_out:
        for option, path in (("out", out), ("shape-out", shape_out), ("scores-out", scores_out)):
            if path:
                raise InputError(f"--{option} is of one device; leave it out with --cluster-out")
    else:
        check_file_target(device_file)
    steady_process()
    ranks = init_ranks(device) if cluster_out else Ranks(0, 1, select_device(device))
    shared = options.option_values(ctx, ["cluster_out", "weights", "device", "json"])
    together(ranks, lambda: check_same(ranks, shared), "the comparison of options")
    torch_device = ranks.device
    if cluster_out and ranks.num_ranks < 2:
        raise InputError(
            "--cluster-out measures the network between 2 or more ranks; this job has one: start "
            "it with torchrun or d2ft testbed"
        )

    def build() -> tuple[Any, Workload]:
        built = build_model(
            model,
            image_size=image_size,
            num_tokens=num_tokens,
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
            ELEMENT_BYTES[precision],
        )
        largest = largest_timed(workload)
        if scores_out:
            largest = np.full_like(largest, Operation.FULL)
        check_whole_step(workload, largest, ranks)
        return built, workload

    built, workload = together(ranks, build, "the building of the model")
    shape = workload.shape
    if cluster_out:
        _profile_cluster(ranks, built, workload, repeats, cluster_out, seed, json)
        return
    progress = TerminalProgress(messages)
    if scores_out:
        with progress.stage("Score subnets") as tell:
            images = load_data(
                data,
                input_format_of(shape),
                num_train=num_train,
                seed=seed,
                data_root=data_root,
                download=download,
                on_bad_file=on_bad_file.value,
                reading=PictureReading(num_workers=workers, device=torch_device),
            )
            if has_class_labels(shape.name):
                fit_classifier(built, images.train.to(torch_device))
            scores = []
            for own in training_scores(
                built, images, workload, seed, torch_device, num_minibatches
            ):
                scores.append(own)
                tell(len(scores), num_minibatches)
        save_scores(mean_scores(scores), scores_out)
        read = (images.describe_split(), images.reading, *skipped_notes(images.skipped))
        for note in filter(None, read):
            progress.note(note)
    with progress.stage("Profile this device") as tell:
        profiled = profile_device(
            built, workload, torch_device, name=name, num_repeats=repeats, progress=tell
        )
    dump_device(profiled, device_file)
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
    for path in (device_file, shape_out, scores_out):
        if path:
            print_line(f"Wrote {path}")


def _profile_cluster(
    ranks: "Ranks",
    model: Any,
    workload: "Workload",
    repeats: int,
    out: Path,
    seed: int,
    json: bool,
) -> None:
    """Measure all ranks; the first writes the cluster file and says how well it fits."""
    import numpy as np
    import yaml

    from analysis.console.output import (
        percent,
        print_json,
        print_line,
        print_note,
        print_table,
        seconds,
    )
    from d2ft_sched.cluster.cluster_file import cluster_to_dict
    from d2ft_sched.files.atomic_write import write_text
    from d2ft_sched.files.provenance import provenance
    from runtime.measure.cluster_profile import measure_network, profile_devices
    from runtime.measure.network_fit import fit_network
    from runtime.ranks.agreement import together
    from runtime.ranks.job import close_ranks

    is_first = ranks.rank == 0
    if is_first:
        print_note("Profile all devices at once")
    devices = profile_devices(ranks, model, workload, num_repeats=repeats)
    if is_first:
        print_note("Profile the network")
    times = measure_network(ranks, repeats)
    content = ""
    if is_first:
        fit = fit_network(out.stem, devices, times)
        error = fit.all_predicted_s / times.all_s - 1
        facts = provenance(seed, num_ranks=ranks.num_ranks) | {
            "least_r_squared_of_a_pair": round(fit.pair_r_squared, 4),
            "misfit_of_a_switch": round(fit.star_misfit, 4),
            "largest_error_of_an_exchange": round(float(np.abs(error).max()), 4),
            "latency": "includes what the collective itself costs",
        }
        header = "".join(f"# {name}: {value}\n" for name, value in facts.items())
        content = header + yaml.safe_dump(cluster_to_dict(fit.cluster), sort_keys=False)
    together(ranks, lambda: write_text(out, content) if is_first else None, "the writing")
    if is_first:
        if json:
            print_json({"cluster": cluster_to_dict(fit.cluster), "provenance": facts})
        else:
            print_table(
                f"{fit.cluster.name}: {fit.cluster.topology}",
                ["link", "Mbit/s", "latency"],
                [
                    [
                        f"{link.source} - {link.target}",
                        f"{link.bandwidth_bytes_per_s * 8e-6:.4g}",
                        seconds(link.latency_s),
                    ]
                    for link in fit.cluster.links
                ],
            )
            print_table(
                f"A switch misses rates of pairs by at most {percent(fit.star_misfit)}",
                ["messages between all pairs", "predicted", "measured", "error"],
                [
                    [f"{size // 1024} KiB", seconds(predicted), seconds(measured), percent(missed)]
                    for size, predicted, measured, missed in zip(
                        times.all_bytes, fit.all_predicted_s, times.all_s, error, strict=True
                    )
                ],
            )
            print_line(f"Wrote {out}")
    close_ranks(ranks)
