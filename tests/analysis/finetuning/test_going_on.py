"""Going on from checkpoints: tampered ones are refused by name, and epochs may grow."""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from runtime.checkpoint.facts import VERSION, read_facts, write_facts

OPTIMIZER, MODEL = "optimizer-0-of-1.safetensors", "model.safetensors"
BIAS = "blocks.0.attn.proj.bias"


@pytest.fixture(scope="module")
def options(noise_pictures) -> list[object]:
    """Four steps an epoch."""
    return [
        "--data", f"imagefolder:{noise_pictures}", "--num-train", 20, "--num-test", 4,
        "--image-size", 32, "--device", "cpu", "--no-linear-probe",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def plan(made_plan, two_equal, tiny_vit, tmp_path_factory) -> Path:
    return made_plan(
        tmp_path_factory.mktemp("plan") / "plan.json", "--placement", "balanced",
        "--cluster", two_equal, "--model", tiny_vit, "--microbatches", 5, "--microbatch-size", 1,
        "--budget-compute", 0.7,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(d2ft_code, plan, options, tmp_path_factory) -> Path:
    """A training of one epoch with a checkpoint at its end, and with running scores."""
    out = tmp_path_factory.mktemp("trained") / "out"
    given = ["--epochs", 1, "--checkpoint-every", 2, "--schedule", "running", "--out", out]
    assert d2ft_code("finetune", plan, *options, *given) == 0
    return out


def seal(folder: Path, change: Callable[[dict], object] = lambda content: None) -> None:
    """Make the digests of a checkpoint anew, as who tampers with it would."""
    path = folder / "checkpoint.json"
    content = asdict(read_facts(path))
    for name in content["files"]:
        data = (folder / name).read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        content["files"][name] = {"bytes": len(data), "sha256": digest}
    change(content)
    text = json.dumps({"state": content["state"], "files": content["files"]},
                      sort_keys=True, separators=(",", ":"))  # fmt: skip
    header = {"format": "d2ft-checkpoint", "version": VERSION,
              "sha256": hashlib.sha256(text.encode()).hexdigest()}  # fmt: skip
    path.write_text(json.dumps({**header, **content}, indent=1) + "\n")


def rewrite(folder: Path, name: str, change: Callable[[dict], object], metadata: bool = True):
    path = folder / name
    with safe_open(path, framework="pt") as file:
        said = file.metadata() if metadata else None
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, said)
    seal(folder)


def set_(name: str, act: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict], object]:
    return lambda tensors: tensors.update({name: act(tensors[name]).contiguous()})


def drop(name: str) -> Callable[[dict], object]:
    return lambda tensors: tensors.pop(name)


def state(**changes: object) -> Callable[[Path], None]:
    return lambda folder: seal(folder, lambda content: content["state"].update(changes))


def fifo(name: str) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return act


def zeros(name: str) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to("/dev/zero")

    return act


def spoilt(tensor: torch.Tensor, value: float) -> torch.Tensor:
    """With that as its last value."""
    tensor.flatten()[-1] = value
    return tensor


def cut(folder: Path) -> None:
    path = folder / "checkpoint.json"
    path.write_bytes(path.read_bytes()[:-1])


AVERAGE, SCORES = f"exp_avg/{BIAS}", "running_scores.safetensors"
TAMPERED: dict[str, tuple[Callable[[Path], object], str]] = {
    "model of another type": (
        lambda p: rewrite(p, MODEL, set_(BIAS, lambda t: t.double())), f"{BIAS} is of type F64"),
    "model of another shape": (
        lambda p: rewrite(p, MODEL, set_(BIAS, lambda t: t[:-1])), f"{BIAS} has shape"),
    "model without a tensor": (lambda p: rewrite(p, MODEL, drop(BIAS)), f"lacks tensor {BIAS}"),
    "model with another tensor": (
        lambda p: rewrite(p, MODEL, lambda t: t.update(x=torch.ones(1))), "has tensor x"),
    "state of another type": (
        lambda p: rewrite(p, OPTIMIZER, set_(AVERAGE, lambda t: t.half())),
        f"exp_avg of {BIAS} is float16"),
    "state of another shape": (
        lambda p: rewrite(p, OPTIMIZER, set_(AVERAGE, lambda t: t[None])),
        f"exp_avg of {BIAS} is float32 [1, "),
    **{
        f"{value} in {tensor.split('/')[0]}": (
            lambda p, n=name, t=tensor, v=value: rewrite(p, n, set_(t, lambda x: spoilt(x, v))),
            f"{said} has values that are no numbers")
        for value in (math.nan, math.inf, -math.inf)
        for name, tensor, said in (
            (MODEL, BIAS, f"tensor {BIAS}"),
            (OPTIMIZER, f"exp_avg_sq/{BIAS}", f"exp_avg_sq of {BIAS}"))
    },
    "steps that are no number": (
        lambda p: rewrite(p, OPTIMIZER, set_(f"step/{BIAS}", lambda t: t * math.nan)),
        f"step of {BIAS} has values that are no numbers"),
    "steps that are several": (
        lambda p: rewrite(p, OPTIMIZER, set_(f"step/{BIAS}", lambda t: t.repeat(2))),
        f"step of {BIAS} is float32 [2]"),
    "state without an average": (
        lambda p: rewrite(p, OPTIMIZER, drop(AVERAGE)), f"{BIAS} lacks exp_avg"),
    "state of nobody": (
        lambda p: rewrite(p, OPTIMIZER, lambda t: t.update(x=torch.ones(1))), "it has x"),
    "state without metadata": (
        lambda p: rewrite(p, OPTIMIZER, lambda t: None, metadata=False),
        "it does not say which parameters"),
    "scores of another type": (
        lambda p: rewrite(p, SCORES, set_("factor", lambda t: t.float())), "factor is float32"),
    "scores of another shape": (
        lambda p: rewrite(p, SCORES, set_("factor_when_asked", lambda t: t[:-1])),
        "factor_when_asked is float64"),
    "scores without a table": (lambda p: rewrite(p, SCORES, drop("forward")), "lacks tensor"),
    "position": (state(position=3), "position is 3; it must be 0"),
    "epoch": (state(epoch=1), "epoch is 1; it must be 2"),
    "steps of an epoch": (state(steps_per_epoch=5), "steps_per_epoch is 5; it must be 4"),
    "steps in all": (state(num_steps=3), "num_steps is 3; it must be 4"),
    "step beyond the end": (state(step=8, epoch=3), "step is 8; it must be 0 to 4"),
    "a best that is none": (
        state(best={"step": 2, "top1": math.nan, "loss": 1.0}), "best is nan after step 2"),
    "a best to come": (
        state(best={"step": 9, "top1": 0.5, "loss": 1.0}), "best is 0.5 after step 9"),
    "ranks": (state(num_ranks=2), "does not name optimizer-0-of-2.safetensors"),
    "no files": (lambda p: seal(p, lambda c: c["files"].clear()), "does not name model.safe"),
    "a file elsewhere": (
        lambda p: seal(p, lambda c: c["files"].update({"../x": {"bytes": 1, "sha256": ""}})),
        "'../x' is no file beside it"),
    "cut by one byte": (cut, "checkpoint.json: is damaged"),
    "a pipe for facts": (fifo("checkpoint.json"), "it is a pipe, not a file"),
    "a pipe for a model": (fifo(MODEL), "it is a pipe, not a file"),
    "a device for facts": (zeros("checkpoint.json"), "it is a device, not a file"),
    "a device for a state": (zeros(OPTIMIZER), "it is a device, not a file"),
}  # fmt: skip


@pytest.mark.parametrize(("harm", "message"), TAMPERED.values(), ids=TAMPERED.keys())
def test_a_tampered_checkpoint_is_refused(d2ft, plan, options, trained, tmp_path, harm, message):
    path = tmp_path / "step-000004"
    shutil.copytree(trained / "checkpoints/step-000004", path)
    harm(path)
    given = ["--epochs", 1, "--schedule", "running", "--resume", path, "--out", tmp_path / "out"]
    code, _, err = d2ft("finetune", plan, *options, *given)
    assert code == 2, err
    assert "Traceback" not in err
    line = err.strip().splitlines()[-1]
    assert line.startswith("d2ft: ")
    assert message in line


def test_epochs_may_grow_and_not_shrink(d2ft, plan, options, trained, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(trained, out)
    given = [*options, "--schedule", "running", "--checkpoint-every", 2, "--out", out]
    code, _, err = d2ft("finetune", plan, *given, "--epochs", 2, "--resume", "latest")
    assert code == 0, err
    assert "was written for 1 epoch; the learning rate falls over 2 from here on" in err
    code, _, err = d2ft("finetune", plan, *given, "--epochs", 3, "--resume", "latest")
    assert code == 0, err
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if r["event"] == "stepped"] == list(range(1, 13))
    assert [r["epoch"] for r in records if r["event"] == "evaluated"] == [0, 1, 2, 3]
    assert [r["settings"]["num_epochs"] for r in records if r["event"] == "resumed"] == [2, 3]
    code, _, err = d2ft("finetune", plan, *given, "--epochs", 2, "--resume", "latest")
    assert code == 2
    assert "was written with --epochs 3; it may grow, and is 2 now" in err
    assert d2ft("report", out)[0] == 0


@pytest.mark.parametrize("option", ["--resume", "--out", "--checkpoint-dir", "--data", "--weights"])
def test_an_empty_text_is_no_value(d2ft, plan, options, option):
    for given in ((option, ""), (f"{option}=",)):
        code, _, err = d2ft("finetune", plan, *options, *given)
        assert code == 2
        assert f"{option} is empty" in err


def test_facts_are_read_as_they_were_written(trained):
    path = trained / "checkpoints/step-000004/checkpoint.json"
    text = path.read_text()
    content = read_facts(path)
    write_facts(path, content.state, asdict(content)["files"])
    assert path.read_text() == text
