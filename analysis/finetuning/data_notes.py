"""What a user should know of the data that a training reads."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.data.dataset import Dataset
    from runtime.data.minibatches import Minibatches


@dataclass(frozen=True)
class DataNotes:
    """Of one training.

    Attributes:
        name: of the data set, as the user calls it.
        split: which samples are for what.
        num_train, num_test: samples of each part.
        num_left_out: training samples that an epoch leaves out.
        left_out: why, in one line; None if there are none.
        skipped: samples that could not be read, a line each.
        class_names: of the samples; none of texts that are foretold.
    """

    name: str
    split: str
    num_train: int
    num_test: int
    num_left_out: int
    left_out: str | None
    skipped: tuple[str, ...]
    class_names: tuple[str, ...]

    @property
    def first_notes(self) -> tuple[str, ...]:
        """Said before training."""
        return (self.split, *([self.left_out] if self.left_out else []))

    @property
    def last_notes(self) -> tuple[str, ...]:
        """Said at the end: what was skipped, and how many."""
        return skipped_notes(self.skipped)

    def summary(self) -> dict[str, Any]:
        """As ``d2ft finetune --json`` prints it."""
        return {
            "data": self.name,
            "num_train": self.num_train,
            "num_test": self.num_test,
            "num_left_out_per_epoch": self.num_left_out,
            "skipped": list(self.skipped),
            "class_names": list(self.class_names),
        }


def data_notes(data: "Dataset", minibatches: "Minibatches") -> DataNotes:
    """What is to say of a data set and its mini-batches."""
    return DataNotes(
        data.name,
        data.describe_split(),
        len(data.train),
        len(data.test),
        minibatches.num_left_out,
        minibatches.describe_left_out(),
        data.skipped,
        tuple(data.class_names),
    )


def skipped_notes(skipped: tuple[str, ...]) -> tuple[str, ...]:
    """A line for each sample that was skipped, and one that counts them."""
    if not skipped:
        return ()
    what = "sample was" if len(skipped) == 1 else "samples were"
    return (
        *(f"skipped: {line}" for line in skipped),
        f"{len(skipped)} {what} skipped by --on-bad-file skip",
    )
