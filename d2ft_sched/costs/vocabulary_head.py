"""The head over a vocabulary, cut by tokens: its logits would be the largest activation of all.

So many tokens at a time pass the head, and have their loss and the gradient of their logits made at
once: what is kept for backward is the gradient of the head's input. Nothing is computed twice.
"""

import numpy as np

from d2ft_sched.model.workload import ELEMENT_BYTES, Workload

HEAD_CHUNK_TOKENS = 512
"""Tokens whose logits are there together."""

_FORWARD_PASSES, _BACKWARD_PASSES = 3, 3
"""Over logits in float32: written, read and written as logarithms of probabilities; then read and
written as gradients, and read by the product that follows."""


def head_bytes_moved(workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    """Bytes that the head and its loss read and write, forward and backward, float
    ``[num_microbatches]`` each.

    Weights are read once for each chunk, in either direction; gradients of weights are read and
    written.
    """
    shape, size = workload.shape, workload.element_bytes
    float32 = ELEMENT_BYTES["float32"]
    tokens = workload.tokens.astype(float)
    logits, stream = tokens * shape.vocabulary_size, tokens * shape.width * size
    weights = tokens / HEAD_CHUNK_TOKENS * shape.vocabulary_size * shape.width
    narrowed = 2 * size if size < float32 else 0
    forward = logits * (_FORWARD_PASSES * float32 + narrowed) + stream + weights * size
    backward = logits * (_BACKWARD_PASSES * float32 + narrowed) + stream + weights * size
    if workload.head_trains:
        backward = backward + logits * size + stream + weights * 2 * workload.parameter_bytes
    return forward, backward


def head_workspace_bytes(workload: Workload, tokens: np.ndarray) -> np.ndarray:
    """Bytes that the head needs for the largest chunk of so many tokens, as `tokens`.

    Its logits in float32, in whose place their gradient comes. Where products have another type
    there are, besides, a copy of logits in that type, one of the weights if they are not stored in
    it, and the product that is added to the weights' gradient.
    """
    shape, size = workload.shape, workload.element_bytes
    float32 = ELEMENT_BYTES["float32"]
    stored = workload.parameter_bytes if workload.lora is None else workload.frozen_bytes
    num_weights = shape.vocabulary_size * shape.width
    copies = (size < stored) + (workload.head_trains and size < workload.parameter_bytes)
    of_token = shape.vocabulary_size * (float32 + (size if size < float32 else 0))
    return np.minimum(tokens, HEAD_CHUNK_TOKENS) * of_token + (tokens > 0) * (
        copies * num_weights * size
    )


def head_gradient_values(workload: Workload) -> int:
    """Values of the gradient that backward makes first: that of the classifier, or of the embedding
    where the head is tied to it; none where it does not train."""
    if not workload.head_trains:
        return 0
    return workload.shape.classifier_parameters + embedding_again(workload)


def embedding_again(workload: Workload) -> int:
    """Values of an embedding whose gradient is made twice, as a head and as an embedding."""
    shape = workload.shape
    is_trained_twice = shape.tied_vocabulary and workload.head_trains
    return shape.vocabulary_size * shape.width if is_trained_twice else 0
