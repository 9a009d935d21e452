"""What the loss is multiplied by before backward, so that gradients in float16 are not zero."""

from dataclasses import dataclass

from torch.amp import GradScaler


@dataclass(frozen=True)
class _Rule:
    """Torch's own numbers for `GradScaler`."""

    initial: float
    growth: float
    backoff: float
    interval: int


def _torch_rule() -> _Rule:
    scaler = GradScaler("cpu")
    return _Rule(
        float(scaler.state_dict()["scale"]),
        scaler.get_growth_factor(),
        scaler.get_backoff_factor(),
        scaler.get_growth_interval(),
    )


class LossScale:
    """A factor that halves when gradients overflow and doubles when they long have not, as torch's
    `GradScaler` has it; the caller says whether they did, so that all ranks hear the same.

    Attributes:
        value: of the next step.
        num_finite: steps since it changed.
    """

    def __init__(self, *, is_on: bool) -> None:
        """A factor of 1 that stays unless `is_on`."""
        self.is_on = is_on
        self._rule = _torch_rule()
        self.value = self._rule.initial if is_on else 1.0
        self.num_finite = 0

    def after(self, *, is_finite: bool) -> None:
        """A step whose gradients were finite, or were not and are dropped."""
        if not is_finite:
            self.value *= self._rule.backoff
            self.num_finite = 0
            return
        self.num_finite += 1
        if self.num_finite == self._rule.interval:
            self.value *= self._rule.growth
            self.num_finite = 0
