"""Low-rank adapters made by `peft` on a model's blocks, and saved in its own format."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from d2ft_sched.files.atomic_write import write_atomically, write_text
from d2ft_sched.model.lora import Lora
from d2ft_sched.model.workload import ELEMENT_BYTES
from runtime.families.known_families import family_of
from runtime.tensor_file import write_state

ADAPTER = "adapter"
"""Folder of them in the results of a run."""

CONFIG, FACTORS = "adapter_config.json", "adapter_model.safetensors"
"""Files of an adapter folder, as `peft` names them."""

_PREFIX = "base_model.model."
"""Of all names in `FACTORS`."""


def add_adapters(model: nn.Module, lora: Lora, seed: int = 0, *, frozen_bytes: int = 4) -> None:
    """Put adapters on all linear maps of the blocks and freeze all else but a classifier.

    As `peft` draws them: A at random, B zero, so that the model's results stay as they are.

    Args:
        model: one that `runtime.models.build.check_supported` accepts; it is changed.
        lora: rank and alpha.
        seed: of A.
        frozen_bytes: as of a workload; where they are 2, what does not train becomes bfloat16.
    """
    from peft import LoraConfig, inject_adapter_in_model

    family = family_of(model)
    names = {id(module): name for name, module in model.named_modules()}
    maps = []
    for sublayers in family.blocks(model):
        for sublayer in sublayers:
            maps += [names[id(linear)] for linear in (*sublayer.maps_in, sublayer.map_out)]
    alpha: Any = int(lora.alpha) if lora.alpha.is_integer() else lora.alpha
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules=maps,
        base_model_name_or_path=family.model_name(model),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)
    if family.has_class_labels:
        family.classifier(model).requires_grad_(True)
    for parameter in model.parameters():
        if frozen_bytes == ELEMENT_BYTES["bfloat16"] and not parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)


def has_adapters(model: nn.Module) -> bool:
    """Whether `add_adapters` was called."""
    return any(hasattr(module, "lora_A") for module in model.modules())


def save_adapter(model: nn.Module, values: Mapping[str, Tensor], folder: Path) -> None:
    """Write adapters, and a classifier that trains, each file atomically.

    ``peft.PeftModel.from_pretrained(base, folder)`` reads them.

    Args:
        model: that `add_adapters` has changed; on a rank, its part.
        values: of all that trains, whole, by the parameters' names.
        folder: made if need be.
    """
    from peft import get_peft_model_state_dict

    own: Any = model
    (name,) = own.peft_config
    family, classifiers = family_of(model), []
    if family.has_class_labels:
        classifier = family.classifier(model)
        classifiers = [n for n, module in model.named_modules() if module is classifier]
    trained = get_peft_model_state_dict(
        model, dict(values), adapter_name=name, save_embedding_layers=False
    )
    of_classifiers = tuple(f"{name}." for name in classifiers)
    trained |= {key: t for key, t in values.items() if key.startswith(of_classifiers)}
    state = {f"{_PREFIX}{key}": tensor for key, tensor in trained.items()}
    with tempfile.TemporaryDirectory() as temporary:
        own.peft_config[name].save_pretrained(temporary)
        content = json.loads((Path(temporary) / CONFIG).read_text())
    # Whole names: the shortened ones of `peft` would fit maps that other models have besides.
    adapted = [name for name, module in model.named_modules() if hasattr(module, "lora_A")]
    content |= {"target_modules": adapted, "modules_to_save": classifiers or None}
    content["inference_mode"] = True
    write_atomically(folder / FACTORS, lambda path: write_state(path, state))
    write_text(folder / CONFIG, json.dumps(content, indent=2) + "\n")
