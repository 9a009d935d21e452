"""What the ranks of a job tell one another besides tensors of the model: facts, texts, wishes.

All ranks call these in the same order; with one rank they answer at once.
"""

import json
from collections.abc import Callable, Mapping
from typing import TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist

from d2ft_sched.errors import InputError, RankError
from runtime.ranks.job import Ranks, start_sum

ALONE = Ranks(0, 1, torch.device("cpu"))
"""A process that has no others."""


def any_rank(ranks: Ranks, *conditions: bool) -> tuple[bool, ...]:
    """Which of them hold on any rank."""
    numbers = torch.tensor(conditions, dtype=torch.int64, device=ranks.device)
    start_sum(ranks, numbers, "the question whether to stop").wait()
    return tuple(map(bool, numbers.tolist()))


def meet(ranks: Ranks, what: str) -> None:
    """Wait for all ranks."""
    start_sum(ranks, torch.zeros(1, device=ranks.device), what).wait()


def gather_texts(ranks: Ranks, text: str, what: str) -> list[str]:
    """The text of every rank, on every rank; nothing is pickled."""
    if ranks.num_ranks == 1:
        return [text]
    content = torch.tensor(list(text.encode()), dtype=torch.uint8, device=ranks.device)
    sizes = torch.zeros(ranks.num_ranks, dtype=torch.int64, device=ranks.device)
    sizes[ranks.rank] = len(content)
    start_sum(ranks, sizes, what).wait()
    rows = content.new_zeros(ranks.num_ranks, int(sizes.max()))
    own = content.new_zeros(rows.shape[1])
    own[: len(content)] = content
    with ranks.watched(what):
        dist.all_gather(list(rows), own)
    return [
        row[:size].cpu().numpy().tobytes().decode()
        for row, size in zip(rows, sizes.tolist(), strict=True)
    ]


def gather_arrays(ranks: Ranks, values: np.ndarray, what: str) -> np.ndarray:
    """Arrays of the same shape of all ranks, float ``[num_ranks, *shape]``, on every rank."""
    if ranks.num_ranks == 1:
        return np.asarray(values, dtype=np.float64)[None]
    own = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64)).to(ranks.device)
    all_values = [torch.empty_like(own) for _ in range(ranks.num_ranks)]
    with ranks.watched(what):
        dist.all_gather(all_values, own)
    return torch.stack(all_values).cpu().numpy()


def sum_arrays(ranks: Ranks, values: np.ndarray, what: str) -> np.ndarray:
    """The sum of the arrays of all ranks, float, on every rank."""
    total = torch.tensor(values, dtype=torch.float64, device=ranks.device)
    start_sum(ranks, total, what).wait()
    return total.cpu().numpy()


def check_same(ranks: Ranks, options: Mapping[str, str | None]) -> None:
    """Compare the options that every rank was given.

    Args:
        ranks: all must call this.
        options: their values by their names; None if not given.

    Raises:
        InputError: naming the first that is not the same on all ranks; every rank says the same.
    """
    texts = gather_texts(ranks, json.dumps(dict(options)), "the comparison of options")
    first, *others = map(json.loads, texts)
    for rank, own in enumerate(others, start=1):
        for name in {**first, **own}:
            if first.get(name) != own.get(name):
                raise InputError(
                    f"{name} is {_said(own.get(name))} on rank {rank} and {_said(first.get(name))} "
                    f"on rank 0; give all ranks the same"
                )


def _said(value: str | None) -> str:
    return "not given" if value is None else value


_Result = TypeVar("_Result")


def together(ranks: Ranks, act: Callable[[], _Result], what: str) -> _Result:
    """Do one thing on every rank, and go on only if it went well on all.

    Args:
        ranks: the job.
        act: what this rank does.
        what: it is.

    Raises:
        InputError: this rank's, if it is the first that has it; so each is said once.
        RankError: that error of another rank, which speaks there; or one died or hung.
    """
    error = result = None
    try:
        result = act()
    except InputError as failure:
        error = failure
    texts = gather_texts(ranks, "" if error is None else str(error), what)
    if error is not None and texts.index(str(error)) == ranks.rank:
        raise error
    for text in filter(None, texts):
        raise RankError(text, speaks=False)
    return cast(_Result, result)
