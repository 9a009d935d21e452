"""The fine-tuning loop: it learns, repeats itself, and follows schedules."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer

from d2ft_sched.costs.flops import step_flops
from d2ft_sched.errors import InputError
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.schedule import uniform_schedule
from runtime.data.dataset import Dataset, Split
from runtime.families.vit import normalization_of, normalize
from runtime.models.linear_probe import fit_classifier, fit_linear
from runtime.models.optimizers import create_optimizer
from runtime.training.events import Evaluated, Probed, Stepped
from runtime.training.finetune_settings import FineTuneSettings, learning_rate
from runtime.training.loop import fine_tune, train, training_minibatches
from runtime.training.whole_model import WholeModel, evaluate

CPU = torch.device("cpu")


@pytest.fixture
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


@pytest.fixture
def vit() -> Callable[[], VisionTransformer]:
    def build() -> VisionTransformer:
        torch.manual_seed(0)
        return VisionTransformer(
            img_size=28, patch_size=14, embed_dim=48, depth=2, num_heads=6, num_classes=5
        )

    return build


def schedule_for(workload: Workload, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(
        3, size=(workload.num_subnets, workload.num_microbatches)
    )


def test_training_learns_and_reports(
    vit: Callable[[], VisionTransformer],
    workload_of: Callable[..., Workload],
    stripes: Dataset,
) -> None:
    model = vit()
    workload = workload_of(model, 2, (4, 4, 4, 4))
    dense = uniform_schedule(workload.num_subnets, 4, Operation.FULL)
    settings = FineTuneSettings(num_epochs=10, lr=2e-3, linear_probe=False)
    events = list(fine_tune(model, stripes, workload, dense, settings, CPU))
    steps = [e for e in events if isinstance(e, Stepped)]
    evaluations = [e for e in events if isinstance(e, Evaluated)]
    assert [e.epoch for e in evaluations] == list(range(11))
    assert [e.step for e in steps] == list(range(1, 41))
    assert {e.num_steps for e in steps} == {40}
    assert {e.flops for e in steps} == {step_flops(workload, dense)}
    assert evaluations[-1].top1 > 0.7 > evaluations[0].top1
    assert evaluations[-1].loss < evaluations[0].loss
    for event in events:
        json.dumps(asdict(event))


def test_dense_loop_equals_a_plain_torch_loop(
    vit: Callable[[], VisionTransformer],
    workload_of: Callable[..., Workload],
    stripes: Dataset,
) -> None:
    model, plain = vit().double(), vit().double()
    workload = workload_of(model, 1, (8, 8))
    settings = FineTuneSettings(
        num_epochs=1, lr=1e-3, linear_probe=False, lr_decay="constant", warmup=0.0
    )
    dense = uniform_schedule(workload.num_subnets, 2, Operation.FULL)
    mean, std = normalization_of(plain)
    stripes_double = Dataset(
        "stripes",
        Split(stripes.train.inputs.double(), stripes.train.labels),
        Split(stripes.test.inputs.double(), stripes.test.labels),
        stripes.class_names,
    )
    events = fine_tune(model, stripes_double, workload, dense, settings, CPU)
    steps = [e for e in events if isinstance(e, Stepped)]

    minibatches = training_minibatches(stripes.train, workload, settings.seed)
    optimizer = create_optimizer(plain, "adamw", lr=1e-3, weight_decay=settings.weight_decay)
    for step in steps:
        chosen = torch.from_numpy(minibatches.of_epoch(step.epoch)[step.minibatch])
        images = normalize(stripes_double.train.inputs[chosen], mean, std)
        loss = F.cross_entropy(plain(images), stripes.train.labels[chosen])
        assert step.loss == pytest.approx(float(loss.detach()), rel=1e-9)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, tensor in plain.state_dict().items():
        assert torch.allclose(model.state_dict()[name], tensor, rtol=1e-9, atol=1e-12), name


def test_same_seed_gives_bitwise_the_same_losses(
    vit: Callable[[], VisionTransformer],
    workload_of: Callable[..., Workload],
    stripes: Dataset,
) -> None:
    def losses(seed: int) -> list[float]:
        model = vit()
        workload = workload_of(model, 2, (4, 4))
        settings = FineTuneSettings(num_epochs=2, lr=1e-3, seed=seed)
        schedule = schedule_for(workload)
        events = fine_tune(model, stripes, workload, schedule, settings, CPU)
        return [e.loss for e in events if isinstance(e, Stepped)]

    assert losses(0) == losses(0)
    assert losses(0) != losses(1)


def test_every_minibatch_has_its_own_schedule_in_every_epoch(
    vit: Callable[[], VisionTransformer],
    workload_of: Callable[..., Workload],
    stripes: Dataset,
) -> None:
    model = vit()
    workload = workload_of(model, 2, (8, 8))
    asked: list[int] = []

    def schedule_of(step: int, minibatch: int) -> np.ndarray:
        assert step == len(asked)
        asked.append(minibatch)
        return schedule_for(workload, seed=minibatch)

    settings = FineTuneSettings(num_epochs=2, linear_probe=False)
    events = list(fine_tune(model, stripes, workload, schedule_of, settings, CPU))
    steps = [e for e in events if isinstance(e, Stepped)]
    assert asked == [e.minibatch for e in steps]
    assert sorted(asked) == [0, 0, 1, 1, 2, 2, 3, 3]
    for step in steps:
        assert step.flops == step_flops(workload, schedule_for(workload, seed=step.minibatch))


def test_the_probe_sets_only_the_classifier(
    vit: Callable[[], VisionTransformer], stripes: Dataset
) -> None:
    model = vit()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    untrained = evaluate(model, stripes.test).top1
    train_top1 = fit_classifier(model, stripes.train)
    assert train_top1 == pytest.approx(evaluate(model, stripes.train).top1)
    assert train_top1 > 0.9
    assert evaluate(model, stripes.test).top1 > max(0.6, untrained)
    changed = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
    assert changed == {"head.weight", "head.bias"}


@pytest.mark.parametrize("features", [torch.ones(6, 8), torch.arange(8.0)[None]])
def test_a_probe_of_features_that_do_not_differ_is_finite(features: torch.Tensor) -> None:
    weight, bias, _ = fit_linear(features, torch.zeros(len(features), dtype=torch.long), 3)
    assert weight.isfinite().all()
    assert bias.isfinite().all()


def test_a_probe_comes_first(
    vit: Callable[[], VisionTransformer],
    workload_of: Callable[..., Workload],
    stripes: Dataset,
) -> None:
    model = vit()
    workload = workload_of(model, 6, (64,))
    settings = FineTuneSettings(num_epochs=1)
    events = list(fine_tune(model, stripes, workload, schedule_for(workload), settings, CPU))
    assert isinstance(events[0], Probed)
    assert isinstance(events[1], Evaluated)


def test_seconds_of_a_step_hold_those_of_learning_from_it(
    vit: Callable[[], VisionTransformer],
    workload_of: Callable[..., Workload],
    stripes: Dataset,
) -> None:
    class Slow:
        def see(self, minibatch: int, seen: np.ndarray) -> None:
            time.sleep(0.3)

    model = vit()
    workload = workload_of(model, 6, (64,))
    settings = FineTuneSettings(num_epochs=1, linear_probe=False, watch_scores=True)
    trainer = WholeModel(model, stripes, workload, settings, CPU)
    minibatches = training_minibatches(stripes.train, workload, 0)
    events = train(trainer, minibatches, workload, schedule_for(workload), settings, learner=Slow())
    assert [e.step_s >= 0.3 for e in events if isinstance(e, Stepped)] == [True]


def test_learning_rate_rises_and_falls() -> None:
    settings = FineTuneSettings(lr=1.0, warmup=0.23)
    rates = [learning_rate(settings, step, 13) for step in range(13)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert all(a > b for a, b in pairwise(rates[3:]))
    assert 0 < rates[-1] < 0.05
    constant = FineTuneSettings(lr=1.0, lr_decay="constant", warmup=0.0)
    assert {learning_rate(constant, step, 9) for step in range(9)} == {1.0}


def test_bad_settings_and_data_are_refused(
    vit: Callable[[], VisionTransformer],
    workload_of: Callable[..., Workload],
    stripes: Dataset,
) -> None:
    with pytest.raises(InputError, match="number of epochs is 0"):
        FineTuneSettings(num_epochs=0)
    with pytest.raises(InputError, match="learning rate is nan"):
        FineTuneSettings(lr=float("nan"))
    model = vit()
    workload = workload_of(model, 6, (50, 50))
    with pytest.raises(InputError, match="do not fill one mini-batch of 100"):
        next(fine_tune(model, stripes, workload, schedule_for(workload), FineTuneSettings(), CPU))
    many = Dataset("many", stripes.train, stripes.test, tuple("abcdef"))
    with pytest.raises(InputError, match="have 6 classes; the model's classifier has 5"):
        next(fine_tune(model, many, workload, schedule_for(workload), FineTuneSettings(), CPU))
