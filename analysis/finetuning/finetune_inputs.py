"""What a rank of a fine-tuning run reads and builds before it needs the others."""

import json
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from analysis.console.progress import TerminalProgress
from analysis.finetuning.data_lock import one_fetches
from analysis.finetuning.finetune_request import FineTuneRequest, check_options
from analysis.finetuning.finetune_schedules import check_replicas, moves_samples
from analysis.names.bad_file_names import OnBadFileName
from analysis.names.schedule_names import ScheduleName
from d2ft_sched.errors import InputError
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.replica import Replica
from runtime.checkpoint.checkpoint import (
    Found,
    check_no_newer,
    resolve_checkpoint,
)
from runtime.data.dataset import Dataset
from runtime.data.input_format import InputFormat, PictureFormat, SequenceFormat
from runtime.data.load_data import bad_pictures, load_data
from runtime.data.minibatches import Minibatches, draw_minibatches
from runtime.data.pictures.load_pictures import BadFiles, PictureReading
from runtime.measure.step_memory import check_step_on_ranks, check_whole_step
from runtime.models.build import (
    build_model,
    check_known,
    check_same_shape,
    check_weights,
    has_class_labels,
    input_format_of,
    shape_of,
)
from runtime.models.peft_adapters import add_adapters
from runtime.ranks.agreement import gather_texts, together
from runtime.ranks.job import Ranks, ranks_of_host
from runtime.ranks.rank_devices import on_ranks, rank_devices
from runtime.ranks.rank_samples import testing_owners, training_needs
from runtime.torch_device import check_float16
from runtime.training.finetune_settings import FineTuneSettings
from runtime.training.loop import training_minibatches
from runtime.training.rank_part import build_on_meta


@dataclass(frozen=True)
class FineTuneInputs:
    """What a rank has before it needs the others; its model may have no values yet."""

    found: Found | None
    settings: FineTuneSettings
    input_format: InputFormat
    data: Dataset
    minibatches: Minibatches
    model: Any
    replicas: tuple[Replica, ...]


def check_inputs(request: FineTuneRequest, ranks: Ranks) -> tuple[Replica, ...]:
    """Refuse what need not be read to be refused; the replicas, by rank.

    Raises:
        InputError: as `analysis.finetuning.run_from_plan.run_finetune`.
    """
    check_options(request)
    check_replicas(request, ranks)
    check_known(request.plan.workload.shape.name)
    if request.settings.half == "float16":
        check_float16(ranks.device)
    if ranks.rank == 0 and request.resume is None:
        check_weights(request.weights)
    plan = request.plan
    replicas = plan.replicas
    if ranks.num_ranks > 1:
        replicas = on_ranks(replicas, rank_devices(plan, ranks.num_ranks))
    _check_memory(request, replicas, ranks)
    return replicas


def look_in_shares(
    request: FineTuneRequest, ranks: Ranks, progress: TerminalProgress
) -> BadFiles | None:
    """Which pictures cannot be read, where those are left out; every rank looks at its share.

    Raises:
        InputError: the data cannot be used.
        RankError: another rank's cannot, or one died or hung.
    """
    is_asked = request.on_bad_file is OnBadFileName.SKIP and ranks.num_ranks > 1

    def look() -> BadFiles:
        reading = _reading(request, ranks)
        with progress.stage("Look at pictures") as tell, _one_fetches(request):
            return bad_pictures(
                request.data,
                num_train=request.num_train,
                num_test=request.num_test,
                seed=request.settings.seed,
                data_root=request.data_root,
                download=request.download,
                num_workers=reading.workers,
                progress=tell,
                share=slice(ranks.rank, None, ranks.num_ranks),
            )

    if not is_asked or not isinstance(_input_format(request), PictureFormat):
        return None
    own = together(ranks, look, "the look at pictures")
    text = json.dumps([list(own.train.items()), list(own.test.items())])
    every = [json.loads(text) for text in gather_texts(ranks, text, "the exchange of bad files")]
    return BadFiles(*({k: v for one in every for k, v in one[part]} for part in (0, 1)))


def read_inputs(
    request: FineTuneRequest,
    ranks: Ranks,
    replicas: tuple[Replica, ...],
    bad_files: BadFiles | None,
    progress: TerminalProgress,
) -> FineTuneInputs:
    """Read data and the model's own files, and build the model.

    Raises:
        InputError: as `analysis.finetuning.run_from_plan.run_finetune`.
    """
    plan, found = request.plan, None
    if request.resume is None:
        check_no_newer(request.checkpoint_dir, -1)
    else:
        found = resolve_checkpoint(request.resume, request.checkpoint_dir)
    input_format = _input_format(request)
    settings = replace(
        request.settings,
        linear_probe=request.settings.linear_probe and has_class_labels(plan.workload.shape.name),
        recomputes=_recomputes(replicas),
        num_waves=_waves_of_all(replicas),
        watch_scores=request.schedule is ScheduleName.RUNNING,
    )

    def own_samples(num_train: int, num_test: int) -> tuple[np.ndarray, np.ndarray]:
        minibatches = draw_minibatches(num_train, int(plan.workload.samples.sum()), settings.seed)
        needed = training_needs(
            minibatches,
            settings.num_epochs,
            plan.workload,
            replicas,
            ranks.rank,
            moves=moves_samples(request),
        )
        return needed, testing_owners(num_test, replicas) == ranks.rank

    scores_here = request.schedule is ScheduleName.PER_MINIBATCH and not found and ranks.rank == 0
    with progress.stage("Read data") as tell, _one_fetches(request):
        data = load_data(
            request.data,
            input_format,
            num_train=request.num_train,
            num_test=request.num_test,
            seed=request.settings.seed,
            data_root=request.data_root,
            download=request.download,
            on_bad_file=request.on_bad_file.value,
            progress=tell,
            wanted=own_samples if ranks.num_ranks > 1 and not scores_here else None,
            reading=_reading(request, ranks),
            bad_files=bad_files,
        )

    def build() -> Any:
        return build_model(
            plan.workload.shape.name,
            **input_format.sizes,
            num_classes=max(1, data.num_classes),
            weights=None if found or ranks.rank > 0 else request.weights,
            pretrained=request.pretrained and not found and ranks.rank == 0,
            seed=request.settings.seed,
        )

    with progress.stage("Build the model"):
        is_whole = ranks.num_ranks == 1 or (ranks.rank == 0 and not found)
        model = build() if is_whole else build_on_meta(build)
    if ranks.rank == 0 and not (found or request.weights or request.pretrained):
        progress.note("Random weights to begin with: neither --weights nor --pretrained is given")
    check_same_shape(plan.workload.shape, shape_of(model))
    if plan.workload.lora is not None:
        lora, size = plan.workload.lora, plan.workload.frozen_bytes
        add_adapters(model, lora, request.settings.seed, frozen_bytes=size)
    minibatches = training_minibatches(data.train, plan.workload, settings.seed)
    return FineTuneInputs(found, settings, input_format, data, minibatches, model, replicas)


def _reading(request: FineTuneRequest, ranks: Ranks) -> PictureReading:
    sharing = len(ranks_of_host(ranks))
    return PictureReading(request.augment.value, request.workers, ranks.device, sharing)


def _one_fetches(request: FineTuneRequest) -> AbstractContextManager[None]:
    return one_fetches(request.download, request.data_root)


def _check_memory(request: FineTuneRequest, replicas: tuple[Replica, ...], ranks: Ranks) -> None:
    """Raises InputError if a step of the plan needs more memory than there is."""
    workload, schedule = request.plan.workload, request.plan.schedule
    if request.dense:
        schedule = np.full_like(schedule, Operation.FULL)
    if ranks.num_ranks > 1:
        check_step_on_ranks(workload, replicas, schedule, ranks)
        return
    check_whole_step(
        workload,
        schedule,
        ranks,
        num_waves=_waves_of_all(replicas),
        recomputes=_recomputes(replicas),
    )


def _recomputes(replicas: tuple[Replica, ...]) -> bool:
    """Whether one device that runs all of them makes lanes again in backward."""
    return any(replica.placement.recomputing for replica in replicas)


def _waves_of_all(replicas: tuple[Replica, ...]) -> int:
    """Waves of one device that runs all of them."""
    return sum(replica.num_waves for replica in replicas)


def _input_format(request: FineTuneRequest) -> InputFormat:
    """Raises InputError if sequences are to be packed, and samples are none."""
    own = input_format_of(request.plan.workload.shape, request.image_size)
    if not request.packed:
        return own
    if not isinstance(own, SequenceFormat):
        name = request.plan.workload.shape.name
        raise InputError(f"--packed is for texts that a decoder foretells; {name} sorts samples")
    return replace(own, is_packed=True)
