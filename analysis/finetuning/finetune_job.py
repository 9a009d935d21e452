"""What a fine-tuning run has in hand before its first step."""

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from analysis.console.progress import TerminalProgress
from analysis.finetuning.data_notes import DataNotes, data_notes
from analysis.finetuning.finetune_inputs import (
    FineTuneInputs,
    check_inputs,
    look_in_shares,
    read_inputs,
)
from analysis.finetuning.finetune_request import FineTuneRequest
from analysis.finetuning.finetune_schedules import moves_samples, plan_schedules
from analysis.finetuning.finetune_scores import score_minibatches, seen_scores
from analysis.finetuning.rank_hosts import note_hosts
from analysis.names.schedule_names import ScheduleName
from d2ft_sched.files.provenance import provenance
from d2ft_sched.plan.plan_file import dump_plan
from d2ft_sched.problem.scores import load_scores
from runtime.checkpoint.checkpoint import (
    MODEL,
    Found,
)
from runtime.checkpoint.facts import Setting, TrainingState
from runtime.checkpoint.going_on import check_goes_on
from runtime.data.minibatches import Minibatches
from runtime.ranks.agreement import together
from runtime.ranks.job import Ranks, check_agreement, job_facts
from runtime.ranks.rank_devices import rank_devices
from runtime.ranks.rank_model import read_rank_model, scatter_rank_model
from runtime.scoring.seen_scores import SeenScores
from runtime.torch_device import device_name
from runtime.training.events import Event, Trainer
from runtime.training.finetune_settings import FineTuneSettings
from runtime.training.rank_part import RankPart
from runtime.training.replanner import Replanner
from runtime.training.schedule_source import DrawnScores, KnownScores, Schedules, ScoreSeries
from runtime.training.whole_model import WholeModel


@dataclass(frozen=True)
class FineTuneJob:
    """A training that is ready to start, or to go on from `found`; `before` is done."""

    trainer: Trainer
    minibatches: Minibatches
    schedules: Schedules
    replanner: Replanner | None
    settings: FineTuneSettings
    state: TrainingState
    found: Found | None
    data: DataNotes
    before: tuple[Event, ...]
    seen: SeenScores | None
    ranks: Ranks
    notes: tuple[str, ...]

    def save_state(self, folder: Path) -> tuple[str, ...]:
        """Write this rank's files of a checkpoint; their names."""
        written = self.trainer.save_state(folder)
        if self.seen is not None and self.ranks.rank == 0:
            written = *written, self.seen.save(folder)
        return written


def prepare_finetune(
    request: FineTuneRequest, ranks: Ranks, progress: TerminalProgress
) -> FineTuneJob:
    """Read data, model and checkpoint, and agree with the other ranks.

    Raises:
        InputError: as `analysis.finetuning.run_from_plan.run_finetune`.
        RankError: another rank died or hung.
    """
    plan = request.plan
    replicas = together(ranks, lambda: check_inputs(request, ranks), "the look at plan and options")
    bad_files = look_in_shares(request, ranks, progress)
    inputs = together(
        ranks,
        lambda: read_inputs(request, ranks, replicas, bad_files, progress),
        "the reading of plan and data",
    )
    found, settings, minibatches = inputs.found, inputs.settings, inputs.minibatches
    state = TrainingState(
        step=0,
        num_steps=settings.num_epochs * len(minibatches),
        steps_per_epoch=len(minibatches),
        epoch=1,
        position=0,
        seed=request.settings.seed,
        settings=_lasting_settings(request, inputs),
        plan_sha256=json.loads(dump_plan(plan))["sha256"],
        num_ranks=ranks.num_ranks,
        provenance=provenance(request.settings.seed, device=device_name(ranks.device)),
    )
    if found:
        check = partial(check_goes_on, found.path, found.state, state)
        together(ranks, check, "the look at the checkpoint")
    table = together(ranks, lambda: _scores_table(request), "the reading of scores")
    if ranks.num_ranks > 1:
        facts = inputs.data.fingerprint.facts() | job_facts(dump_plan(plan), inputs.model)
        facts |= {"table of --scores": table}
        facts |= {"setting": json.dumps(dict(state.settings)), "checkpoint": str(found)}
        together(
            ranks,
            lambda: check_agreement(ranks, facts, ranks.num_ranks),
            "the comparison of plans",
        )
        of_ranks = rank_devices(plan, ranks.num_ranks)
        note_hosts(ranks, [plan.cluster.devices[d].name for d in of_ranks], progress)
    about_data = data_notes(inputs.data, minibatches)
    for note in about_data.first_notes:
        progress.note(note)
    scored = seen = None
    num_subnets, num_microbatches = plan.schedule.shape
    scores: ScoreSeries = DrawnScores(num_subnets, num_microbatches, request.settings.seed)
    if request.schedule is ScheduleName.RUNNING:
        checkpoint = found.path if found else None
        seen = seen_scores(request, ranks, inputs.model, len(minibatches), checkpoint)
        scores = seen
    if request.schedule is ScheduleName.PER_MINIBATCH:
        scored = score_minibatches(
            request,
            ranks,
            inputs.model,
            inputs.data,
            len(minibatches),
            found.path if found else None,
            progress,
        )
        scores = KnownScores(scored.scores)
    trainer = _trainer(request, ranks, inputs)
    notes: list[str] = []
    if found:
        load = partial(trainer.load_state, found.path)
        together(ranks, load, "the reading of the checkpoint")
        notes += found.refused.values()
        if found.state.plan_sha256 != state.plan_sha256:
            notes.append(f"{found.path}: goes on under another plan than it was written with")
        if found.state.num_steps < state.num_steps:
            notes.append(
                f"{found.path}: was written for {found.state.settings['num_epochs']} epochs; the "
                f"learning rate falls over {settings.num_epochs} from here on"
            )
        now = found.state
        state = replace(state, step=now.step, epoch=now.epoch, position=now.position, best=now.best)
    scheduling = together(
        ranks,
        lambda: plan_schedules(
            request, ranks, found.state if found else None, state.plan_sha256, scores
        ),
        "the making of schedules",
    )
    replanner = scheduling.replanner
    if replanner is not None:
        check = partial(replanner.check_agreement, "at the beginning")
        together(ranks, check, "the comparison of schedules")
    state = replace(state, replanning=replanner.state if replanner else None)
    return FineTuneJob(
        trainer,
        minibatches,
        scheduling.schedules,
        replanner,
        replace(settings, linear_probe=settings.linear_probe and not scored),
        state,
        found,
        about_data,
        scored.events if scored else (),
        seen,
        ranks,
        (*notes, *scheduling.notes, *about_data.last_notes),
    )


def _scores_table(request: FineTuneRequest) -> str:
    if request.scores is None:
        return ""
    return str(load_scores(request.scores, *request.plan.schedule.shape).values().tolist())


def _trainer(request: FineTuneRequest, ranks: Ranks, inputs: FineTuneInputs) -> Trainer:
    workload, replicas = request.plan.workload, inputs.replicas
    model, data, settings = inputs.model, inputs.data, inputs.settings
    devices = request.plan.cluster.devices
    if ranks.num_ranks == 1:
        costs = devices[0] if len(devices) == 1 else None
        whole = model.to(ranks.device)
        return WholeModel(whole, data, workload, settings, ranks.device, costs=costs)
    if inputs.found:
        path = inputs.found.path / MODEL
        part = read_rank_model(model, path, workload, replicas, ranks)
    else:
        part = scatter_rank_model(model, workload, replicas, ranks)
    of_ranks = devices if len(devices) == ranks.num_ranks else None
    moves = moves_samples(request)
    return RankPart(part, data, inputs.minibatches, settings, costs=of_ranks, moves=moves)


def _lasting_settings(request: FineTuneRequest, inputs: FineTuneInputs) -> dict[str, Setting]:
    """What must not change while a training lasts; plan, placement and devices may."""
    settings, data, lora = inputs.settings, inputs.data, request.plan.workload.lora
    return {
        "model": request.plan.workload.shape.name,
        "optimizer": request.plan.workload.optimizer,
        "lora_rank": lora.rank if lora else None,
        "lora_alpha": lora.alpha if lora else None,
        "minibatch_samples": int(request.plan.workload.samples.sum()),
        "data": data.name,
        "num_train": len(data.train),
        "num_classes": data.num_classes,
        **data.fingerprint.facts(),
        **inputs.input_format.sizes,
        "packed": request.packed,
        "augment": request.augment.value,
        "num_epochs": settings.num_epochs,
        "lr": settings.lr,
        "lr_decay": settings.lr_decay,
        "warmup": settings.warmup,
        "weight_decay": settings.weight_decay,
        "layer_decay": settings.layer_decay,
        "clip_norm": settings.clip_norm,
        "label_smoothing": settings.label_smoothing,
        "ema_decay": settings.ema_decay,
        "eval_every": settings.eval_every,
        "half": settings.half,
        "linear_probe": settings.linear_probe,
        "dense": request.dense,
        "schedule": request.schedule.value,
        "seed": settings.seed,
    }
