"""The sizes of a transformer that planning needs: nothing here knows images, text or torch."""

from dataclasses import dataclass, fields
from typing import Literal

from d2ft_sched.errors import InputError

MOST = {
    "num_blocks": 10_000,
    "num_heads": 10_000,
    "queries_per_head": 1_000,
    "head_dim": 10_000,
    "width": 100_000,
    "mlp_hidden": 1_000_000,
    "num_tokens": 1_000_000,
    "embed_flops": 10**18,
    "classifier_flops": 10**18,
    "trunk_parameters": 10**15,
    "classifier_parameters": 10**15,
    "vocabulary_size": 10_000_000,
}
"""Bounds of the fields, far above every model there is, so that a mistyped size ends in a message
instead of in all memory, and no product of sizes leaves 64 bits."""

MOST_HEADS = 50_000
"""Of all blocks together: a plan has a row for each subnet, which may be one head."""

_MAY_BE_NONE = ("_flops", "_parameters", "vocabulary_size")

MOST_CLASSES = 1_000_000
DEFAULT_NUM_CLASSES = 10


@dataclass(frozen=True)
class ModelShape:
    """A stack of equal transformer blocks between an embedding and a classifier.

    Attributes:
        name: the model's name in its family (timm, transformers).
        num_blocks: transformer layers.
        num_heads: attention heads per block, as far as a partition shares them out: those of keys
            and values.
        head_dim: width of one head of queries, keys or values.
        width: width of the residual stream.
        mlp_hidden: hidden units of the MLP of a block.
        num_tokens: tokens of one sample, special tokens included.
        embed_flops: forward FLOPs of the embedding of one sample; its backward has dW only.
        classifier_flops: forward FLOPs of the classifier of one sample, of all its tokens where it
            is a head over a vocabulary; its backward has dX and, where it trains, dW.
        trunk_parameters: parameters outside all subnets: embeddings, norms, LayerScale, the output
            biases of attention and MLP, classifier; not those of `shared_parameters`.
        classifier_parameters: those of them that are the classifier's alone; none if it is tied.
        qkv_bias: whether the query, key and value projections have a bias (it belongs to subnets).
        mlp_bias: whether the first MLP layer has a bias (it belongs to subnets).
        layer_scale: whether each sub-layer's output is scaled by a learned vector (LayerScale,
            arXiv 2103.17239); the scale belongs to the trunk, and its gradient needs that output.
        num_qkv_maps: linear maps to queries, keys and values: 1 to all of them, or 3, one to each;
            it counts where adapters train, of which each map has its own.
        norm_first: whether a sub-layer is ``x + f(norm(x))`` (pre-norm) or ``norm(x + f(x))``
            (post-norm, whose norms run even where no subnet does).
        queries_per_head: heads of queries that share one of keys and values (grouped-query
            attention, arXiv 2305.13245).
        gated_mlp: whether a hidden unit is ``act(gate(x)) * up(x)``, two rows of the map in instead
            of one (arXiv 2002.05202).
        norm: "layer", with scale and shift, or "rms", with a scale (arXiv 1910.07467).
        output_bias: whether the last maps of attention and MLP have a bias (it belongs to trunk).
        query_key_norm: whether the queries and keys of every head pass a norm of width `head_dim`,
            whose scale all heads of a block share.
        rotary: whether queries and keys are turned by their positions (arXiv 2104.09864).
        causal: whether tokens attend to those before them alone.
        vocabulary_size: tokens that a head over every position tells apart; 0 where one classifier
            looks at each sample.
        tied_vocabulary: whether that head is the embedding.
    """

    name: str
    num_blocks: int
    num_heads: int
    head_dim: int
    width: int
    mlp_hidden: int
    num_tokens: int
    embed_flops: int = 0
    classifier_flops: int = 0
    trunk_parameters: int = 0
    classifier_parameters: int = 0
    qkv_bias: bool = True
    mlp_bias: bool = True
    layer_scale: bool = False
    num_qkv_maps: int = 1
    norm_first: bool = True
    queries_per_head: int = 1
    gated_mlp: bool = False
    norm: Literal["layer", "rms"] = "layer"
    output_bias: bool = True
    query_key_norm: bool = False
    rotary: bool = False
    causal: bool = False
    vocabulary_size: int = 0
    tied_vocabulary: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type in (int, "int"):
                least = 0 if field.name.endswith(_MAY_BE_NONE) else 1
                if not isinstance(value, int) or isinstance(value, bool) or value < least:
                    raise InputError(
                        f"model shape {self.name!r}: {field.name} is "
                        f"{brief(value) if type(value) is int else repr(value)}; "
                        f"it must be a whole number of at least {least}"
                    )
                if value > MOST.get(field.name, value):
                    raise InputError(
                        f"model shape {self.name!r}: {field.name} is {brief(value)}; "
                        f"it must be at most {MOST[field.name]}"
                    )
        if self.num_blocks * self.num_heads > MOST_HEADS:
            raise InputError(
                f"model shape {self.name!r}: num_blocks is {self.num_blocks} and num_heads "
                f"{self.num_heads}; together they must be at most {MOST_HEADS} heads"
            )
        if self.classifier_parameters > self.trunk_parameters:
            raise InputError(
                f"model shape {self.name!r}: classifier_parameters is "
                f"{self.classifier_parameters}; trunk_parameters, which count them too, are "
                f"{self.trunk_parameters}"
            )
        if self.num_qkv_maps not in (1, 3):
            raise InputError(
                f"model shape {self.name!r}: num_qkv_maps is {self.num_qkv_maps}; it must be 1 or 3"
            )
        if self.norm not in ("layer", "rms"):
            raise InputError(
                f"model shape {self.name!r}: norm is {self.norm!r}; it must be layer or rms"
            )
        if self.tied_vocabulary and (not self.vocabulary_size or self.classifier_parameters):
            raise InputError(
                f"model shape {self.name!r}: tied_vocabulary is true, vocabulary_size "
                f"{self.vocabulary_size} and classifier_parameters {self.classifier_parameters}; a "
                f"tied head has a vocabulary and no parameters of its own"
            )

    @property
    def num_maps_in(self) -> tuple[int, int]:
        """Linear maps that take in what attention, and what the MLP of a block sees."""
        return self.num_qkv_maps, self.hidden_rows

    @property
    def head_rows(self) -> int:
        """Rows of the maps to queries, keys and values that a head has, in this order of parts:
        ``queries_per_head``, 1 and 1 times `head_dim`."""
        return (self.queries_per_head + 2) * self.head_dim

    @property
    def head_columns(self) -> int:
        """Columns of the map out of attention that a head has: one for each row of its queries."""
        return self.queries_per_head * self.head_dim

    @property
    def hidden_rows(self) -> int:
        """Rows of the map into the MLP that a hidden unit has: one, or of gate and up one each."""
        return 2 if self.gated_mlp else 1

    @property
    def head_parameters(self) -> int:
        """Parameters of one head: its rows of Q, K, V (with bias) and its columns of the output."""
        bias = self.head_rows if self.qkv_bias else 0
        return self.width * (self.head_rows + self.head_columns) + bias

    @property
    def hidden_unit_parameters(self) -> int:
        """Parameters of one hidden unit of the MLP: its rows of the map in (with bias), and a
        column of the map out."""
        return self.width * (self.hidden_rows + 1) + (self.hidden_rows if self.mlp_bias else 0)

    @property
    def shared_parameters(self) -> int:
        """Parameters that all heads of a block share, and every device needs that has one of them:
        the scales of queries' and keys' norms."""
        return 2 * self.head_dim if self.query_key_norm else 0

    @property
    def norm_parameters(self) -> int:
        """Parameters of one norm of the trunk."""
        return self.width * (2 if self.norm == "layer" else 1)

    @property
    def block_trunk_parameters(self) -> int:
        """Parameters of the trunk in each block: two norms, two output biases, and LayerScale; an
        equal part of what there is where `trunk_parameters` leave less."""
        others = self.trunk_parameters - self.classifier_parameters
        vectors = 2 * int(self.output_bias) + 2 * int(self.layer_scale)
        return min(2 * self.norm_parameters + vectors * self.width, others // self.num_blocks)

    @property
    def end_trunk_parameters(self) -> int:
        """Parameters of the trunk after the blocks: the classifier's and, where norms come first,
        those of a last norm; as `block_trunk_parameters`. The embedding has the rest."""
        in_blocks = self.num_blocks * self.block_trunk_parameters
        others = self.trunk_parameters - self.classifier_parameters - in_blocks
        last_norm = min(self.norm_parameters, others) if self.norm_first else 0
        return self.classifier_parameters + last_norm

    @property
    def num_parameters(self) -> int:
        """Parameters of the whole model."""
        block = (
            self.num_heads * self.head_parameters
            + self.mlp_hidden * self.hidden_unit_parameters
            + self.shared_parameters
        )
        return self.trunk_parameters + self.num_blocks * block


def brief(number: int) -> str:
    """A whole number in a message: one of many digits by its size alone."""
    if abs(number) < 10**18:
        return str(number)
    return f"{'above ' if number > 0 else 'below -'}10^{(number.bit_length() - 1) * 3 // 10}"


def check_num_classes(num_classes: int) -> None:
    """Refuse a number of classes that no classifier has.

    Raises:
        InputError: it is below 1 or above `MOST_CLASSES`.
    """
    if not 1 <= num_classes <= MOST_CLASSES:
        raise InputError(
            f"the number of classes is {brief(num_classes)}; it must be 1 to {MOST_CLASSES}"
        )


def vision_transformer_shape(
    name: str,
    *,
    image_size: int,
    patch_size: int,
    width: int,
    num_blocks: int,
    num_heads: int,
    mlp_hidden: int,
    num_classes: int,
    num_prefix_tokens: int = 1,
    num_channels: int = 3,
    layer_scale: bool = False,
) -> ModelShape:
    """The shape of a ViT (arXiv 2010.11929) with a class token and learned absolute positions.

    Raises:
        InputError: the patch size does not divide the image size, or the heads the width; or a
            size is beyond its bound.
    """
    if image_size < 1 or patch_size < 1 or image_size % patch_size:
        raise InputError(
            f"image size {image_size} is not a multiple of {name}'s patch size {patch_size}"
        )
    check_num_classes(num_classes)
    if (image_size // patch_size) ** 2 > MOST["num_tokens"]:
        raise InputError(
            f"image size {brief(image_size)} cuts into {brief((image_size // patch_size) ** 2)} "
            f"patches of {name}; they must be at most {MOST['num_tokens']}"
        )
    if num_heads < 1 or width % num_heads:
        raise InputError(f"{name}: {num_heads} heads do not divide the width {width}")
    num_patches = (image_size // patch_size) ** 2
    patch_elements = num_channels * patch_size**2
    num_tokens = num_patches + num_prefix_tokens
    per_block = width * (4 + 2 + (2 if layer_scale else 0))
    embedding = patch_elements * width + width + num_prefix_tokens * width + num_tokens * width
    classifier = width * num_classes + num_classes
    return ModelShape(
        name=name,
        num_blocks=num_blocks,
        num_heads=num_heads,
        head_dim=width // num_heads,
        width=width,
        mlp_hidden=mlp_hidden,
        num_tokens=num_tokens,
        embed_flops=2 * num_patches * patch_elements * width,
        classifier_flops=2 * width * num_classes,
        trunk_parameters=embedding + num_blocks * per_block + 2 * width + classifier,
        classifier_parameters=classifier,
        layer_scale=layer_scale,
    )


def bert_shape(
    name: str,
    *,
    num_tokens: int,
    width: int,
    num_blocks: int,
    num_heads: int,
    mlp_hidden: int,
    vocabulary_size: int,
    num_positions: int,
    num_classes: int,
    num_token_types: int = 2,
) -> ModelShape:
    """The shape of a BERT (arXiv 1810.04805) under one linear classifier, without pooler.

    Its embedding looks tokens up, which costs no FLOPs.

    Raises:
        InputError: more tokens than positions, or heads that do not divide the width.
    """
    if not 1 <= num_tokens <= num_positions:
        raise InputError(
            f"the number of tokens is {num_tokens}; {name} has positions for 1 to {num_positions}"
        )
    check_num_classes(num_classes)
    if num_heads < 1 or width % num_heads:
        raise InputError(f"{name}: {num_heads} heads do not divide the width {width}")
    embedding = (vocabulary_size + num_positions + num_token_types + 2) * width
    classifier = (width + 1) * num_classes
    return ModelShape(
        name=name,
        num_blocks=num_blocks,
        num_heads=num_heads,
        head_dim=width // num_heads,
        width=width,
        mlp_hidden=mlp_hidden,
        num_tokens=num_tokens,
        classifier_flops=2 * width * num_classes,
        trunk_parameters=embedding + num_blocks * 6 * width + classifier,
        classifier_parameters=classifier,
        num_qkv_maps=3,
        norm_first=False,
    )
