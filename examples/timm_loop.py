"""A plan in a training loop of timm's parts: its data, optimizer, schedule, loss and average.

    d2ft plan --cluster my-lab.yaml --model vit_small_patch16_224 --out plan.json
    python examples/timm_loop.py --plan plan.json --data FOLDER --out out/examples/timm_loop

FOLDER has a folder of pictures for each class, under `train` and `validation`. Three lines are
d2ft's: `apply_plan`, `take`, and the model called through what it returns.
"""

import argparse
from pathlib import Path

import torch
from timm import create_model
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3

from d2ft_sched import load_plan
from runtime import apply_plan


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="vit_small_patch16_224")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--pretrained", action="store_true")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("out/examples/timm_loop"))
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train, test = (
        create_dataset("", str(options.data), split) for split in ("train", "validation")
    )
    num_classes = len(train.reader.class_to_idx)
    model = create_model(
        options.model,
        pretrained=options.pretrained,
        img_size=options.image_size,
        num_classes=num_classes,
        drop_path_rate=0.1,
    ).to(device)
    optimizer = create_optimizer_v2(model, "adamw", options.lr, 0.05, layer_decay=0.75)
    scheduled = apply_plan(model, load_plan(options.plan), optimizer)

    sizes = resolve_data_config({"img_size": options.image_size}, model=model)
    given = {"input_size": sizes["input_size"], "num_workers": options.workers, "device": device}
    loader = create_loader(
        train, batch_size=scheduled.num_samples, is_training=True, use_prefetcher=False, **given
    )
    test_loader = create_loader(test, batch_size=64, use_prefetcher=False, **given)
    schedule, num_epochs = create_scheduler_v2(
        optimizer, num_epochs=options.epochs, warmup_epochs=1, updates_per_epoch=len(loader)
    )
    criterion, average = LabelSmoothingCrossEntropy(), ModelEmaV3(model, decay=0.99)
    for epoch in range(num_epochs):
        model.train()
        for batch in loader:
            inputs, labels = (part.to(device) for part in scheduled.take(batch))
            loss = criterion(scheduled(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            average.update(model)
        schedule.step(epoch + 1)
        print(f"epoch {epoch + 1}: loss {loss:.3f}, top-1 {top1(average.module, test_loader):.1%}")
    options.out.mkdir(parents=True, exist_ok=True)
    torch.save(average.module.state_dict(), options.out / "model.pt")


@torch.no_grad()
def top1(model: torch.nn.Module, loader: torch.utils.data.DataLoader) -> float:
    """Share of pictures that a model names rightly; every block runs in evaluation."""
    model.eval()
    device = next(model.parameters()).device
    right = [model(x.to(device)).argmax(1).eq(y.to(device)) for x, y in loader]
    return float(torch.cat(right).float().mean())


if __name__ == "__main__":
    main()
