"""Fine-tuning, checkpoints and scores of a model with adapters."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from d2ft_sched.model.lora import Lora
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.schedule import uniform_schedule
from runtime.checkpoint.checkpoint import save_checkpoint
from runtime.checkpoint.facts import TrainingState
from runtime.data.dataset import Dataset, Split
from runtime.data.minibatches import Minibatches
from runtime.families.known_families import family_of
from runtime.lanes.hooks import rescaled
from runtime.lanes.slice_schedule import slice_schedule
from runtime.models.build import shape_of
from runtime.models.peft_adapters import ADAPTER, add_adapters
from runtime.partitioned_step import forward_backward
from runtime.scoring.minibatch_scores import score_minibatch, score_samples
from runtime.training.events import Evaluated, Stepped
from runtime.training.finetune_settings import FineTuneSettings
from runtime.training.loop import train, training_minibatches
from runtime.training.whole_model import WholeModel

CPU = torch.device("cpu")
LORA = Lora(4, 8.0)


def vit() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=28, patch_size=14, embed_dim=48, depth=2, num_heads=6, num_classes=5
    )


def adapted(samples: tuple[int, ...], *, drawn: bool = False) -> tuple[VisionTransformer, Workload]:
    model = vit()
    shape = shape_of(model)
    add_adapters(model, LORA)
    if drawn:
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                nn.init.normal_(parameter, std=0.2)
    return model, Workload(shape, partition_by_heads(shape, 2), samples, lora=LORA)


def stripes() -> Dataset:
    """Pictures whose class is the column of the bright stripe; noisy."""

    def split(num_samples: int, seed: int) -> Split:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(5, (num_samples,), generator=generator)
        images = torch.randint(120, (num_samples, 3, 28, 28), generator=generator)
        for i, label in enumerate(labels):
            images[i, :, :, 5 * label : 5 * label + 5] += 100
        return Split(images.to(torch.uint8), labels)

    return Dataset("stripes", split(64, 1), split(40, 2), tuple("abcde"))


def schedule_for(workload: Workload) -> np.ndarray:
    size = (workload.num_subnets, workload.num_microbatches)
    return np.random.default_rng(0).choice(3, size=size, p=[0.2, 0.2, 0.6])


def test_adapters_learn_and_the_base_stays() -> None:
    model, workload = adapted((4, 4, 4, 4))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    settings = FineTuneSettings(num_epochs=8, lr=1e-2, linear_probe=False)
    data = stripes()
    trainer = WholeModel(model, data, workload, settings, CPU)
    minibatches = training_minibatches(data.train, workload, settings.seed)
    dense = uniform_schedule(workload.num_subnets, 4, Operation.FULL)
    events = list(train(trainer, minibatches, workload, dense, settings))
    evaluations = [e for e in events if isinstance(e, Evaluated)]
    assert evaluations[-1].loss < 0.7 * evaluations[0].loss
    for name, parameter in model.named_parameters():
        is_trained = "lora_" in name or name.startswith("head.")
        assert torch.equal(parameter, before[name]) != is_trained, name


def test_a_checkpoint_goes_on_and_the_result_is_an_adapter(tmp_path: Path) -> None:
    data, settings = stripes(), FineTuneSettings(num_epochs=1, lr=1e-2, linear_probe=False)

    def begin() -> tuple[VisionTransformer, WholeModel, Workload, Minibatches]:
        model, workload = adapted((4, 4, 4, 4))
        trainer = WholeModel(model, data, workload, settings, CPU)
        return model, trainer, workload, training_minibatches(data.train, workload, 0)

    _, whole, workload, minibatches = begin()
    written = TrainingState(
        step=2, num_steps=4, steps_per_epoch=4, epoch=1, position=2, seed=0, settings={},
        plan_sha256="", num_ranks=1, provenance={},
    )  # fmt: skip
    losses = []
    for event in train(whole, minibatches, workload, schedule_for(workload), settings):
        if isinstance(event, Stepped):
            losses.append(event.loss)
            if event.step == 2:
                state = save_checkpoint(tmp_path / "state", written, whole.save_state)
    model, again, workload, minibatches = begin()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    again.load_state(state)
    going_on = train(again, minibatches, workload, schedule_for(workload), settings, num_done=2)
    assert [e.loss for e in going_on if isinstance(e, Stepped)] == losses[2:]
    again.save_result(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    loaded = PeftModel.from_pretrained(vit(), str(tmp_path / ADAPTER)).eval()
    images = family_of(model).to_inputs(model, data.test.inputs)
    with torch.no_grad():
        assert torch.allclose(loaded(images), model.eval()(images), atol=1e-6)


def own_factors(model: VisionTransformer, workload: Workload, s: int) -> list[Tensor]:
    """Gradients of a subnet's rows of B of the maps in and columns of A of the maps out."""
    subnet, head_dim = workload.partition.subnets[s], workload.shape.head_dim
    block = model.blocks[subnet.block]
    channels = [h * head_dim + j for h in subnet.heads for j in range(head_dim)]
    rows = [part * workload.shape.width + c for part in range(3) for c in channels]
    units = slice(subnet.hidden_start, subnet.hidden_stop)
    return [
        block.attn.qkv.lora_B["default"].weight.grad[rows],
        block.attn.proj.lora_A["default"].weight.grad[:, channels],
        block.mlp.fc1.lora_B["default"].weight.grad[units],
        block.mlp.fc2.lora_A["default"].weight.grad[:, units],
    ]


def test_fisher_scores_are_gradients_of_adapters() -> None:
    model, workload = adapted((2, 3), drawn=True)
    images, labels = torch.randn(5, 3, 28, 28), torch.randint(5, (5,))
    scores = score_samples(model, images, labels, workload, ["fisher", "taylor"])
    assert np.isfinite(scores["taylor"]).all()
    assert (scores["taylor"] > 0).all()
    for i in range(5):
        model.zero_grad()
        F.cross_entropy(model(images[i : i + 1]), labels[i : i + 1]).backward()
        for s in range(workload.num_subnets):
            slow = sum(float(g.square().sum()) for g in own_factors(model, workload, s))
            assert scores["fisher"][s, i] == pytest.approx(slow, rel=1e-4)
    together = score_minibatch(model, images, labels, workload)
    model.zero_grad()
    F.cross_entropy(model(images[:2]), labels[:2]).backward()
    for s in range(workload.num_subnets):
        slow = sum(float(g.square().sum()) for g in own_factors(model, workload, s))
        assert together.backward[s, 0] == pytest.approx(slow, rel=1e-4)
    assert (together.forward > 0).all()


def test_scores_of_fresh_adapters_tell_subnets_apart() -> None:
    model, workload = adapted((2, 3))
    images, labels = torch.randn(5, 3, 28, 28), torch.randint(5, (5,))
    scores = score_minibatch(model, images, labels, workload, backward_score="fisher")
    assert (scores.backward > 0).all()
    assert len(np.unique(scores.backward)) == scores.backward.size


def test_rescaled_gradients_are_those_of_rescaled_paths() -> None:
    model, workload = adapted((2, 2, 2, 2), drawn=True)
    model.double()
    schedule = np.full((workload.num_subnets, 4), Operation.FORWARD_ONLY)
    schedule[:, :2] = Operation.FULL
    slices = slice_schedule(workload, schedule)
    images = torch.randn(8, 3, 28, 28, dtype=torch.float64)
    labels = torch.randint(5, (8,))
    forward_backward(model, images, labels, slices)
    plain = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    slices = rescaled(slices, workload, schedule, torch.device("cpu"))
    forward_backward(model, images, labels, slices)
    # In the last sub-layer nothing comes after: every factor's gradient is twice as large.
    for name in ("lora_A", "lora_B"):
        key = f"blocks.1.mlp.fc2.{name}.default.weight"
        grad = getattr(model.blocks[1].mlp.fc2, name)["default"].weight.grad
        assert torch.allclose(grad, 2 * plain[key], rtol=1e-9, atol=0)
