"""Models without values: as on torch's meta device, and nothing is spent on initial ones."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from decoder_models import small_decoder
from rank_cases import small_bert, small_model
from runtime.without_values import without_values


class Watched(TorchDispatchMode):
    """Names of what runs on tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("build", [small_model, small_bert, small_decoder])
def test_a_model_is_as_with_values_and_is_not_filled(build: Any) -> None:
    wanted = build().to("meta")
    with without_values(), Watched() as watched:
        built = build(device="meta")
    assert [(n, p.shape, p.dtype, p.device) for n, p in built.named_parameters()] == [
        (n, p.shape, p.dtype, p.device) for n, p in wanted.named_parameters()
    ]
    assert not watched.names & {"uniform_", "normal_", "erfinv_", "clamp_", "clamp", "normal"}


def test_tensors_with_values_are_filled_as_ever() -> None:
    with without_values():
        there = torch.empty(3, device="cpu").fill_(2.0).mul_(3.0)
        assert torch.get_default_device().type == "meta"
        assert torch.empty(3).is_meta
    assert there.tolist() == [6.0] * 3
    assert torch.empty(3).device.type == "cpu"
