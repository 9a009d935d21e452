"""Which model, weights and adapters a folder or a name stands for."""

import json
from dataclasses import dataclass
from pathlib import Path

from analysis.results.run_dir import PLAN
from d2ft_sched.errors import InputError
from d2ft_sched.files.text_file import read_text
from d2ft_sched.plan.plan_file import load_plan
from runtime.checkpoint.checkpoint import MODEL
from runtime.models.build import check_known, check_weights, default_weights
from runtime.models.peft_adapters import CONFIG
from runtime.models.text_generation import adapter_in


@dataclass(frozen=True)
class TrainedModel:
    """What is to be built.

    Attributes:
        name: of the model, as `runtime.models.build.build_model` takes it.
        weights: of the model without adapters; None for random ones or the library's own.
        adapter: folder of adapters, or None.
    """

    name: str
    weights: str | Path | None
    adapter: Path | None


def trained_model(place: str, weights: str | None, pretrained: bool) -> TrainedModel:
    """A model by name, by its own folder, or by a folder of results.

    Args:
        place: a folder that ``d2ft finetune`` wrote, a folder of adapters, or a model's name.
        weights: of the model without adapters; default those that come with its name.
        pretrained: whether the library fetches them.

    Raises:
        InputError: the folder has nothing that was trained, or no such model can be built.
    """
    folder = Path(place)
    adapter = adapter_in(folder)
    is_run = (folder / PLAN).is_file()
    if is_run:
        name = load_plan(folder / PLAN).workload.shape.name
        if adapter is None and not (folder / MODEL).is_file():
            raise InputError(
                f"{folder}: has neither adapters nor {MODEL}; let 'd2ft finetune' end there"
            )
    else:
        name = place if adapter is None else _base(adapter)
    check_known(name)
    check_weights(weights)
    if is_run and adapter is None:
        if weights is not None or pretrained:
            raise InputError(
                f"{folder}: has weights of its own; leave --weights and --pretrained out"
            )
        return TrainedModel(name, folder / MODEL, None)
    return TrainedModel(name, default_weights(name, weights, pretrained), adapter)


def _base(adapter: Path) -> str:
    path = adapter / CONFIG
    try:
        name = json.loads(read_text(path))["base_model_name_or_path"]
    except (InputError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: does not name its model ({error})") from None
    if not isinstance(name, str) or not name:
        raise InputError(f"{path}: base_model_name_or_path is {name!r}; it must name a model")
    return name
