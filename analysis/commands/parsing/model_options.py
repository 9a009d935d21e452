"""The model that is planned, as options of ``d2ft plan``, ``compare`` and ``sweep``."""

from dataclasses import dataclass

from analysis.commands import options
from analysis.names.precision_names import PrecisionName


@dataclass(frozen=True)
class ModelOptions:
    """Which model at which size, what of it trains, and in which precision; fields as parameters of
    `analysis.planning.request.read_request`."""

    model: options.Model = "vit_small_patch14_dinov2"
    image_size: options.ImageSize = None
    num_tokens: options.NumTokens = None
    num_classes: options.PlannedClasses = None
    lora_rank: options.LoraRank = None
    lora_alpha: options.LoraAlpha = None
    precision: options.Precision = PrecisionName.FLOAT32
    base_precision: options.BasePrecision = None
