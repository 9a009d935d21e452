"""Checkpoints: whole or refused, readable by plain timm, and training goes on bitwise from them."""

import json
import resource
import signal
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer

from d2ft_sched.errors import InputError
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from runtime.checkpoint.checkpoint import (
    find_checkpoint,
    load_checkpoint,
    resolve_checkpoint,
    save_checkpoint,
)
from runtime.checkpoint.facts import TrainingState
from runtime.checkpoint.going_on import check_same_settings
from runtime.data.dataset import Dataset, Split
from runtime.models.weights import save_weights
from runtime.training.events import Event, Probed, Stepped
from runtime.training.finetune_settings import FineTuneSettings
from runtime.training.loop import train, training_minibatches
from runtime.training.whole_model import WholeModel

CPU = torch.device("cpu")
STATE = TrainingState(
    step=7,
    num_steps=12,
    steps_per_epoch=4,
    epoch=2,
    position=3,
    seed=5,
    settings={"lr": 1e-3, "linear_probe": False, "data": "noise"},
    plan_sha256="ab" * 32,
    num_ranks=1,
    provenance={"seed": 5, "torch_version": "2"},
)


@pytest.fixture
def noise() -> Dataset:
    """Random pictures of random classes."""
    rng = np.random.default_rng(0)

    def split(num_samples: int) -> Split:
        images = rng.integers(256, size=(num_samples, 3, 28, 28), dtype=np.uint8)
        return Split(torch.from_numpy(images), torch.from_numpy(rng.integers(5, size=num_samples)))

    return Dataset("noise", split(32), split(12), tuple("abcde"))


def trainer_of(
    model: VisionTransformer, workload: Workload, noise: Dataset, settings: FineTuneSettings
) -> WholeModel:
    return WholeModel(model, noise, workload, settings, CPU)


def schedule_of(workload: Workload) -> Callable[[int, int], np.ndarray]:
    """Of all operations; half of the subnets rest, and one block as a whole but in later steps."""

    def draw(step: int, minibatch: int) -> np.ndarray:
        rng = np.random.default_rng(minibatch)
        schedule = rng.integers(4, size=(workload.num_subnets, workload.num_microbatches))
        rests = rng.random(workload.num_subnets) < 0.5
        rests |= (workload.partition.block == 1) & (step < 5)
        return np.where(rests[:, None] & (schedule == Operation.FULL), Operation.REST, schedule)

    return draw


def without_seconds(events: list[Event]) -> list[dict[str, object]]:
    return [
        {k: v for k, v in asdict(e).items() if k not in ("step_s", "solve_s", "times", "seconds")}
        for e in events
    ]


@pytest.mark.parametrize("optimizer", ["adamw", "sgdm", "sgd", "lamb"])
def test_training_goes_on_bitwise(small_vit, workload_of, noise, tmp_path, optimizer):
    settings = FineTuneSettings(num_epochs=2, lr=1e-2, linear_probe=optimizer == "adamw", seed=3)
    if optimizer in ("adamw", "lamb"):
        settings = replace(
            settings,
            layer_decay=0.8,
            clip_norm=1.0,
            label_smoothing=0.1,
            ema_decay=0.7,
            eval_every=3,
        )
    workload = replace(workload_of(small_vit(torch.float32), 2, (3, 2, 3)), optimizer=optimizer)
    minibatches = training_minibatches(noise.train, workload, settings.seed)
    trainer = trainer_of(small_vit(torch.float32), workload, noise, settings)
    events = []
    for event in train(trainer, minibatches, workload, schedule_of(workload), settings):
        events.append(event)
        if isinstance(event, Probed):
            save_checkpoint(tmp_path, replace(STATE, step=0), trainer.save_state)
        if isinstance(event, Stepped):
            save_checkpoint(tmp_path, replace(STATE, step=event.step), trainer.save_state)
    assert sum(isinstance(e, Stepped) for e in events) == 8
    for step in (0, 2, 3, 4, 8) if optimizer == "adamw" else (3,):
        untrained = small_vit(torch.float32)
        for parameter in untrained.parameters():
            torch.nn.init.ones_(parameter)
        other = trainer_of(untrained, workload, noise, settings)
        other.load_state(tmp_path / f"step-{step:06d}")
        resumed = list(
            train(other, minibatches, workload, schedule_of(workload), settings, num_done=step)
        )
        done = [i for i, e in enumerate(events) if isinstance(e, Stepped) and e.step <= step]
        rest = events[done[-1] + 1 :] if done else events[1:]
        assert without_seconds(resumed) == without_seconds(rest)


def test_plain_timm_loads_the_model(small_vit, workload_of, noise, tmp_path):
    settings = FineTuneSettings(num_epochs=1, lr=1e-2, linear_probe=False)
    model = small_vit(torch.float32)
    workload = workload_of(model, 2, (4, 4))
    trainer = trainer_of(model, workload, noise, settings)
    minibatches = training_minibatches(noise.train, workload, 0)
    list(train(trainer, minibatches, workload, schedule_of(workload), settings))
    path = save_checkpoint(tmp_path, STATE, trainer.save_state)
    plain = VisionTransformer(
        img_size=28, patch_size=14, embed_dim=48, depth=3, num_heads=6, num_classes=5
    )
    plain.load_state_dict(load_file(path / "model.safetensors"))
    images = torch.randn(3, 3, 28, 28)
    assert torch.equal(plain.eval()(images), model.eval()(images))


def fill(**files: bytes) -> Callable[[Path], list[str]]:
    def write(folder: Path) -> list[str]:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        return list(files)

    return write


def test_the_state_comes_back(tmp_path):
    path = save_checkpoint(tmp_path, STATE, fill(a=b"123"))
    assert path == tmp_path / "step-000007"
    assert load_checkpoint(path) == STATE
    assert sorted(p.name for p in path.iterdir()) == ["a", "checkpoint.json"]


def damage(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda p: (p / "a").write_bytes(b"12"), "step-000007/a: is damaged: 2 bytes of 3"),
        (lambda p: (p / "a").write_bytes(b"124"), "step-000007/a: is damaged: its content does"),
        (lambda p: (p / "a").unlink(), "step-000007/a: is missing"),
        (lambda p: (p / "checkpoint.json").unlink(), "checkpoint.json: cannot be read"),
        (lambda p: (p / "checkpoint.json").write_text("{"), "checkpoint.json: is damaged: not"),
        (lambda p: (p / "checkpoint.json").write_text("[]"), "its format is not 'd2ft-check"),
        (
            lambda p: damage(p / "checkpoint.json", lambda c: c.update(version=4)),
            "checkpoint.json: is of version 4; this d2ft reads version 3",
        ),
        (
            lambda p: damage(p / "checkpoint.json", lambda c: c.update(version=0)),
            "checkpoint.json: is of version 0",
        ),
        (
            lambda p: damage(p / "checkpoint.json", lambda c: c["state"].update(step=8)),
            "checkpoint.json: is damaged: its content does not match",
        ),
        (
            lambda p: damage(p / "checkpoint.json", lambda c: c["files"].pop("a")),
            "checkpoint.json: is damaged: its content does not match",
        ),
    ],
)
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path, harm, message):
    older = save_checkpoint(tmp_path, replace(STATE, step=6), fill(a=b"12"))
    newer = save_checkpoint(tmp_path, STATE, fill(a=b"123"))
    assert find_checkpoint(tmp_path).path == newer
    harm(newer)
    with pytest.raises(InputError, match=r"^[^\n]*$") as refusal:
        load_checkpoint(newer)
    assert message in str(refusal.value)
    found = find_checkpoint(tmp_path)
    assert (found.path, found.state.step) == (older, 6)
    assert message in found.refused[newer]
    harm(older) if message.startswith("checkpoint.json: is of") else (older / "a").unlink()
    with pytest.raises(InputError, match="has no whole checkpoint"):
        find_checkpoint(tmp_path)


def test_a_failure_amid_writing_leaves_the_last_one(tmp_path):
    path = save_checkpoint(tmp_path, STATE, fill(a=b"123"))

    def fail(folder: Path) -> list[str]:
        (folder / "a").write_bytes(b"1")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, replace(STATE, step=9), fail)
    assert find_checkpoint(tmp_path).path == path
    save_checkpoint(tmp_path, replace(STATE, step=11), fill(a=b"1"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000007", "step-000011"]


def test_a_full_disk_is_said_in_one_line(small_vit, tmp_path):
    model = small_vit()

    def write(folder: Path) -> list[str]:
        save_weights(model, folder / "model.safetensors")
        return ["model.safetensors"]

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(InputError, match=r"cannot be written \(File too large\)"):
            save_checkpoint(tmp_path, STATE, write)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_the_newest_are_kept_and_a_step_can_be_written_again(tmp_path):
    for step in (2, 9, 100, 1000000):
        save_checkpoint(tmp_path, replace(STATE, step=step), fill(a=b"1"), keep=2)
    save_checkpoint(tmp_path, replace(STATE, step=1000000), fill(a=b"2"), keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000100", "step-1000000"]
    found = find_checkpoint(tmp_path)
    assert found.state.step == 1000000
    assert (found.path / "a").read_bytes() == b"2"


def test_checkpoints_of_another_training_are_not_gone_on_beside(tmp_path):
    path = save_checkpoint(tmp_path / "own", STATE, fill(a=b"1"))
    earlier = replace(STATE, step=3)
    save_checkpoint(tmp_path / "same", earlier, fill(a=b"1"))
    assert resolve_checkpoint(str(path), tmp_path / "same").path == path
    other = save_checkpoint(tmp_path / "other", replace(earlier, settings={}), fill(a=b"1"))
    with pytest.raises(InputError, match=f"{other}: is of another training than {path}"):
        resolve_checkpoint(str(path), tmp_path / "other")


def test_places_without_a_checkpoint_are_said(tmp_path):
    with pytest.raises(InputError, match="has no checkpoint"):
        find_checkpoint(tmp_path)
    with pytest.raises(InputError, match="has no checkpoint"):
        find_checkpoint(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        save_checkpoint(tmp_path / "file", STATE, fill(a=b"1"))


def test_a_setting_of_another_type_is_damage():
    for value in ("3", 3.0, True):
        with pytest.raises(InputError, match=r"damaged: n is 3|damaged: n is '3'|with n on"):
            check_same_settings(Path("x"), {"n": value}, {"n": 3})
    with pytest.raises(InputError, match="x: was written with another choice of test samples; "):
        check_same_settings(Path("x"), {"test_samples_digest": "0a"}, {"test_samples_digest": "0b"})


def test_other_settings_are_refused():
    check_same_settings(Path("x"), STATE.settings, dict(STATE.settings))
    with pytest.raises(InputError, match=r"with --learning-rate 0\.001; .* with 0\.1"):
        check_same_settings(Path("x"), STATE.settings, {**STATE.settings, "lr": 0.1})
    with pytest.raises(InputError, match=r"was written with data noise; .* none"):
        check_same_settings(Path("x"), STATE.settings, {"lr": 1e-3, "linear_probe": False})
