"""Scores of every step from what the steps before it have seen, saved with a training."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from d2ft_sched.errors import InputError
from d2ft_sched.files.regular_file import check_named
from d2ft_sched.problem.running_scores import RunningScores
from d2ft_sched.problem.scores import Scores
from runtime.tensor_file import TensorSpec, write_tensors

FILE = "running_scores.safetensors"
"""In a checkpoint."""

_NEVER = -1


class SeenScores:
    """A `runtime.training.schedule_source.ScoreSeries`, and a `runtime.training.loop.Learner`.

    A step's schedule may be made some steps ahead, from what was known then; so that a training
    that goes on from a checkpoint makes the same one, that is kept as well.
    """

    def __init__(self, running: RunningScores, minibatch_of: Sequence[int] | np.ndarray) -> None:
        """Begin.

        Args:
            running: what has been seen so far.
            minibatch_of: every step of the training.
        """
        self._now, self._minibatch_of = running, minibatch_of
        self._asked_first, self._when_asked = _NEVER, running
        self._repeats = False

    def index_of(self, step: int, minibatch: int) -> int:
        return step

    def some(self, first: int, number: int) -> Sequence[Scores]:
        if not (self._repeats and first == self._asked_first):
            self._asked_first, self._when_asked = first, self._now
        self._repeats = False
        return [
            self._when_asked.of(int(minibatch))
            for minibatch in self._minibatch_of[first : first + number]
        ]

    def forget(self) -> None:
        if not self._repeats:
            self._asked_first = _NEVER

    def see(self, minibatch: int, seen: np.ndarray) -> None:
        self._now = self._now.after(minibatch, seen)

    def save(self, folder: Path) -> str:
        """Write `FILE`; its name."""
        tensors = {name: torch.from_numpy(table) for name, table in self._tables().items()}
        specs = [TensorSpec(name, tuple(t.shape), t.dtype) for name, t in tensors.items()]
        write_tensors(folder / FILE, specs, tensors.values())
        return FILE

    def _tables(self) -> dict[str, np.ndarray]:
        """What is kept, by its names in `FILE`."""
        return {
            "forward": np.asarray(self._now.forward),
            "average": np.asarray(self._now.average),
            "factor": np.asarray(self._now.factor),
            "average_when_asked": np.asarray(self._when_asked.average),
            "factor_when_asked": np.asarray(self._when_asked.factor),
            "asked_first": np.array([self._asked_first]),
        }

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote.

        Raises:
            InputError: there is no such file, it is damaged, or of another training.
        """
        path = folder / FILE
        check_named(path)
        try:
            with safe_open(path, framework="numpy") as file:
                tables = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: cannot be read as running scores ({error})") from None
        for name, own in self._tables().items():
            if name not in tables:
                raise InputError(f"{path}: lacks tensor {name!r}")
            found = tables[name]
            if (found.dtype, found.shape) != (own.dtype, own.shape):
                raise InputError(
                    f"{path}: {name} is {found.dtype} {list(found.shape)}; this training has "
                    f"{own.dtype} {list(own.shape)}"
                )
            if np.isinf(found).any():
                raise InputError(f"{path}: {name} has infinite values")
        self._now = RunningScores(tables["forward"], tables["average"], tables["factor"])
        self._when_asked = RunningScores(
            tables["forward"], tables["average_when_asked"], tables["factor_when_asked"]
        )
        self._asked_first = int(tables["asked_first"][0])
        self._repeats = True
