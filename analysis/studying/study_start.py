"""What all methods of a study begin with."""

from dataclasses import dataclass
from pathlib import Path

from analysis.studying.study_file import StudySchema
from d2ft_sched.errors import InputError
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.workload import Workload
from runtime.data.load_data import load_data
from runtime.data.pictures.load_pictures import PictureReading
from runtime.models.build import build_model, input_format_of, shape_of
from runtime.peers.training import Start, common_start
from runtime.torch_device import select_device


@dataclass(frozen=True)
class Pictures:
    """Where a study's pictures and its device are.

    Attributes:
        data: data set in place of the study's, with the same samples.
        data_root, download, device, num_workers: as for ``d2ft finetune``.
    """

    data: str | None = None
    data_root: Path | None = None
    download: bool = False
    device: str = "auto"
    num_workers: int | None = None


def start_of(study: StudySchema, seed: int, where: Pictures) -> Start:
    """Samples, model and fitted classifier that all methods of a seed begin with."""
    model = build_model(
        study.model.name,
        image_size=study.data.image_size,
        num_tokens=study.data.num_tokens,
        num_classes=study.data.num_classes or 1,
        weights=study.model.weights,
        pretrained=study.model.pretrained,
        seed=seed,
    )
    shape = shape_of(model)
    device = select_device(where.device)
    samples = load_data(
        where.data or study.data.name,
        input_format_of(shape),
        num_train=study.data.num_train,
        num_test=study.data.num_test,
        seed=seed,
        data_root=where.data_root,
        download=where.download,
        held_out=study.data.evaluate_on == "held_out",
        reading=PictureReading(study.training.augment, where.num_workers, device),
    )
    if samples.num_classes != (study.data.num_classes or 0):
        raise InputError(
            f"data.num_classes is {study.data.num_classes}; {study.data.name} has "
            f"{samples.num_classes}"
        )
    batch = study.minibatch
    workload = Workload(
        shape,
        partition_by_heads(shape, batch.heads_per_subnet),
        (batch.microbatch_samples,) * batch.num_microbatches,
    )
    return common_start(
        model,
        samples,
        workload,
        seed,
        device,
        linear_probe=study.training.linear_probe,
    )
