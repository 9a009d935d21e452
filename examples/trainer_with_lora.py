"""A plan in `transformers.Trainer`: a BERT with adapters of peft, classifying texts.

    d2ft plan --cluster my-lab.yaml --model minilm-l6 --num-tokens 64 --lora-rank 8 --out plan.json
    python examples/trainer_with_lora.py --plan plan.json --data texts.csv --model FOLDER

texts.csv has the columns text and label; FOLDER is a model of transformers with its tokenizer. The
one line that is d2ft's is the callback.
"""

import argparse
import csv
from pathlib import Path

from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from d2ft_sched import load_plan
from runtime import TransformersPlanCallback


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--out", type=Path, default=Path("out/examples/trainer_with_lora"))
    options = parser.parse_args(arguments)

    plan = load_plan(options.plan)
    lora, num_tokens = plan.workload.lora, plan.workload.shape.num_tokens
    if lora is None:
        parser.error(f"{options.plan} trains all weights: plan with --lora-rank")
    with options.data.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = sorted({row["label"] for row in rows})
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    samples = [
        tokenizer(row["text"], truncation=True, max_length=num_tokens)
        | {"label": names.index(row["label"])}
        for row in rows
    ]
    model = AutoModelForSequenceClassification.from_pretrained(options.model, num_labels=len(names))
    adapters = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=["query", "key", "value", "dense"],
        exclude_modules=r".*pooler.*",
        task_type="SEQ_CLS",
    )
    trainer = Trainer(
        model=get_peft_model(model, adapters),
        args=TrainingArguments(
            output_dir=str(options.out),
            per_device_train_batch_size=int(plan.workload.samples.sum()),
            num_train_epochs=options.epochs,
            learning_rate=options.lr,
            logging_strategy="epoch",
            save_strategy="no",
            report_to=[],
            seed=0,
        ),
        train_dataset=samples,
        data_collator=DataCollatorWithPadding(tokenizer),
        callbacks=[TransformersPlanCallback(plan)],
    )
    trainer.train()
    trainer.save_model(str(options.out))


if __name__ == "__main__":
    main()
