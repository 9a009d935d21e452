"""From gradients to weights: equal to timm's and torch's own, to the bit where subnets rest."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm.optim
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from timm.models.vision_transformer import VisionTransformer
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import nn

from d2ft_sched.errors import InputError
from d2ft_sched.model.lora import Lora
from d2ft_sched.model.optimizer_states import OPTIMIZER_STATES, TOGETHER
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.schedule import uniform_schedule
from decoder_models import small_decoder
from rank_cases import small_bert
from runtime.checkpoint.facts import TrainingState, write_facts
from runtime.data.dataset import Dataset, Split, Wanted
from runtime.families.known_families import family_of
from runtime.families.vit import normalization_of, normalize
from runtime.models.optimizers import KINDS, create_optimizer, layers_from_end
from runtime.models.peft_adapters import add_adapters
from runtime.ranks.shards import parameter_blocks, whole_shards
from runtime.training.events import Evaluated, Stepped
from runtime.training.finetune_settings import FineTuneSettings, learning_rate
from runtime.training.loop import fine_tune, training_minibatches
from runtime.training.loss_scale import LossScale
from runtime.training.resting_rows import resting
from runtime.training.weight_update import WeightUpdate, check_optimizer
from runtime.training.whole_model import WholeModel, whole_part

CPU = torch.device("cpu")
STATE = TrainingState(0, 1, 1, 1, 0, 0, {}, "", 1, {})


def vit() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=28, patch_size=14, embed_dim=24, depth=3, num_heads=3, num_classes=7
    ).double()


@pytest.fixture
def pictures() -> Dataset:
    generator = torch.Generator().manual_seed(3)

    def split(num_samples: int) -> Split:
        images = torch.rand(num_samples, 3, 28, 28, generator=generator, dtype=torch.float64)
        return Split(images, torch.randint(7, (num_samples,), generator=generator))

    return Dataset("noise", split(24), split(30), tuple("abcdefg"))


@pytest.mark.parametrize("name", KINDS)
def test_an_optimizer_keeps_what_is_said_of_it(name: str) -> None:
    kind, steps = KINDS[name], [torch.randn(6, 8, dtype=torch.float64) for _ in range(3)]
    whole = torch.randn(6, 8, dtype=torch.float64)

    def trained(*parts: torch.Tensor) -> tuple[torch.Tensor, torch.optim.Optimizer]:
        model = nn.ParameterList(part.clone() for part in parts)
        optimizer = create_optimizer(model, name, lr=1e-2)
        for gradient in steps:
            for parameter, part in zip(model, gradient.split([len(p) for p in parts]), strict=True):
                parameter.grad = part.clone()
            optimizer.step()
        return torch.cat([p.detach() for p in model]), optimizer

    result, optimizer = trained(whole)
    state = next(iter(optimizer.state.values()), {})
    assert set(state) == kind.values
    shaped = [value for value in state.values() if value.shape == whole.shape]
    assert len(shaped) == OPTIMIZER_STATES[name]
    assert {n for n in optimizer.param_groups[0] if n == "step"} == set(kind.counters)
    by_parts, _ = trained(whole[:2], whole[2:])
    assert torch.allclose(by_parts, result, rtol=1e-12) == (name not in TOGETHER)
    assert KINDS.keys() == OPTIMIZER_STATES.keys()


def test_an_optimizer_that_needs_whole_weights_is_refused_where_they_are_cut() -> None:
    check_optimizer("lamb", is_cut=False)
    with pytest.raises(InputError, match="optimizer 'lamb' takes norms of whole weights"):
        check_optimizer("lamb", is_cut=True)
    with pytest.raises(InputError, match="optimizer is 'muon'; it must be one of sgd, "):
        create_optimizer(vit(), "muon", lr=1e-3)


@pytest.mark.parametrize("rank", [None, 2])
def test_groups_are_those_of_timm(rank: int | None) -> None:
    model = vit()
    if rank:
        add_adapters(model, Lora(rank, 4.0), 0)
    part = whole_part(model, CPU)
    layers = layers_from_end(model, part.names, part.block_of)
    own = create_optimizer(model, lr=1e-3, weight_decay=0.1, layer_decay=0.7, layers=layers)
    spared = model.no_weight_decay()
    layered = timm.optim.param_groups_layer_decay(model, 0.1, spared, layer_decay=0.7)
    plain = timm.optim.param_groups_weight_decay(model, 0.1, no_weight_decay_list=spared)

    def of_each(groups: list[dict], *keys: str) -> dict[nn.Parameter, list[float]]:
        return {p: [g[key] for key in keys] for g in groups for p in g["params"]}

    keys = "weight_decay", "lr_scale"
    assert of_each(own.param_groups, *keys) == of_each(layered, *keys)
    assert of_each(create_optimizer(model, lr=1.0, weight_decay=0.1).param_groups, keys[0]) == (
        of_each(plain, keys[0])
    )


@pytest.mark.parametrize("model", [small_bert(), small_decoder("llama")])
def test_layers_of_other_families_are_their_blocks(model: nn.Module) -> None:
    names = [name for name, _ in model.named_parameters()]
    num_blocks = len(family_of(model).blocks(model))
    blocks = parameter_blocks(family_of(model), names, num_blocks)
    layers = layers_from_end(model, names, blocks)
    assert layers[names[0]] == num_blocks + 1
    assert layers[names[-1]] == 0
    for name, block in blocks.items():
        assert layers[name] == num_blocks - block


@given(
    num_steps=st.integers(2, 60),
    warmup=st.sampled_from([0.0, 0.05, 0.1, 0.3, 0.5]),
)
def test_the_schedule_is_that_of_timm(num_steps: int, warmup: float) -> None:
    settings = FineTuneSettings(lr=0.3, warmup=warmup)
    steps = round(warmup * num_steps)
    theirs = CosineLRScheduler(
        torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3),
        t_initial=num_steps - steps,
        warmup_t=steps,
        warmup_lr_init=0.3 / (steps + 1),
        warmup_prefix=True,
    )
    for step in range(num_steps):
        assert learning_rate(settings, step, num_steps) == pytest.approx(theirs._get_lr(step)[0])


@pytest.mark.parametrize("optimizer", ["adamw", "lamb", "lion", "nesterov"])
def test_a_dense_training_is_that_of_timm(
    optimizer: str, workload_of: Callable[..., Workload], pictures: Dataset
) -> None:
    model, plain = vit(), vit()
    workload = replace(workload_of(model, 1, (4, 4)), optimizer=optimizer)
    settings = FineTuneSettings(
        num_epochs=2,
        lr=3e-3,
        weight_decay=0.1,
        layer_decay=0.7,
        warmup=0.3,
        clip_norm=0.5,
        label_smoothing=0.1,
        ema_decay=0.6,
        eval_every=2,
        linear_probe=False,
    )
    dense = uniform_schedule(workload.num_subnets, 2, Operation.FULL)
    events = list(fine_tune(model, pictures, workload, dense, settings, CPU))

    their_optimizer = timm.optim.create_optimizer_v2(
        plain, optimizer, lr=settings.lr, weight_decay=0.1, layer_decay=0.7
    )
    average = ModelEmaV3(plain, decay=0.6)
    minibatches = training_minibatches(pictures.train, workload, 0)
    scale = normalization_of(plain)
    for event in events:
        if isinstance(event, Evaluated):
            with torch.no_grad():
                logits = average.module(normalize(pictures.test.inputs, *scale))
            labels = pictures.test.labels
            right, highest = logits.argmax(1) == labels, logits.topk(5).indices
            assert event.loss == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-9)
            assert event.top1 == pytest.approx(float(right.double().mean()))
            among = (highest == labels[:, None]).any(1)
            assert event.top5 == pytest.approx(float(among.double().mean()))
            shares = [right[labels == c] for c in range(7)]
            assert event.class_top1 == tuple(
                float(s.double().mean()) if len(s) else None for s in shares
            )
        if not isinstance(event, Stepped):
            continue
        chosen = torch.from_numpy(minibatches.of_epoch(event.epoch)[event.minibatch])
        logits = plain(normalize(pictures.train.inputs[chosen], *scale))
        loss = F.cross_entropy(logits, pictures.train.labels[chosen], label_smoothing=0.1)
        assert event.loss == pytest.approx(float(loss.detach()), rel=1e-9)
        their_optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        assert event.gradient_norm == pytest.approx(float(norm), rel=1e-9)
        for group in their_optimizer.param_groups:
            group["lr"] = event.lr * group["lr_scale"]
        their_optimizer.step()
        average.update(plain)
    for name, tensor in plain.state_dict().items():
        assert torch.allclose(model.state_dict()[name], tensor, rtol=1e-8, atol=1e-11), name
    evaluations = [e for e in events if isinstance(e, Evaluated)]
    assert [(e.step, e.epoch) for e in evaluations] == [
        (0, 0), (2, 2 / 3), (3, 1), (4, 4 / 3), (6, 2),
    ]  # fmt: skip


@pytest.mark.parametrize("optimizer", ["adamw", "lion", "lamb", "lars"])
def test_what_rests_moves_neither_weights_nor_moments_nor_average(
    optimizer: str, workload_of: Callable[..., Workload], pictures: Dataset
) -> None:
    model = vit()
    workload = replace(workload_of(model, 1, (2, 2)), optimizer=optimizer)
    settings = FineTuneSettings(lr=1e-2, clip_norm=0.1, ema_decay=0.5, linear_probe=False)
    update = WeightUpdate(whole_part(model, CPU), optimizer, settings)
    trainer = WholeModel(model, pictures, workload, settings, CPU)
    trainer._update = update
    trainer.begin([Wanted(np.arange(4)), Wanted(np.arange(4, 8))])
    schedule = uniform_schedule(workload.num_subnets, 2, Operation.FULL)
    trainer.step(np.arange(4), schedule, 1e-2)
    rests = (workload.partition.block == 1) | (np.arange(workload.num_subnets) == 0)
    schedule[rests] = Operation.REST
    left = resting(model, whole_shards(model), workload, schedule)
    assert left.whole
    assert left.rows

    def values() -> list[torch.Tensor]:
        average, state = update._average, update._optimizer.state
        assert average is not None
        names = {p: name for name, p in model.named_parameters()}
        kept = []
        for parameter in left.whole:
            moments = [v for v in state[parameter].values() if v.shape == parameter.shape]
            kept += [parameter, average[names[parameter]], *moments]
        for rows in left.rows:
            moments = [v for v in state[rows.parameter].values() if v.dim()]
            for tensor in (rows.parameter, average[names[rows.parameter]], *moments):
                kept += rows.of(tensor)
        return [tensor.detach().clone() for tensor in kept]

    before, head = values(), model.head.weight.detach().clone()
    trainer.step(np.arange(4, 8), schedule, 1e-2)
    assert all(map(torch.equal, values(), before))
    assert not torch.equal(model.head.weight, head)


@given(st.lists(st.booleans(), max_size=40))
def test_a_loss_is_scaled_as_by_torch(finite: list[bool]) -> None:
    theirs, own = torch.amp.GradScaler("cpu", growth_interval=3), LossScale(is_on=True)
    own._rule = replace(own._rule, interval=3)
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs.scale(torch.zeros(1))
    for is_finite in finite:
        parameter.grad = torch.tensor([1.0 if is_finite else float("inf")])
        theirs.step(optimizer)
        theirs.update()
        own.after(is_finite=is_finite)
        assert own.value == theirs.get_scale()


def test_a_step_that_overflows_is_left_out_and_its_scale_is_kept(
    workload_of: Callable[..., Workload], pictures: Dataset, tmp_path: Path
) -> None:
    model, plain = vit(), vit()
    workload = workload_of(model, 1, (4, 4))
    settings = FineTuneSettings(lr=1e-2, clip_norm=0.1, ema_decay=0.5, linear_probe=False)
    scaled = WholeModel(model, pictures, workload, replace(settings, half="float16"), CPU)
    unscaled = WholeModel(plain, pictures, workload, settings, CPU)
    scaled.begin([Wanted(np.arange(8)), Wanted(np.arange(8, 16))])
    unscaled.begin([Wanted(np.arange(8, 16))])
    dense = uniform_schedule(workload.num_subnets, 2, Operation.FULL)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    scaled._update._scale.value = float("inf")
    scaled.step(np.arange(8), dense, 1e-2)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    scaled._update._scale.value = 2.0**40
    for trainer in (scaled, unscaled):
        trainer.step(np.arange(8, 16), dense, 1e-2)
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(dict(model.named_parameters())[name], parameter)
    scaled.save_state(tmp_path)
    files = {name.name: {"bytes": 0, "sha256": ""} for name in tmp_path.iterdir()}
    write_facts(tmp_path / "checkpoint.json", STATE, files)
    again = WholeModel(vit(), pictures, workload, replace(settings, half="float16"), CPU)
    again.load_state(tmp_path)
    assert (again._update.loss_scale, again._update._scale.num_finite) == (2.0**40, 1)
