"""Pictures as timm evaluates a model, and changed by draws that follow from seed, epoch, sample."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

from runtime.data.input_format import PictureFormat
from runtime.data.pictures.transforms import (
    AUGMENTS,
    RAND_AUGMENT,
    Transforms,
    generators_kept,
    seed_generators,
)
from runtime.families.vit import VitFamily, normalize, picture_format
from runtime.models.build import build_on_meta, input_format_of, shape_of

CHANGES = [augment for augment in AUGMENTS if augment != "none"]


def noise(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width * height)
    return Image.fromarray(rng.integers(256, size=(height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    "name",
    [
        "vit_small_patch16_224.dino",
        "vit_tiny_patch16_224",
        "vit_small_patch14_dinov2",
        "vit_small_patch32_384.augreg_in21k_ft_in1k",
    ],
)
def test_a_model_is_evaluated_as_its_pretrained_cfg_says(name: str) -> None:
    model: Any = build_on_meta(name, image_size=None, num_tokens=None, num_classes=3)
    size = model.patch_embed.img_size[0]
    said = resolve_model_data_config(model, {"img_size": size})
    form = VitFamily().input_format(shape_of(model))
    assert form == picture_format(size, model.pretrained_cfg)
    assert form == input_format_of(shape_of(model), size)
    for picture in (noise(90, 70), noise(40, 51), noise(200, 200)):
        ours = normalize(Transforms(form).evaluated(picture)[None], form.mean, form.std)[0]
        theirs = create_transform(**said)(picture)
        assert torch.allclose(ours, theirs, atol=1e-5)


@given(
    augment=st.sampled_from(CHANGES),
    seed=st.integers(0, 2**32 - 1),
    epoch=st.integers(1, 1000),
    sample=st.integers(0, 2**31),
)
def test_changes_are_those_of_timm_for_the_same_draws(
    augment: Any, seed: int, epoch: int, sample: int
) -> None:
    form = PictureFormat(24, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    transforms, picture = Transforms(form, augment, seed), noise(40, 30)
    options: dict[str, Any] = {"scale": (0.5, 1.0), "color_jitter": 0.1, "interpolation": "bicubic"}
    if augment == "timm":
        options = {"auto_augment": RAND_AUGMENT, "re_prob": 0.25}
        options["interpolation"] = "random"
    with generators_kept():
        ours = normalize(transforms.trained(picture, epoch, sample)[None], form.mean, form.std)[0]
        seed_generators(seed, epoch, sample)
        theirs = create_transform(24, is_training=True, mean=form.mean, std=form.std, **options)(
            picture
        )
    half_a_level = 0.5 / 255 / min(form.std) + 1e-5
    erased = (theirs == 0).all(0)
    assert (ours - theirs)[:, ~erased].abs().max() < 1e-5
    assert (ours - theirs).abs().max() <= half_a_level


@pytest.mark.parametrize("augment", CHANGES)
def test_a_change_follows_from_seed_epoch_and_sample_and_leaves_no_trace(augment: Any) -> None:
    transforms, picture = Transforms(PictureFormat(16), augment, 3), noise(30, 30)
    random.seed(1)
    torch.manual_seed(1)
    before = random.getstate(), torch.get_rng_state()
    with generators_kept():
        first = transforms.trained(picture, 1, 5)
        others = [transforms.trained(picture, epoch, row) for epoch, row in ((2, 5), (1, 6))]
        others.append(Transforms(PictureFormat(16), augment, 4).trained(picture, 1, 5))
        again = transforms.trained(picture, 1, 5)
    assert torch.equal(first, again)
    assert not any(torch.equal(first, other) for other in others)
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


def test_no_magnitude_asks_for_what_pillow_refuses() -> None:
    transforms, picture = Transforms(PictureFormat(8), "timm"), noise(8, 8)
    with generators_kept():
        for row in range(1500):
            transforms.trained(picture, 1, row)


def test_a_rectangle_is_erased_in_a_quarter_of_pictures_with_the_mean_colour() -> None:
    form = PictureFormat(32)
    transforms, white = Transforms(form, "timm", 0), Image.new("RGB", (32, 32), "white")
    mean = torch.tensor([124, 116, 104], dtype=torch.uint8)[:, None, None]
    with generators_kept():
        changed = [transforms.trained(white, 1, row) for row in range(200)]
    num_erased = sum(bool((one == mean).all(0).any()) for one in changed)
    assert num_erased >= 25
