"""Training of a model that is whole on one device."""

import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer

from d2ft_sched.errors import InputError
from d2ft_sched.workload import Workload
from runtime.checkpoint import MODEL, optimizer_file, optimizer_files
from runtime.data.image_data import ImageData, Split
from runtime.data.minibatches import normalize
from runtime.device import autocast, synchronize
from runtime.lane_slices import ScheduleSlices, slice_schedule
from runtime.linear_probe import fit_classifier
from runtime.models import normalization_of
from runtime.optimizer_state import load_optimizer, save_optimizer, set_state, state_by_name
from runtime.optimizers import create_optimizer, set_learning_rate
from runtime.partitioned import forward_backward
from runtime.shards import Shard, read_shards
from runtime.training import Evaluated, FineTuneSettings
from runtime.weights import save_weights


class WholeModel:
    """A `runtime.training.Trainer` of all subnets on one device."""

    def __init__(
        self,
        model: VisionTransformer,
        data: ImageData,
        workload: Workload,
        settings: FineTuneSettings,
        device: torch.device,
    ) -> None:
        """Take `model`, which is on `device`, into training.

        Raises:
            InputError: the data have more classes than the model.
        """
        if data.num_classes > model.num_classes:
            raise InputError(
                f"data {data.name!r} have {data.num_classes} classes; "
                f"the model's classifier has {model.num_classes}"
            )
        self._model, self._workload = model, workload
        self._settings, self._device = settings, device
        self._train, self._test = data.train.to(device), data.test.to(device)
        self._mean, self._std = normalization_of(model)
        self._optimizer = create_optimizer(
            model, workload.optimizer, lr=settings.lr, weight_decay=settings.weight_decay
        )
        self._slices: dict[bytes, ScheduleSlices] = {}

    def fit_classifier(self) -> float:
        return fit_classifier(self._model, self._train)

    def step(self, samples: np.ndarray, schedule: np.ndarray, lr: float) -> float:
        self._model.train()
        slices = self._slices_of(schedule)
        chosen = torch.from_numpy(samples).to(self._device)
        images = normalize(self._train.images[chosen], self._mean, self._std)
        set_learning_rate(self._optimizer, lr)
        with autocast(self._device, self._settings.autocast_dtype):
            loss = forward_backward(self._model, images, self._train.labels[chosen], slices)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return float(loss)

    def evaluate(self, epoch: int) -> Evaluated:
        return evaluate(self._model, self._test, epoch)

    def save_model(self, path: Path) -> None:
        save_weights(self._model, path)

    def save_state(self, folder: Path) -> tuple[str, ...]:
        self.save_model(folder / MODEL)
        parameters, name = dict(self._model.named_parameters()), optimizer_file(0, 1)
        state = state_by_name(self._optimizer, parameters)
        save_optimizer(folder / name, self._shards(), state)
        return MODEL, name

    def load_state(self, folder: Path) -> None:
        parameters = dict(self._model.named_parameters())
        for name, tensor in read_shards(folder / MODEL, self._shards()).items():
            parameters[name].data.copy_(tensor)
        state = load_optimizer(optimizer_files(folder), self._shards())
        set_state(self._optimizer, parameters, state)

    def _shards(self) -> tuple[Shard, ...]:
        return tuple(
            Shard(name, tuple(parameter.shape), 0, None)
            for name, parameter in self._model.named_parameters()
        )

    def _slices_of(self, schedule: np.ndarray) -> ScheduleSlices:
        key = np.asarray(schedule).astype(np.int8).tobytes()
        if key not in self._slices:
            self._slices[key] = slice_schedule(self._workload, schedule, self._settings.num_waves)
        return self._slices[key]


@torch.no_grad()
def evaluate(
    model: VisionTransformer, test: Split, epoch: int = 0, batch_size: int = 128
) -> Evaluated:
    """Top-1 accuracy and mean loss of the whole model, on the device of `test`."""
    start = time.perf_counter()
    model.eval()
    mean, std = normalization_of(model)
    num_right = torch.zeros((), device=test.labels.device)
    loss = torch.zeros((), device=test.labels.device)
    for images, labels in zip(
        test.images.split(batch_size), test.labels.split(batch_size), strict=True
    ):
        logits = model(normalize(images, mean, std))
        num_right += logits.argmax(1).eq(labels).sum()
        loss += F.cross_entropy(logits, labels, reduction="sum")
    synchronize(test.labels.device)
    return Evaluated(
        epoch=epoch,
        top1=float(num_right) / len(test),
        loss=float(loss) / len(test),
        num_samples=len(test),
        seconds=time.perf_counter() - start,
    )
