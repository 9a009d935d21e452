"""Plans in the loops of transformers and Lightning: the same steps as in a plain loop."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, SequentialSampler
from transformers import default_data_collator

from d2ft_sched.errors import InputError
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import bert_shape
from d2ft_sched.model.workload import Workload
from d2ft_sched.plan.solved_plan import Plan
from d2ft_sched.schedule.operations import Operation
from own_loops import plan_of
from rank_cases import LORA, small_model
from runtime.models.build import shape_of
from runtime.own_loop.apply_plan import apply_plan

SAMPLES = (2, 1, 1)
NUM_STEPS = 5
"""Of which the last has a shorter batch."""


def half_resting(workload: Workload) -> Plan:
    schedule = np.full((workload.num_subnets, 3), Operation.FULL, np.int8)
    schedule[2:] = Operation.REST
    schedule[:, 1] = Operation.SHORTCUT
    return plan_of(workload, schedule)


def adapted_bert() -> tuple[nn.Module, Plan]:
    """transformers' own classifier with adapters as people put them there."""
    from peft import LoraConfig, get_peft_model
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"vocab_size": 30, "hidden_size": 24, "num_hidden_layers": 2}
    torch.manual_seed(0)
    config = BertConfig(
        **sizes,
        num_attention_heads=4,
        intermediate_size=40,
        max_position_embeddings=12,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    names = ["query", "key", "value", "dense"]
    adapters = LoraConfig(
        r=LORA.rank,
        lora_alpha=LORA.alpha,
        target_modules=names,
        exclude_modules=r".*pooler.*",
        task_type="SEQ_CLS",
    )
    model = get_peft_model(BertForSequenceClassification(config), adapters)
    shape = bert_shape(
        "small",
        num_tokens=7,
        width=24,
        num_blocks=2,
        num_heads=4,
        mlp_hidden=40,
        vocabulary_size=30,
        num_positions=12,
        num_classes=2,
    )
    return model, half_resting(Workload(shape, partition_by_heads(shape, 2), SAMPLES, lora=LORA))


def text_samples() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "input_ids": torch.randint(1, 30, (7,), generator=generator),
            "attention_mask": (torch.arange(7) < 3 + i % 5).long(),
            "labels": torch.randint(2, (), generator=generator),
        }
        for i in range(4 * NUM_STEPS - 1)
    ]


def trainer(folder: Path, model: nn.Module, **options: Any) -> Any:
    from transformers import Trainer, TrainingArguments

    given = {"per_device_train_batch_size": 4, "num_train_epochs": 1, "learning_rate": 1e-2}
    arguments = TrainingArguments(
        output_dir=str(folder),
        lr_scheduler_type="constant",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        max_grad_norm=0.0,
        **given | options.pop("arguments", {}),
    )

    class InOrder(Trainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            return SequentialSampler(self.train_dataset)

    return InOrder(model=model, args=arguments, train_dataset=text_samples(), **options)


def test_transformers_trainer_takes_the_steps_of_a_plain_loop(tmp_path: Path) -> None:
    from runtime.own_loop.transformers_callback import TransformersPlanCallback

    model, plan = adapted_bert()
    trainer(tmp_path, model, callbacks=[TransformersPlanCallback(plan, seed=3)]).train()
    assert not any("forward" in vars(module) for module in model.modules())

    wanted, _ = adapted_bert()
    optimizer = torch.optim.AdamW(wanted.parameters(), lr=1e-2, weight_decay=0.0)
    scheduled = apply_plan(wanted, plan, optimizer, seed=3)
    batches = DataLoader(text_samples(), batch_size=4, collate_fn=default_data_collator)
    for batch in batches:
        optimizer.zero_grad()
        wanted(**scheduled.take(batch)).loss.backward()
        optimizer.step()
    assert scheduled.num_steps_done == NUM_STEPS
    for name, values in wanted.state_dict().items():
        assert torch.allclose(model.state_dict()[name], values, atol=1e-6), name


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"per_device_train_batch_size": 3}, "per_device_train_batch_size is 3"),
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps is 2"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor is 0.1"),
    ],
)
def test_what_a_plan_does_not_go_with_is_refused(
    tmp_path: Path, arguments: dict[str, Any], said: str
) -> None:
    from runtime.own_loop.transformers_callback import TransformersPlanCallback

    model, plan = adapted_bert()
    callbacks = [TransformersPlanCallback(plan)]
    with pytest.raises(InputError, match=said):
        trainer(tmp_path, model, callbacks=callbacks, arguments=arguments).train()


def test_lightning_takes_the_steps_of_a_plain_loop(tmp_path: Path) -> None:
    pytorch = pytest.importorskip("lightning.pytorch")
    from runtime.own_loop.lightning_callback import LightningPlanCallback

    generator = torch.Generator().manual_seed(1)
    pictures = torch.randn(4 * NUM_STEPS, 3, 28, 28, generator=generator)
    labels = torch.randint(5, (4 * NUM_STEPS,), generator=generator)

    class Module(pytorch.LightningModule):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.vit = small_model(0.3).float()

        def training_step(self, batch: Any, index: int) -> Tensor:
            return F.cross_entropy(self.vit(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

    wanted, module = Module(), Module()
    shape = shape_of(wanted.vit)
    plan = half_resting(Workload(shape, partition_by_heads(shape, 2), SAMPLES))
    data = torch.utils.data.TensorDataset(pictures, labels)
    loader = torch.utils.data.DataLoader(data, batch_size=4)
    runner = pytorch.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=[LightningPlanCallback(plan, seed=3)],
    )
    runner.fit(module, loader)

    optimizer = wanted.configure_optimizers()
    scheduled = apply_plan(wanted, plan, optimizer, seed=3)
    for batch in loader:
        optimizer.zero_grad()
        wanted.training_step(scheduled.take(batch), 0).backward()
        optimizer.step()
    for name, values in wanted.state_dict().items():
        assert torch.allclose(module.state_dict()[name], values, atol=1e-6), name
