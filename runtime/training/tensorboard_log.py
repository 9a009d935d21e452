"""A training as event files of TensorBoard."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from d2ft_sched.errors import InputError
from runtime.training.events import Evaluated, Event, Stepped


def check_tensorboard() -> None:
    """Refuse to log where TensorBoard is not installed.

    Raises:
        InputError: saying what to install.
    """
    if find_spec("tensorboard") is None:
        raise InputError(
            "--log tensorboard needs the package tensorboard; run: pip install 'd2ft[tensorboard]'"
        )


class TensorBoardLog:
    """Scalars of steps and evaluations by the number of steps done.

    Under ``train/``: loss, learning rate, samples a second, norm of gradients where they are
    clipped. Under ``step/``: its seconds, measured and predicted. Under ``test/``: what evaluations
    say. ``memory/peak_bytes`` is of this process's device so far.
    """

    def __init__(self, folder: Path, num_done: int, predicted_s: float) -> None:
        """Write into `folder`, in which other files may be from steps before.

        Args:
            folder: made if need be.
            num_done: steps that are done; what was logged of later ones is not shown any more.
            predicted_s: of a step.

        Raises:
            InputError: it cannot be written.
        """
        from torch.utils.tensorboard import SummaryWriter

        self._predicted_s = predicted_s
        try:
            self._writer: Any = SummaryWriter(str(folder), purge_step=num_done + 1)
        except OSError as error:
            raise InputError(f"{folder}: cannot be written ({error.strerror})") from None

    def add(self, event: Event, memory_bytes: int) -> None:
        """Of a step or an evaluation; others are not shown.

        Args:
            event: what happened.
            memory_bytes: peak until now.
        """
        if isinstance(event, Stepped):
            scalars = {
                "train/loss": event.loss,
                "train/lr": event.lr,
                "train/samples_per_s": event.num_samples / event.step_s,
                "train/gradient_norm": event.gradient_norm,
                "step/measured_s": event.step_s,
                "step/predicted_s": self._predicted_s,
                "memory/peak_bytes": memory_bytes,
            }
        elif isinstance(event, Evaluated):
            scalars = {
                "test/top1": event.top1,
                "test/top5": event.top5,
                "test/loss": event.loss,
                "test/perplexity": event.perplexity,
            }
        else:
            return
        for name, value in scalars.items():
            if value is not None:
                self._writer.add_scalar(name, value, event.step)

    def close(self) -> None:
        self._writer.close()
