"""``plan.json``: a versioned file that holds a plan whole and refuses to be anything less."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from d2ft_sched.cluster.cluster_file import cluster_from_dict, cluster_to_dict
from d2ft_sched.errors import InputError
from d2ft_sched.files.atomic_write import write_text
from d2ft_sched.files.schema import parse_json, validate
from d2ft_sched.files.text_file import read_text
from d2ft_sched.model.lora import Lora
from d2ft_sched.model.partition import Partition, Subnet
from d2ft_sched.model.shape import ModelShape
from d2ft_sched.model.workload import Workload
from d2ft_sched.plan.solved_plan import Plan, SolverRecord
from d2ft_sched.problem.budget import Budget
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.replica import Replica

FORMAT = "d2ft-plan"
VERSION = 8
ONE_REPLICA_VERSION = 5
"""The version in which placement and waves of the only replica stood by themselves."""
ALIGNED_VERSION = 7
"""The last in which subnets of a block on a device did all the same, or what they liked."""


Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]
"""What arrays can hold."""


@dataclass(frozen=True)
class _WorkloadContent:
    shape: ModelShape
    subnets: tuple[Subnet, ...]
    microbatch_samples: tuple[Int64, ...]
    element_bytes: Int64
    parameter_bytes: Int64
    optimizer: str
    lora: Lora | None
    frozen_bytes: Int64 = 4


@dataclass(frozen=True)
class _ReplicaContent:
    subnet_device: tuple[Int64, ...]
    owner: tuple[Int64, ...]
    num_waves: Int64
    recomputing: tuple[Int64, ...] = ()


@dataclass(frozen=True)
class _PlanContent:
    """Of the file, without its header: what it leaves out of a `Plan` follows from the rest."""

    workload: _WorkloadContent
    cluster: dict[str, Any]
    replicas: tuple[_ReplicaContent, ...]
    budget: Budget
    solver: SolverRecord
    schedule: tuple[str, ...]
    provenance: dict[str, str | int | float]


def save_plan(plan: Plan, path: Path) -> None:
    """Write `plan` as JSON, atomically."""
    write_text(path, dump_plan(plan))


def load_plan(path: Path) -> Plan:
    """Read a plan file.

    Raises:
        InputError: not there, not a plan, damaged, or of a newer version; the line names which.
    """
    try:
        return parse_plan(read_text(path, "a plan file"))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def plan_digest(path: Path) -> str:
    """What the file of a plan, which `load_plan` has read, says of its content: the same in later
    versions of d2ft, which would write the plan otherwise."""
    return str(json.loads(read_text(path, "a plan file"))["sha256"])


def dump_plan(plan: Plan) -> str:
    """The plan as JSON text with a digest of its content."""
    workload = asdict(plan.workload)
    subnets = workload.pop("partition")["subnets"]
    content = {
        "workload": {"shape": workload.pop("shape"), "subnets": subnets, **workload},
        "cluster": cluster_to_dict(plan.cluster),
        "replicas": [
            {
                "subnet_device": replica.placement.subnet_device,
                "owner": replica.placement.owner,
                "num_waves": replica.num_waves,
                "recomputing": replica.placement.recomputing,
            }
            for replica in plan.replicas
        ],
        "budget": asdict(plan.budget),
        "solver": asdict(plan.solver),
        "schedule": plan.schedule_rows,
        "provenance": plan.provenance,
    }
    return sign(content)


def sign(content: dict[str, Any]) -> str:
    """The text of a plan file with this content."""
    header = {"format": FORMAT, "version": VERSION, "sha256": _digest(content)}
    return json.dumps({**header, **content}, indent=1) + "\n"


def parse_plan(text: str) -> Plan:
    """Inverse of `dump_plan`.

    Raises:
        InputError: as `load_plan`, without the file's name.
    """
    content = parse_json(text)
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise InputError(f"is not a plan file: its format is not {FORMAT!r}")
    version, digest = content.pop("version", None), content.pop("sha256", None)
    if version not in range(ONE_REPLICA_VERSION, VERSION + 1):
        raise InputError(
            f"is a plan of version {version!r}; this d2ft reads version {VERSION}: "
            f"update d2ft, or make the plan again with 'd2ft plan'"
        )
    expected = _digest(content)
    if version == ONE_REPLICA_VERSION:
        content = _with_replicas(content)
    if version <= ALIGNED_VERSION:
        content = _with_patterns(content)
    try:
        read = validate(_PlanContent, content)
    except InputError as error:
        raise InputError(f"is damaged: {error}") from None
    if digest != expected:
        raise InputError(
            "is damaged: its content does not match its sha256; make it again with 'd2ft plan'"
        )
    return _to_plan(read)


def _with_replicas(content: dict[str, Any]) -> dict[str, Any]:
    """The content of a plan from before there were replicas."""
    placement, num_waves = content.pop("placement", None), content.pop("num_waves", None)
    if isinstance(placement, dict):
        content["replicas"] = [{**placement, "num_waves": num_waves}]
    return content


def _with_patterns(content: dict[str, Any]) -> dict[str, Any]:
    """The content of a plan from before budgets limited how many patterns there may be."""
    budget = content.get("budget")
    if isinstance(budget, dict) and "aligned" in budget:
        aligned = budget["aligned"]
        kept = {name: value for name, value in budget.items() if name != "aligned"}
        content["budget"] = {**kept, "patterns": 1 if aligned else None}
    return content


def _digest(content: dict[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _to_plan(read: _PlanContent) -> Plan:
    workload, shape = read.workload, read.workload.shape
    partition = Partition(workload.subnets, shape.num_blocks, shape.num_heads, shape.mlp_hidden)
    cluster = cluster_from_dict(read.cluster)
    return Plan(
        workload=Workload(
            shape,
            partition,
            workload.microbatch_samples,
            element_bytes=workload.element_bytes,
            parameter_bytes=workload.parameter_bytes,
            optimizer=workload.optimizer,
            lora=workload.lora,
            frozen_bytes=workload.frozen_bytes,
        ),
        cluster=cluster,
        replicas=tuple(
            Replica(
                Placement(len(cluster.devices), r.subnet_device, r.owner, r.recomputing),
                r.num_waves,
            )
            for r in read.replicas
        ),
        budget=read.budget,
        solver=read.solver,
        schedule_rows=read.schedule,
        provenance=read.provenance,
    )
