"""A study: every method at every budget on every cluster for every seed, one row per run."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from analysis.studying.study_file import StudySchema
from analysis.studying.study_grid import Selection, planned_runs
from analysis.studying.study_run import Worker
from analysis.studying.study_start import Pictures
from d2ft_sched.files.atomic_write import write_text
from d2ft_sched.files.provenance import provenance
from runtime.torch_device import device_name, num_threads, select_device

PROVENANCE = "provenance.json"


def run_study(
    study: StudySchema,
    folder: Path,
    out: Path,
    *,
    pictures: Pictures = Pictures(),  # noqa: B008
    selection: Selection = Selection(),  # noqa: B008
    max_runs: int | None = None,
    tell: Callable[[int, int, str], None] = lambda done, total, what: None,
    note: Callable[[str], None] = lambda line: None,
) -> Iterator[dict[str, Any]]:
    """Do what is not yet in `out`; every row is on disk when it is yielded.

    A method that cannot meet a budget gets a row without accuracy. Runs that train the same (dense
    under other placements) are trained once. Any number of processes may do this at once for one
    folder: each takes runs that no other has taken, and what a process was at when it died is
    free again.

    Args:
        study: what to do.
        folder: that its cluster files are named from.
        out: where ``runs.csv``, ``curves.csv`` and ``provenance.json`` are.
        pictures: where they are.
        selection: which runs.
        max_runs: runs after which to stop.
        tell: told steps done, steps in all, and the run.
        note: told which samples a seed trains on and is tested on.
    """
    all_runs = planned_runs(study, folder)
    selection.check(all_runs)
    order = {run.key: index for index, run in enumerate(all_runs)}
    worker = Worker(study, out, order, pictures, note)
    pending = [run for run in all_runs if run.key not in worker.done and selection.has(run)]
    pending = pending[:max_runs]
    if pending:
        worker.prepare(pending[0].seed)
    facts = provenance(
        study.seeds[0],
        device=device_name(select_device(pictures.device)),
        num_threads=num_threads(),
        study=study.name,
    )
    settings = study.model_dump(include={"data", "model", "minibatch", "training"})
    write_text(out / PROVENANCE, json.dumps(facts | {"settings": settings}, indent=1) + "\n")
    batch = study.minibatch
    steps = study.data.num_train // (batch.num_microbatches * batch.microbatch_samples)
    steps *= study.training.num_epochs
    left = pending
    for wait in (False, True):
        for run in left:
            before = steps * sum(r.key in worker.done for r in pending)

            def told(done: int, before: int = before, label: str = run.label) -> None:
                tell(before + done, steps * len(pending), label)

            told(0)
            row = worker.attempt(run, told, wait=wait)
            if row is not None:
                yield row
        left = [run for run in left if run.key not in worker.done]
