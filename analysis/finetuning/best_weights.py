"""The weights of a training's best evaluation, in ``OUT/best`` beside those of its last step."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from analysis.results.run_dir import PLAN
from d2ft_sched.errors import InputError
from d2ft_sched.files.atomic_write import write_text
from d2ft_sched.plan.plan_file import save_plan
from d2ft_sched.plan.solved_plan import Plan
from runtime.checkpoint.facts import BestEvaluation
from runtime.ranks.agreement import together
from runtime.ranks.job import Ranks
from runtime.training.events import Evaluated

BEST, FACTS = "best", "best.json"
"""The folder, and the file in it that says which evaluation it was."""


def best_of(event: Evaluated, best: BestEvaluation | None) -> BestEvaluation | None:
    """An evaluation if it is better than the best before it: more samples right, or a lower loss
    where tokens are foretold; else None."""
    own = BestEvaluation(event.step, event.top1, event.loss)
    if best is None:
        return own
    foretells = event.perplexity is not None
    is_better = event.loss < best.loss if foretells else event.top1 > best.top1
    return own if is_better else None


def keep_best(
    out: Path,
    best: BestEvaluation,
    plan: Plan,
    save_result: Callable[[Path], object],
    ranks: Ranks,
) -> None:
    """Replace what was best before; on all ranks at once, whole or not at all.

    Args:
        out: folder of the training.
        best: the evaluation.
        plan: of the training, so that the folder says of which model the weights are.
        save_result: writes this rank's part of what was trained into a folder.
        ranks: that train together.

    Raises:
        InputError: the folder cannot be written to.
        RankError: another rank died, hung or could not write.
    """
    folder, partial, old = out / BEST, out / f".{BEST}.partial", out / f".{BEST}.old"

    def write() -> None:
        if ranks.rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        save_result(partial)
        if ranks.rank > 0:
            return
        save_plan(plan, partial / PLAN)
        write_text(partial / FACTS, json.dumps(asdict(best), indent=1) + "\n")
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old, ignore_errors=True)

    def written() -> None:
        try:
            write()
        except OSError as error:
            raise InputError(f"{folder}: cannot be written ({error.strerror})") from None

    together(ranks, written, "the writing of the best weights")
