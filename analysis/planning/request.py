"""What `plan` and `compare` ask for: the options of the command line as planning inputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.names.precision_names import PrecisionName
from analysis.planning.model_shapes import model_shape
from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.cluster.cluster_file import load_cluster
from d2ft_sched.errors import InputError
from d2ft_sched.model.lora import Lora
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.workload import ELEMENT_BYTES, Workload
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.scores import Scores, load_scores, uniform_scores


@dataclass(frozen=True)
class Request:
    """Everything that `d2ft_sched.plan.planning.make_plan` needs but the solver."""

    workload: Workload
    cluster: Cluster
    scores: Scores
    budget: Budget


def read_request(
    *,
    model: str,
    image_size: int | None,
    num_classes: int | None,
    heads_per_subnet: int | Sequence[int] = 1,
    microbatches: int,
    microbatch_size: int,
    cluster_file: Path,
    scores_file: Path | None,
    budget: Budget,
    num_tokens: int | None = None,
    lora_rank: int | None = None,
    lora_alpha: float | None = None,
    precision: PrecisionName = PrecisionName.FLOAT32,
    base_precision: PrecisionName | None = None,
    optimizer: str = "adamw",
) -> Request:
    """Load the files and build the workload; every mistake is an InputError."""
    shape = model_shape(
        model, image_size=image_size, num_tokens=num_tokens, num_classes=num_classes
    )
    lora = read_lora(lora_rank, lora_alpha)
    workload = Workload(
        shape=shape,
        partition=partition_by_heads(shape, heads_per_subnet),
        microbatch_samples=(microbatch_size,) * microbatches,
        element_bytes=ELEMENT_BYTES[precision],
        optimizer=optimizer,
        lora=lora,
        frozen_bytes=read_frozen_bytes(lora, base_precision, precision),
    )
    size = (workload.num_subnets, workload.num_microbatches)
    return Request(
        workload=workload,
        cluster=read_cluster(cluster_file, precision),
        scores=load_scores(scores_file, *size) if scores_file else uniform_scores(*size),
        budget=budget,
    )


def read_cluster(path: Path, precision: str) -> Cluster:
    """The cluster of a file for products of a precision; what presets lack of it is said.

    Raises:
        InputError: as `d2ft_sched.cluster.cluster_file.load_cluster`.
    """
    from analysis.console.output import outside_calibration, print_warnings

    with outside_calibration() as warned:
        cluster = load_cluster(path, precision)
    print_warnings(dict.fromkeys(warned))
    return cluster


def read_lora(rank: int | None, alpha: float | None) -> Lora | None:
    """Adapters of that rank, their alpha the rank if nothing is said; None to train all parameters.

    Raises:
        InputError: an alpha without a rank, or one of them is out of range.
    """
    if rank is None:
        if alpha is not None:
            raise InputError(f"--lora-alpha is {alpha:g} without --lora-rank; give the rank, too")
        return None
    return Lora(rank, float(rank) if alpha is None else alpha)


def read_frozen_bytes(
    lora: Lora | None, base_precision: PrecisionName | None, precision: PrecisionName
) -> int:
    """Bytes of a frozen parameter: of the precision given for them, else of that of the products.

    Raises:
        InputError: there are no adapters beside which anything is frozen, or frozen weights are of
            less precision than products with them.
    """
    if base_precision is None:
        return ELEMENT_BYTES[precision if lora else PrecisionName.FLOAT32]
    if lora is None:
        raise InputError(
            f"--base-precision is {base_precision} without --lora-rank; nothing is frozen then"
        )
    if ELEMENT_BYTES[base_precision] < ELEMENT_BYTES[precision]:
        raise InputError(
            f"--base-precision is {base_precision} and --precision {precision}; products of such "
            f"weights need --precision {base_precision}"
        )
    return ELEMENT_BYTES[base_precision]


def parse_heads(text: str) -> int | list[int]:
    """Heads of a subnet as ``--heads-per-subnet`` takes them: ``"2"`` or ``"1,2,3"``.

    Raises:
        InputError: neither.
    """
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"--heads-per-subnet is {text!r}; it must be a number or numbers such as 1,2,3"
        ) from None
    return sizes[0] if len(sizes) == 1 else sizes
