"""Event files of TensorBoard: what they hold, and after going on from a checkpoint."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from d2ft_sched.errors import InputError
from runtime.training import tensorboard_log
from runtime.training.events import Evaluated, Probed, Stepped, StepTimes
from runtime.training.tensorboard_log import TensorBoardLog, check_tensorboard


def step(number: int, loss: float) -> Stepped:
    times = StepTimes(0.1, 0.1, 0.0)
    return Stepped(number, 4, 1, 0, 8, loss, 1e-3, 1e9, 0.5, 0.0, times)


def test_a_training_that_goes_on_is_one_curve(tmp_path: Path) -> None:
    log = TensorBoardLog(tmp_path, 0, 0.25)
    log.add(Probed(0.5, 1.0), 7)
    for number in (1, 2, 3):
        log.add(step(number, 10.0 * number), 100)
    log.close()
    log = TensorBoardLog(tmp_path, 2, 0.25)
    for number in (3, 4):
        log.add(step(number, float(number)), 200)
    log.add(Evaluated(1, 4, 0.75, 1.5, 0.9, (0.75,), 8, 8, None, 0.1), 200)
    log.close()
    read = EventAccumulator(str(tmp_path))
    read.Reload()

    def values(name: str) -> dict[int, float]:
        return {event.step: event.value for event in read.Scalars(name)}

    assert values("train/loss") == {1: 10.0, 2: 20.0, 3: 3.0, 4: 4.0}
    assert values("train/samples_per_s") == dict.fromkeys((1, 2, 3, 4), 16.0)
    assert values("step/measured_s") == dict.fromkeys((1, 2, 3, 4), 0.5)
    assert values("step/predicted_s") == dict.fromkeys((1, 2, 3, 4), 0.25)
    assert values("memory/peak_bytes") == {1: 100, 2: 100, 3: 200, 4: 200}
    assert values("test/top1") == {4: 0.75}
    assert values("test/top5") == {4: pytest.approx(0.9)}
    assert "train/gradient_norm" not in read.Tags()["scalars"]


def test_without_tensorboard_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard_log, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'd2ft\[tensorboard\]'"):
        check_tensorboard()
