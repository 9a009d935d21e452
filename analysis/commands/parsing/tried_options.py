"""What plans are made of where none is given, as options of ``d2ft validate``."""

from dataclasses import dataclass, fields
from typing import Annotated, Any

import typer

from analysis.commands import options
from analysis.names.placement_names import PlacementName
from analysis.names.precision_names import PrecisionName


@dataclass(frozen=True)
class TriedOptions:
    """Model, mini-batch and placement of the plans that are made and tried."""

    model: options.TrainedModel = "vit_small_patch14_dinov2"
    num_tokens: options.NumTokens = None
    num_classes: options.NumClasses = 10
    heads_per_subnet: options.HeadsPerSubnet = "1"
    microbatches: options.Microbatches = 5
    microbatch_size: options.MicrobatchSize = 16
    waves: options.Waves = 1
    placement: Annotated[
        PlacementName,
        typer.Option(help="Of subnets and owners on several ranks; see 'd2ft plan'."),
    ] = PlacementName.EVERY_DEVICE
    precision: options.Precision = PrecisionName.FLOAT32
    lora_rank: options.LoraRank = None
    lora_alpha: options.LoraAlpha = None

    def asked(self) -> dict[str, Any]:
        """As attributes of `analysis.validating.run_validation.ValidationRequest`."""
        from analysis.planning.request import parse_heads, read_lora

        return {
            "model": self.model,
            "num_tokens": self.num_tokens,
            "num_classes": self.num_classes,
            "heads": parse_heads(self.heads_per_subnet),
            "num_microbatches": self.microbatches,
            "microbatch_size": self.microbatch_size,
            "num_waves": self.waves,
            "placement": self.placement,
            "precision": self.precision,
            "lora": read_lora(self.lora_rank, self.lora_alpha),
        }


OF_THE_PLANS = ["cluster_file", *(option.name for option in fields(TriedOptions))]
"""What plans that are given say themselves."""
