"""``plan.json``: a versioned file that holds a plan whole and refuses to be anything less."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from d2ft_sched.cluster.cluster_file import cluster_from_dict, cluster_to_dict
from d2ft_sched.errors import InputError
from d2ft_sched.files.atomic_write import write_text
from d2ft_sched.files.schema import describe_first_error, parse_json
from d2ft_sched.files.text_file import read_text
from d2ft_sched.model.lora import Lora
from d2ft_sched.model.partition import Partition, Subnet
from d2ft_sched.model.shape_file import ShapeSchema
from d2ft_sched.model.workload import Workload
from d2ft_sched.plan.plan import Plan, SolverRecord
from d2ft_sched.problem.budget import BlockLevels, Budget
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.replica import Replica

FORMAT = "d2ft-plan"
VERSION = 8
ONE_REPLICA_VERSION = 5
"""The version in which placement and waves of the only replica stood by themselves."""
ALIGNED_VERSION = 7
"""The last in which subnets of a block on a device did all the same, or what they liked."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]
"""What arrays can hold."""


class _SubnetSchema(_Strict):
    block: Int64
    heads: list[Int64]
    hidden_start: Int64
    hidden_stop: Int64


class _LoraSchema(_Strict):
    rank: Int64
    alpha: float


class _WorkloadSchema(_Strict):
    shape: ShapeSchema
    subnets: list[_SubnetSchema]
    microbatch_samples: list[Int64]
    element_bytes: Int64
    parameter_bytes: Int64
    optimizer: str
    lora: _LoraSchema | None
    frozen_bytes: Int64 = 4


class _ReplicaSchema(_Strict):
    subnet_device: list[Int64]
    owner: list[Int64]
    num_waves: Int64
    recomputing: list[Int64] = []


class _LevelsSchema(_Strict):
    compute_s: list[float]
    communication_s: list[float]


class _BudgetSchema(_Strict):
    compute: float
    communication: float
    per_block: bool
    patterns: Int64 | None
    levels: _LevelsSchema | None
    target_step_s: float | None
    coverage: Int64
    memory: float
    resting: str | None = None


class _SolverSchema(_Strict):
    name: str
    method: str
    status: str
    objective: float
    upper_bound: float | None
    build_s: float
    solve_s: float


class _PlanSchema(_Strict):
    workload: _WorkloadSchema
    cluster: dict[str, Any]
    replicas: list[_ReplicaSchema]
    budget: _BudgetSchema
    solver: _SolverSchema
    schedule: list[str]
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


def dump_plan(plan: Plan) -> str:
    """The plan as JSON text with a digest of its content."""
    workload = plan.workload
    content = _PlanSchema(
        workload=_WorkloadSchema(
            shape=ShapeSchema.from_shape(workload.shape),
            subnets=[
                _SubnetSchema(**{**asdict(s), "heads": list(s.heads)})
                for s in workload.partition.subnets
            ],
            microbatch_samples=list(workload.microbatch_samples),
            element_bytes=workload.element_bytes,
            parameter_bytes=workload.parameter_bytes,
            optimizer=workload.optimizer,
            lora=None if workload.lora is None else _LoraSchema(**asdict(workload.lora)),
            frozen_bytes=workload.frozen_bytes,
        ),
        cluster=cluster_to_dict(plan.cluster),
        replicas=[
            _ReplicaSchema(
                subnet_device=list(replica.placement.subnet_device),
                owner=list(replica.placement.owner),
                num_waves=replica.num_waves,
                recomputing=list(replica.placement.recomputing),
            )
            for replica in plan.replicas
        ],
        budget=_dump_budget(plan.budget),
        solver=_SolverSchema(**asdict(plan.solver)),
        schedule=list(plan.schedule_rows),
        provenance=plan.provenance,
    ).model_dump()
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
        schema = _PlanSchema.model_validate(content)
    except ValidationError as error:
        raise InputError(f"is damaged: {describe_first_error(error)}") from None
    if digest != expected:
        raise InputError(
            "is damaged: its content does not match its sha256; make it again with 'd2ft plan'"
        )
    return _to_plan(schema)


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


def _dump_budget(budget: Budget) -> _BudgetSchema:
    levels = None
    if budget.levels:
        levels = _LevelsSchema(
            compute_s=list(budget.levels.compute_s),
            communication_s=list(budget.levels.communication_s),
        )
    return _BudgetSchema(**{**asdict(budget), "levels": levels})


def _to_budget(schema: _BudgetSchema) -> Budget:
    levels = None
    if schema.levels:
        levels = BlockLevels(tuple(schema.levels.compute_s), tuple(schema.levels.communication_s))
    return Budget(**{**schema.model_dump(), "levels": levels})


def _to_plan(schema: _PlanSchema) -> Plan:
    shape = schema.workload.shape.to_shape()
    partition = Partition(
        tuple(
            Subnet(s.block, tuple(s.heads), s.hidden_start, s.hidden_stop)
            for s in schema.workload.subnets
        ),
        shape.num_blocks,
        shape.num_heads,
        shape.mlp_hidden,
    )
    cluster, lora = cluster_from_dict(schema.cluster), schema.workload.lora
    return Plan(
        workload=Workload(
            shape,
            partition,
            tuple(schema.workload.microbatch_samples),
            element_bytes=schema.workload.element_bytes,
            parameter_bytes=schema.workload.parameter_bytes,
            optimizer=schema.workload.optimizer,
            lora=None if lora is None else Lora(lora.rank, lora.alpha),
            frozen_bytes=schema.workload.frozen_bytes,
        ),
        cluster=cluster,
        replicas=tuple(
            Replica(
                Placement(
                    len(cluster.devices),
                    tuple(r.subnet_device),
                    tuple(r.owner),
                    tuple(r.recomputing),
                ),
                r.num_waves,
            )
            for r in schema.replicas
        ),
        budget=_to_budget(schema.budget),
        solver=SolverRecord(**schema.solver.model_dump()),
        schedule_rows=tuple(schema.schedule),
        provenance=schema.provenance,
    )
