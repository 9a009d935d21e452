"""Study files: methods, budgets and seeds on one data set, in YAML."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from d2ft_sched.errors import InputError
from d2ft_sched.files.counted import counted
from d2ft_sched.files.schema import StrictModel, read_yaml, validate
from d2ft_sched.files.seeds import MAX_SEED
from d2ft_sched.files.sizes import MOST_MICROBATCHES, MOST_SAMPLES

Fraction = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Kind = Literal[
    "dense",
    "data_parallel",
    "fewer_microbatches",
    "fewer_epochs",
    "stochastic_depth",
    "random_heads",
    "layer_selection",
    "frozen_prefix",
    "smaller_rank",
    "schedule",
    "drawn",
]


class DataSchema(StrictModel):
    """Samples by name, as ``d2ft finetune --data`` takes them.

    Attributes:
        image_size, num_tokens: of a sample; the one that the model reads.
        evaluate_on: the test samples, or samples held out of the training set, for studies that
            choose settings.
        num_classes: to tell apart; nothing where a decoder foretells tokens, whose share foretold
            right then stands for top-1.
    """

    name: str
    num_train: Count
    num_test: Count
    image_size: Count | None = None
    num_tokens: Count | None = None
    num_classes: Count | None = None
    evaluate_on: Literal["test", "held_out"] = "test"


class ModelSchema(StrictModel):
    """A model by name; weights as ``d2ft finetune --weights`` takes them."""

    name: str = "vit_small_patch14_dinov2"
    weights: str | None = None
    pretrained: bool = False


class MinibatchSchema(StrictModel):
    num_microbatches: Annotated[int, Field(ge=1, le=MOST_MICROBATCHES)] = 5
    microbatch_samples: Annotated[int, Field(ge=1, le=MOST_SAMPLES)] = 16
    heads_per_subnet: Count = 1


class TrainingSchema(StrictModel):
    """How every method trains.

    Attributes:
        linear_probe: fit the classifier on frozen features first.
        float32_products: ``highest``, or ``medium`` to multiply in bf16 and add up in float32
            where the processor can, see `runtime.torch_device.float32_products`.
        augment: what is done to training pictures, a value of ``d2ft finetune --augment``.
    """

    num_epochs: Count = 3
    learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    linear_probe: bool = True
    float32_products: Literal["highest", "medium"] = "highest"
    augment: Literal["none", "light", "timm"] = "none"


class BudgetSchema(StrictModel):
    """Fractions of the dense run, or of the dense step with the best placement found."""

    compute: Fraction | None = None
    communication: Fraction | None = None
    step_time: Fraction | None = None

    @property
    def name(self) -> str:
        """For tables."""
        parts = [
            f"{100 * value:g} % {what}"
            for what, value in (
                ("compute", self.compute),
                ("communication", self.communication),
                ("step time", self.step_time),
            )
            if value is not None
        ]
        return ", ".join(parts)


class MethodSchema(StrictModel):
    """A method; kinds are described in `analysis.studying.study_methods`.

    Attributes:
        solver: for ``schedule``, a name that `d2ft_sched.solvers.registry` knows.
        placement: ``naive`` deals subnets in turn; ``best`` searches.
        without: devices that are left out of the cluster.
        select: which micro-batches ``fewer_microbatches`` keeps.
        scores: for ``schedule``, taken ``before`` training; ``refreshed`` on the mini-batches to
            come every `refresh_every` steps; ``running`` averages of what FULL operations show, at
            no pass, as ``d2ft finetune --schedule running`` has them; or ``random``, drawn anew in
            every step.
        aligned: whether all subnets see the same scores, so that they drop the same micro-batches.
        dropped: what ``schedule`` may do besides FULL; ``forward_only`` needs the solver dp.
        normalize: backward scores over the whole table, or within each block.
        coverage: the least number of subnets of a block that run each micro-batch; needs the
            solver lagrangian.
        rescale: gradients of kept backward paths times the inverse share of samples kept.
        block_slope: the budget of block b of B is (1 + slope * (2 b / (B - 1) - 1)) times the
            study's.
        growth: the budget grows in `analysis.studying.study_schedules.PHASES` equal phases, at
            progress t from 0 to 1 to (1 + growth * (2 t - 1)) times the study's.
        warmup_steps: steps that are dense.
        lr_factor: of the study's learning rate, to match it to the samples that a subnet trains on.
        num_epochs: in place of the study's; costs stay fractions of the study's dense run.
        lora_rank: train adapters (LoRA) of this rank and the classifier, not all parameters; costs
            and budgets stay fractions of the dense run that trains all.
        lora_alpha: scale of the adapters times their rank; default the rank.
        samples: for ``drawn``, part of the mini-batch that runs in a step.
        trains: for ``drawn``, part of the units that train in a step; the others rest.
        unit: whole blocks, or single subnets.
        policy: for ``drawn``, how these are chosen: a key of `d2ft_sched.problem.resting.POLICIES`,
            or ``scores``, drawn by running averages of what the training sees of each unit.
        accumulate: for ``drawn``, mini-batches of the study in one of this method.
    """

    name: str
    kind: Kind
    solver: str = "dp"
    placement: Literal["naive", "best"] = "naive"
    without: Annotated[list[str], Field(default_factory=list)]
    select: Literal["random", "score"] = "random"
    forward_score: str = "weight_magnitude"
    backward_score: str = "fisher"
    scores: Literal["before", "refreshed", "running", "random"] = "before"
    refresh_every: Count = 50
    aligned: bool = False
    dropped: Literal["any", "forward_only"] = "any"
    normalize: Literal["table", "block"] = "table"
    coverage: Annotated[int, Field(ge=0)] = 0
    rescale: bool = False
    block_slope: Annotated[float, Field(ge=-1, le=1)] = 0.0
    growth: Annotated[float, Field(ge=-1, le=1)] = 0.0
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    lr_factor: Annotated[float, Field(gt=0)] = 1.0
    num_epochs: Count | None = None
    lora_rank: Count | None = None
    lora_alpha: Annotated[float, Field(gt=0)] | None = None
    samples: Fraction = 1.0
    trains: Fraction = 1.0
    unit: Literal["block", "subnet"] = "block"
    policy: Literal["drawn", "turns", "scores"] = "drawn"
    accumulate: Count = 1

    @property
    def has_budget(self) -> bool:
        """Whether a study's budgets say what it spends."""
        return self.kind not in ("dense", "data_parallel", "drawn")


_OF_SCHEDULES = {
    "solver",
    "scores",
    "refresh_every",
    "aligned",
    "dropped",
    "normalize",
    "coverage",
    "rescale",
    "block_slope",
    "growth",
    "warmup_steps",
}
"""Fields that only the kind ``schedule`` heeds."""
_OF_DRAWN = {"samples", "trains", "unit", "policy", "accumulate"}
"""Fields that only the kind ``drawn`` heeds."""


class StudySchema(StrictModel):
    """A study file."""

    name: str
    data: DataSchema
    model: ModelSchema = ModelSchema()
    minibatch: MinibatchSchema = MinibatchSchema()
    training: TrainingSchema = TrainingSchema()
    seeds: Annotated[list[Annotated[int, Field(ge=0, le=MAX_SEED)]], Field(min_length=1)]
    clusters: Annotated[list[str], Field(min_length=1)]
    budgets: Annotated[list[BudgetSchema], Field(default_factory=list)]
    methods: Annotated[list[MethodSchema], Field(min_length=1)]


def load_study(path: Path) -> StudySchema:
    """Read a study file; its clusters are files beside it.

    Raises:
        InputError: one line with the file, the field, its value and what would be right.
    """
    try:
        study = validate(StudySchema, read_yaml(path))
        _check(study)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return study


def _check(study: StudySchema) -> None:
    if (study.data.image_size is None) == (study.data.num_tokens is None):
        raise InputError(
            f"data.image_size is {study.data.image_size} and data.num_tokens "
            f"{study.data.num_tokens}; a study must have one of them"
        )
    needed = study.minibatch.num_microbatches * study.minibatch.microbatch_samples
    if study.data.num_train < needed:
        raise InputError(
            f"data.num_train is {study.data.num_train}; it must be at least the "
            f"{counted(needed, 'sample')} of a mini-batch"
        )
    for i, budget in enumerate(study.budgets):
        fractions = (budget.compute, budget.communication)
        if (budget.step_time is None) == (fractions == (None, None)):
            raise InputError(
                f"budgets[{i}] is {budget.name!r}; it must have step_time, or compute and/or "
                f"communication"
            )
    names: set[str] = set()
    for i, method in enumerate(study.methods):
        if method.name in names:
            raise InputError(f"methods[{i}].name is {method.name!r}, as another; names must differ")
        names.add(method.name)
        if method.lora_rank is None and (method.lora_alpha or method.kind == "smaller_rank"):
            needs = "lora_alpha" if method.lora_alpha else "the kind smaller_rank"
            raise InputError(f"methods[{i}].lora_rank is missing; {needs} needs it")
        if method.coverage and method.solver != "lagrangian":
            raise InputError(
                f"methods[{i}].solver is {method.solver!r}; with coverage it must be lagrangian"
            )
        for kind, fields in (("schedule", _OF_SCHEDULES), ("drawn", _OF_DRAWN)):
            if method.kind != kind and (odd := method.model_fields_set & fields):
                raise InputError(
                    f"methods[{i}].{min(odd)} is given for the kind {method.kind}; it must be left "
                    f"out there: only the kind {kind} has it"
                )
        if method.has_budget and not study.budgets:
            raise InputError(
                f"budgets is empty; the kind {method.kind} of methods[{i}] needs at least one"
            )
        if method.kind != "fewer_microbatches" and "select" in method.model_fields_set:
            raise InputError(
                f"methods[{i}].select is given for the kind {method.kind}; it must be left out "
                f"there: only the kind fewer_microbatches has it"
            )
        if method.dropped == "forward_only" and method.solver != "dp":
            raise InputError(
                f"methods[{i}].solver is {method.solver!r}; with dropped: forward_only it must be "
                f"dp"
            )


def training_settings(study: StudySchema) -> dict[str, Any]:
    """What all trainings of a study depend on; fields at their defaults are left out, so that a
    new field makes no finished run another."""
    return study.model_dump(
        include={"data", "model", "minibatch", "training"}, exclude_defaults=True
    )


def settings_of(study: StudySchema, method: MethodSchema) -> dict[str, Any]:
    """What a run's result depends on, besides cluster, budget and seed; as `training_settings`."""
    return training_settings(study) | {"method": method.model_dump(exclude_defaults=True)}
