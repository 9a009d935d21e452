"""What the samples of a model are, so that data sets can be read for it."""

from dataclasses import dataclass

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class PictureFormat:
    """Square pictures, stored as uint8 ``[3, image_size, image_size]``.

    The rest says how they are made that, as timm evaluates the model.

    Attributes:
        image_size: pixels of a side.
        crop_share: side of the middle that is kept, over the picture's; timm's ``crop_pct``.
        crop_mode: ``center``, ``squash`` or ``border``.
        interpolation: of resizing, such as ``bicubic``.
        mean, std: of each channel, by which values from 0 to 1 are normalised.
    """

    image_size: int
    crop_share: float = 1.0
    crop_mode: str = "center"
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    @property
    def sizes(self) -> dict[str, int]:
        """As `runtime.models.build.build_model` takes them."""
        return {"image_size": self.image_size}


@dataclass(frozen=True)
class TokenFormat:
    """Texts as token numbers, stored as int32 ``[num_tokens]``, padded at the end or cut.

    Attributes:
        num_tokens: of each text, special tokens and padding included.
        tokenizer: a ``tokenizer.json`` file, or a model's name on the Hugging Face hub.
        padding_id: the number that fills a text up, and that no text contains.
        vocabulary_size: tokens that the model knows, by numbers from 0.
    """

    num_tokens: int
    tokenizer: str
    padding_id: int
    vocabulary_size: int

    @property
    def sizes(self) -> dict[str, int]:
        """As `runtime.models.build.build_model` takes them."""
        return {"num_tokens": self.num_tokens}


@dataclass(frozen=True)
class SequenceFormat:
    """Texts whose every token is foretold, as token numbers of one length.

    Padded at the end they are stored as int32 ``[num_tokens]``. Packed, several texts to a
    sequence, they are stored as int32 ``[2, num_tokens]``: numbers, and positions that begin at 0
    with every text.

    Attributes:
        num_tokens: of each sequence.
        tokenizer: a folder in transformers' layout, or a model's name on the Hugging Face hub.
        vocabulary_size: tokens that the model knows, by numbers from 0.
        is_packed: whether sequences are packed.
    """

    num_tokens: int
    tokenizer: str
    vocabulary_size: int
    is_packed: bool = False

    @property
    def sizes(self) -> dict[str, int]:
        """As `runtime.models.build.build_model` takes them."""
        return {"num_tokens": self.num_tokens}


InputFormat = PictureFormat | TokenFormat | SequenceFormat
