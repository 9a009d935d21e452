"""How fast a training goes, in one line."""

from collections import deque
from statistics import median

from analysis.console.formatting import quantity, three_digits

NUM_STEPS = 20
"""The last ones, over which a pace is told."""


class StepLine:
    """The pace of the last steps, beside the step that was predicted."""

    def __init__(self, predicted_s: float, where: str) -> None:
        """Without steps yet.

        Args:
            predicted_s: seconds of a step.
            where: the cluster that this is predicted for.
        """
        self._predicted = f"{quantity(predicted_s, 's')} predicted for {where}"
        self._last: deque[tuple[int, float]] = deque(maxlen=NUM_STEPS)

    def after(self, loss: float, num_samples: int, step_s: float, memory_bytes: int) -> str:
        """The line after a step.

        Args:
            loss: of the step.
            num_samples: of the step.
            step_s: seconds that it took.
            memory_bytes: peak until now.
        """
        self._last.append((num_samples, step_s))
        samples, seconds = map(sum, zip(*self._last, strict=True))
        typical_s = median(step_s for _, step_s in self._last)
        return (
            f"loss {loss:.4f}, {three_digits(samples / max(seconds, 1e-9))} samples/s, "
            f"step {quantity(typical_s, 's')} ({self._predicted}), peak memory "
            f"{quantity(memory_bytes, 'B')}"
        )
