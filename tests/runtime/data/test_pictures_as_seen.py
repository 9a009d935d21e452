"""Pictures as a viewer shows them: turned, on white."""

from io import BytesIO

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from runtime.data.pictures.picture_source import to_rgb


def stored(picture: Image.Image, kind: str, **options: object) -> Image.Image:
    file = BytesIO()
    picture.save(file, kind, **options)
    return Image.open(file)


@pytest.mark.parametrize("kind", ["jpeg", "png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(10))
def test_pictures_stand_upright(kind: str, orientation: int) -> None:
    pixels = np.zeros((16, 32, 3), dtype=np.uint8)
    pixels[:8, :16] = 250
    picture, exif = Image.fromarray(pixels), Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    seen = np.asarray(to_rgb(stored(picture, kind, exif=exif)))
    picture.getexif()[ExifTags.Base.Orientation] = orientation
    wanted = np.asarray(ImageOps.exif_transpose(picture))
    assert seen.shape == wanted.shape
    assert ((seen > 128) == (wanted > 128)).mean() > 0.95


def test_damaged_exif_data_are_no_reason_to_refuse_a_picture() -> None:
    picture = stored(
        Image.new("RGB", (8, 4), "red"), "jpeg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"
    )
    assert to_rgb(picture).size == (8, 4)


def test_16_bits_are_turned_and_keep_their_levels() -> None:
    levels = np.arange(0, 256, dtype=np.uint16).reshape(8, 32) * 257
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    seen = np.asarray(to_rgb(stored(Image.fromarray(levels), "png", exif=exif)))[..., 0]
    assert np.array_equal(seen, np.rot90(levels // 257, -1))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L"])
def test_what_is_transparent_lies_on_white(mode: str) -> None:
    picture = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    picture.paste((0, 0, 0, 255), (0, 0, 2, 4))
    options = {}
    if mode == "P":
        picture = Image.new("P", (4, 4), 1)
        picture.putpalette([0, 0, 0, 200, 0, 0])
        picture.paste(0, (0, 0, 2, 4))
        options = {"transparency": 1}
    elif mode in ("RGB", "L"):
        hidden = (200, 0, 0) if mode == "RGB" else 200
        picture = Image.new(mode, (4, 4), hidden)
        picture.paste(0, (0, 0, 2, 4))
        options = {"transparency": hidden}
    else:
        picture = picture.convert(mode)
    seen = np.asarray(to_rgb(stored(picture, "png", **options)))
    assert (seen[:, 2:] == 255).all()
    assert (seen[:, :2] == 0).all()


def test_half_transparent_pixels_are_mixed_with_white() -> None:
    seen = np.asarray(to_rgb(stored(Image.new("RGBA", (2, 2), (0, 0, 0, 128)), "png")))
    assert (abs(seen.astype(int) - 127) <= 1).all()
