"""Whether a checkpoint is one that a training can go on from."""

from collections.abc import Mapping
from pathlib import Path

from d2ft_sched.errors import InputError
from runtime.checkpoint.facts import FACTS, MAY_GROW, Setting, TrainingState
from runtime.checkpoint.setting_words import DIGESTS, setting_words, value_words


def is_same_training(one: Mapping[str, Setting], other: Mapping[str, Setting]) -> bool:
    """Whether settings differ in nothing but what may grow."""
    names = {*one, *other} - MAY_GROW
    return all(name in one and name in other and one[name] == other[name] for name in names)


def check_goes_on(path: Path, saved: TrainingState, now: TrainingState) -> None:
    """Refuse a checkpoint that another training wrote, or that contradicts itself.

    Args:
        path: of the checkpoint.
        saved: what it says.
        now: of the training that is to go on, at its beginning.

    Raises:
        InputError: naming the first setting that differs, or what is damaged.
    """
    check_same_settings(path, saved.settings, now.settings)
    per_epoch, step = now.steps_per_epoch, saved.step
    expected = {
        "seed": now.seed,
        "steps_per_epoch": per_epoch,
        "num_steps": per_epoch * int(saved.settings["num_epochs"] or 0),
        "epoch": step // per_epoch + 1,
        "position": step % per_epoch,
    }
    for name, value in expected.items():
        if getattr(saved, name) != value:
            raise InputError(
                f"{path / FACTS}: is damaged: {name} is {getattr(saved, name)}; it must be {value}"
            )
    if not 0 <= step <= saved.num_steps:
        raise InputError(
            f"{path / FACTS}: is damaged: step is {step}; it must be 0 to {saved.num_steps}"
        )
    best = saved.best
    if best is not None and not (0 <= best.step <= step and 0 <= best.top1 <= 1):
        raise InputError(
            f"{path / FACTS}: is damaged: best is {best.top1} after step {best.step}; it must be 0 "
            f"to 1 after 0 to {step}"
        )


def check_same_settings(
    path: Path, saved: Mapping[str, Setting], now: Mapping[str, Setting]
) -> None:
    """Refuse to go on with other settings; those that `MAY_GROW` may.

    Raises:
        InputError: naming the first that differs.
    """
    for name in sorted({*saved, *now}):
        before, after = saved.get(name), now.get(name)
        said = setting_words(name)
        if name in MAY_GROW and isinstance(before, int) and isinstance(after, int):
            if after < before:
                raise InputError(
                    f"{path}: was written with {said} {before}; it may grow, and is {after} now"
                )
        elif before == after or str(before) == str(after):
            if type(before) is not type(after):
                raise InputError(f"{path / FACTS}: is damaged: {name} is {before!r}")
        else:
            if name in DIGESTS:
                raise InputError(
                    f"{path}: was written with another {said}; it goes on with that alone"
                )
            raise InputError(
                f"{path}: was written with {said} {value_words(before)}; it cannot go on with "
                f"{value_words(after)}"
            )
