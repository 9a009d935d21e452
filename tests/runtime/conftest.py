"""A small timm VisionTransformer, and the workload of a mini-batch of it."""

from collections.abc import Callable, Sequence

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.workload import Workload
from runtime.models.build import shape_of


@pytest.fixture
def small_vit() -> Callable[..., VisionTransformer]:
    """Three blocks of six heads over 28 pixel images in 14 pixel patches, 5 classes, float64."""

    def build(dtype: torch.dtype = torch.float64, **options: object) -> VisionTransformer:
        torch.manual_seed(0)
        sizes = {
            "img_size": 28,
            "patch_size": 14,
            "embed_dim": 48,
            "depth": 3,
            "num_heads": 6,
            "num_classes": 5,
        }
        model = VisionTransformer(**(sizes | options))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        return model.to(dtype)

    return build


@pytest.fixture
def workload_of() -> Callable[..., Workload]:
    """The workload of a model for head groups and micro-batch sizes."""

    def build(
        model: VisionTransformer,
        heads_per_subnet: int | Sequence[int] = 1,
        microbatch_samples: tuple[int, ...] = (2, 1, 3, 2),
    ) -> Workload:
        shape = shape_of(model)
        element_bytes = model.head.weight.element_size()
        partition = partition_by_heads(shape, heads_per_subnet)
        return Workload(shape, partition, microbatch_samples, element_bytes, element_bytes)

    return build
