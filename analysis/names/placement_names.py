"""Names of ways to place subnets and owners, apart so that help needs no heavy import."""

from enum import StrEnum


class PlacementName(StrEnum):
    """What ``--placement`` takes."""

    BALANCED = "balanced"
    """The fastest dense step that is found; devices may stay empty."""
    EVERY_DEVICE = "every-device"
    """The fastest dense step in which every device holds a subnet of every block."""
    ROUND_ROBIN = "round-robin"
    """Equal shares in turn, whatever the devices."""
