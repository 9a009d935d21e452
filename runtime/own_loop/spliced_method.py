"""What stands for a method of a module of a model that is not ours."""

import inspect
from collections.abc import Callable
from pickle import PicklingError
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from d2ft_sched.errors import InputError
from runtime.families.splice import Lanes, Splice


class _Spliced:
    """What stands for a module's method; in a copy of the module its own stands there again."""

    def __init__(
        self, splice: Splice, lanes: Lanes, is_active: Callable[[nn.Module], bool]
    ) -> None:
        self._splice, self._lanes, self._is_active = splice, lanes, is_active
        self._own = getattr(splice.module, splice.method)
        self.__signature__ = inspect.signature(self._own)

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        if not self._is_active(self._splice.module):
            return self._own(*inputs, **options)
        return _run(self._splice, self._lanes, *inputs, **options)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        module = memo[id(self._splice.module)]
        return MethodType(getattr(type(module), self._splice.method), module)

    def __reduce__(self) -> Any:
        raise PicklingError(
            "a model under a plan cannot be pickled: save its state_dict, or call "
            "ScheduledModel.remove first"
        )


@torch.compiler.disable
def _run(splice: Splice, lanes: Lanes, *inputs: Any, **options: Any) -> Any:
    """Not compiled with what is around it, which it would be anew for every schedule."""
    return splice.around(lanes, *inputs, **options)


class GradientForAll(torch.autograd.Function):
    """Its first argument, with zeros for the gradient of all others: what is around a model to sum
    gradients over ranks waits for one of every parameter."""

    @staticmethod
    def forward(ctx: Any, branch: Tensor, *others: Tensor) -> Tensor:
        ctx.save_for_backward(*others)
        return branch.view_as(branch)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return gradient, *map(torch.zeros_like, ctx.saved_tensors)


def replace_method(splice: Splice, lanes: Lanes, is_active: Callable[[nn.Module], bool]) -> None:
    """Let lanes compute a sub-layer whenever `is_active` says so of its module.

    Raises:
        InputError: they do already, for another plan.
    """
    if splice.method in vars(splice.module):
        raise InputError("the model is under a plan already: call `remove` of that first")
    setattr(splice.module, splice.method, _Spliced(splice, lanes, is_active))
