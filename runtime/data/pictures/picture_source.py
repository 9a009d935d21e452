"""Labelled pictures and where they come from."""

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from d2ft_sched.errors import InputError

_IN_16_BITS = ("PNG", "PPM")


class Pictures(Protocol):
    """Labelled pictures that can be read one by one, here or in another process that gets a copy.

    Attributes:
        labels: int ``[num_pictures]``.
    """

    @property
    def labels(self) -> np.ndarray: ...

    def read(self, index: int) -> Image.Image:
        """The picture in RGB; raises InputError if it is unreadable."""
        ...

    def name(self, index: int) -> str:
        """What it is called, and how large it is, where that is known without reading it."""
        ...

    def content(self, index: int) -> bytes:
        """The bytes that it is read from; empty where they cannot be had."""
        ...


@dataclass(frozen=True)
class Source:
    """A data set before pictures are chosen and resized.

    Attributes:
        name: as the user calls it.
        train: pictures to train on, or all there are if `test` is None.
        test: pictures to test on, or None where the source does not tell them apart.
        class_names: names by label.
        parts: what the source calls training and test part, and what else it has, for people;
            empty where it does not tell them apart.
    """

    name: str
    train: Pictures
    test: Pictures | None
    class_names: tuple[str, ...]
    parts: str = ""


def decoded(source: Path | BinaryIO, name: str) -> Image.Image:
    """The picture of a file in RGB.

    Args:
        source: the file, or its bytes.
        name: what it is called.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with Image.open(source) as picture:
            return to_rgb(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "not a picture" if isinstance(error, UnidentifiedImageError) else str(error)
        raise InputError(f"picture {name} cannot be read ({reason})") from None


def to_rgb(picture: Image.Image) -> Image.Image:
    """As a viewer shows it, in three channels of 8 bits.

    It is turned as its EXIF data say, what is transparent lies on white, and grey of 16 bits is
    scaled by 1 / 257.

    Raises:
        ValueError: the picture is of numbers that say nowhere what is white.
    """
    file_format, picture = picture.format, _upright(picture)
    # Pillow has numbers of 16 bits of these two formats in the mode of 32 bits.
    if picture.mode.startswith("I;16") or (picture.mode == "I" and file_format in _IN_16_BITS):
        grey = (np.asarray(picture).astype(np.int64) + 128) // 257
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        kind = "32-bit integers" if picture.mode == "I" else "floats"
        raise ValueError(f"it is of {kind}; save it with 8 or 16 bits")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        paper = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(paper, picture)
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _upright(picture: Image.Image) -> Image.Image:
    """Turned and mirrored as its EXIF data say; as it is where these are damaged."""
    picture.load()
    try:
        turned = picture.getexif().get(ExifTags.Base.Orientation) in range(2, 9)
        return ImageOps.exif_transpose(picture) if turned else picture
    except Exception:  # Pillow's readers of EXIF data raise errors of many kinds
        return picture
