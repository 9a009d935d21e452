"""What tells one choice of samples from another, so that ranks and checkpoints can be compared."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

_DIGITS = 16


@dataclass(frozen=True)
class Fingerprint:
    """Digests of a data set as it was chosen; empty where nothing was read.

    Attributes:
        class_names: of the names by label.
        train, test: of labels and samples, in their order.
    """

    class_names: str = ""
    train: str = ""
    test: str = ""

    def facts(self) -> dict[str, str]:
        """By names for settings."""
        return {
            "class_names_digest": self.class_names,
            "training_samples_digest": self.train,
            "test_samples_digest": self.test,
        }


def digest_of_texts(texts: Iterable[str]) -> str:
    """Of texts in their order."""
    return _digest(text.encode("utf-8", "surrogateescape") for text in texts)


def digest_of_arrays(arrays: Iterable[np.ndarray]) -> str:
    """Of arrays in their order, their shapes and types included."""
    parts = ((f"{a.dtype} {a.shape}".encode(), np.ascontiguousarray(a).tobytes()) for a in arrays)
    return _digest(part for both in parts for part in both)


def digest_of_samples(
    labels: np.ndarray,
    indices: np.ndarray,
    name: Callable[[int], str],
    content: Callable[[int], bytes],
) -> str:
    """Of chosen samples in their order: labels, names, and of each class the first one's content.

    Names, which say sizes of files, are had without reading; contents tell folders apart that hold
    files of the same names and sizes.

    Args:
        labels: int ``[num_samples]``, of all samples.
        indices: those that are chosen.
        name, content: of a sample by its index.
    """
    chosen = labels[indices]
    first = {int(indices[i]) for i in np.unique(chosen, return_index=True)[1]}

    def parts() -> Iterable[bytes]:
        for index, label in zip(indices.tolist(), chosen.tolist(), strict=True):
            yield f"{label} {name(index)}".encode("utf-8", "surrogateescape")
            if index in first:
                yield content(index)

    return _digest(parts())


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()[:_DIGITS]
