"""The precision of messages and lanes, and types of two bytes, by name."""

from enum import StrEnum


class PrecisionName(StrEnum):
    """What ``--precision`` takes; keys of `d2ft_sched.model.workload.ELEMENT_BYTES`."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class AmpDtypeName(StrEnum):
    """What ``--amp-dtype`` takes."""

    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
