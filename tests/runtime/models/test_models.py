"""Models by name, their shapes, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer

from d2ft_sched.costs.memory import subnet_parameters
from d2ft_sched.errors import InputError
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape_file import load_model_shape
from d2ft_sched.model.workload import Workload
from runtime.families.vit_weights import load_vit_weights
from runtime.models.build import build_model, check_known, check_supported, shape_of
from runtime.models.weights import save_weights


@pytest.mark.parametrize(
    ("name", "image_size"),
    [("vit_tiny_patch16_224", 64), ("vit_small_patch14_dinov2", 56), ("vit_small_patch16_224", 48)],
)
def test_shape_equals_the_shipped_table_and_counts_every_parameter(
    name: str, image_size: int
) -> None:
    model = build_model(name, image_size=image_size, num_classes=7)
    shape = shape_of(model)
    assert shape == load_model_shape(name, image_size=image_size, num_classes=7)
    assert shape.num_parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"init_values": 0.1, "qkv_bias": False},
        {"class_token": False, "global_pool": "avg", "reg_tokens": 3},
        {"proj_bias": False, "pre_norm": True, "mlp_ratio": 2},
    ],
)
def test_trunk_parameters_are_those_outside_the_linear_maps_of_blocks(
    small_vit: Callable[..., VisionTransformer], options: dict
) -> None:
    model = small_vit(**options)
    shape = shape_of(model)
    in_subnets = sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if ".qkv." in name or ".fc1." in name or name.endswith(("proj.weight", "fc2.weight"))
        if name.startswith("blocks.")
    )
    partition = partition_by_heads(shape, 2)
    assert subnet_parameters(Workload(shape, partition, (1,))).sum() == in_subnets
    assert shape.trunk_parameters == shape.num_parameters - in_subnets
    assert shape.layer_scale == ("init_values" in options)


def test_random_weights_follow_the_seed_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    sizes = {"image_size": 32, "num_classes": 3}
    first = build_model("vit_tiny_patch16_224", seed=1, **sizes).state_dict()
    again = build_model("vit_tiny_patch16_224", seed=1, **sizes).state_dict()
    other = build_model("vit_tiny_patch16_224", seed=2, **sizes).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_smal_patch16_224", "is not a model of timm .* close to it are vit_small_patch16_224"),
        ("resnet18", "is a ResNet; only timm's VisionTransformer"),
        ("deit_tiny_distilled_patch16_224", "is a VisionTransformerDistilled"),
        ("vit_pwee_patch16_reg1_gap_256", "has blocks of another kind"),
        ("vit_wee_patch16_reg1_gap_256", None),
    ],
)
def test_unknown_and_unfit_models_are_refused(name: str, message: str | None) -> None:
    if message is None:
        assert build_model(name, image_size=32).num_prefix_tokens == 1
        return
    with pytest.raises(InputError, match=message) as caught:
        build_model(name)
    assert "\n" not in str(caught.value)


def test_a_model_of_sizes_only_cannot_be_run() -> None:
    check_known("vit_tiny_patch16_224")
    check_known("bert-base-uncased")
    with pytest.raises(InputError, match="'gpt-large' can be planned and simulated, but not run"):
        check_known("gpt-large")


@pytest.mark.parametrize(
    ("options", "trait"),
    [
        ({"qk_norm": True}, "normed queries and keys"),
        ({"global_pool": "map"}, "attention pooling"),
        ({"drop_path_rate": 0.1}, "stochastic depth"),
        ({"attn_drop_rate": 0.1}, "dropout"),
        ({"patch_drop_rate": 0.5}, "dropped patches"),
        ({"num_classes": 0}, "no linear classifier"),
        ({"mlp_layer": timm.layers.SwiGLU}, "an MLP of the kind SwiGLU"),
        ({"img_size": 30}, "30 x 30 pixel images that 14 x 14 patches do not fill"),
    ],
)
def test_what_lanes_cannot_compute_is_named(
    small_vit: Callable[..., VisionTransformer], options: dict, trait: str
) -> None:
    with pytest.raises(InputError, match=trait):
        check_supported(small_vit(**options))


def test_image_size_and_classes_are_checked() -> None:
    with pytest.raises(InputError, match="100 x 100 pixel images"):
        build_model("vit_tiny_patch16_224", image_size=100)
    with pytest.raises(InputError, match="the image size is 0"):
        build_model("vit_tiny_patch16_224", image_size=0)
    with pytest.raises(InputError, match="the number of classes is 0"):
        build_model("vit_tiny_patch16_224", num_classes=0)
    with pytest.raises(InputError, match="choose one"):
        build_model("vit_tiny_patch16_224", weights="x.safetensors", pretrained=True)


def test_weights_round_trip_in_timms_layout(
    small_vit: Callable[..., VisionTransformer], tmp_path: Path
) -> None:
    model = small_vit(torch.float32, init_values=0.1)
    path = tmp_path / "weights.safetensors"
    save_weights(model, path)
    assert set(load_file(path)) == set(model.state_dict())
    other = small_vit(torch.float32, init_values=0.1)
    torch.nn.init.zeros_(other.head.weight)
    load_vit_weights(other, path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)


def test_another_image_size_interpolates_positions_and_another_classifier_stays(
    small_vit: Callable[..., VisionTransformer], tmp_path: Path
) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(small_vit(torch.float32), path)
    larger = small_vit(torch.float32, img_size=56, num_classes=9)
    head = larger.head.weight.detach().clone()
    load_vit_weights(larger, path)
    assert larger.pos_embed.shape == (1, 17, 48)
    assert torch.equal(larger.head.weight, head)


def test_weights_of_another_model_name_the_first_wrong_tensor(
    small_vit: Callable[..., VisionTransformer], tmp_path: Path
) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(small_vit(torch.float32, embed_dim=24), path)
    with pytest.raises(InputError, match=r"tensor cls_token has shape \[1, 1, 24\]"):
        load_vit_weights(small_vit(torch.float32), path)
    save_weights(small_vit(torch.float32, depth=2), path)
    with pytest.raises(InputError, match=r"lacks tensor blocks.2.norm1.weight \[48\]"):
        load_vit_weights(small_vit(torch.float32), path)
    save_weights(small_vit(torch.float32, depth=4), path)
    with pytest.raises(InputError, match=r"has tensor blocks.3.\S+ \[\d+.*the model has not"):
        load_vit_weights(small_vit(torch.float32), path)


def test_weights_without_a_grid_or_with_a_scalar_are_refused(
    small_vit: Callable[..., VisionTransformer], tmp_path: Path
) -> None:
    path, model = tmp_path / "weights.safetensors", small_vit(torch.float32)
    for name, tensor, message in (
        ("pos_embed", torch.zeros(1, 0, 48), r"pos_embed \[1, 0, 48\], .* cannot be resized"),
        ("pos_embed", torch.zeros(1, 1, 48), r"pos_embed \[1, 1, 48\], .* cannot be resized"),
        ("head.bias", torch.tensor(1.0), r"head.bias has shape \[\]"),
    ):
        save_file(model.state_dict() | {name: tensor}, path)
        with pytest.raises(InputError, match=message):
            load_vit_weights(model, path)


def test_unreadable_weights_are_refused(
    small_vit: Callable[..., VisionTransformer], tmp_path: Path
) -> None:
    model = small_vit(torch.float32)
    with pytest.raises(InputError, match="there is no such file"):
        load_vit_weights(model, tmp_path / "missing.safetensors")
    path = tmp_path / "cut.safetensors"
    save_file({"head.weight": torch.zeros(5, 48)}, path)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(InputError, match="is not a whole safetensors file"):
        load_vit_weights(model, path)
