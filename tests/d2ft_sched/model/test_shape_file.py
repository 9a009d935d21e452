import json
from dataclasses import asdict, replace

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched.errors import InputError
from d2ft_sched.model.lora import Lora
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import MOST, MOST_HEADS, ModelShape
from d2ft_sched.model.shape_file import known_vision_transformers, load_model_shape
from d2ft_sched.model.workload import Workload


def test_a_shape_round_trips_through_a_file(tmp_path):
    shape = load_model_shape("vit_tiny_patch16_224", num_classes=3)
    for name, dump in (("s.yaml", yaml.safe_dump), ("s.json", json.dumps)):
        path = tmp_path / name
        path.write_text(dump(asdict(shape)))
        assert load_model_shape(str(path)) == shape


def test_image_size_sets_the_tokens():
    assert load_model_shape("vit_small_patch14_dinov2", image_size=112).num_tokens == 65
    assert load_model_shape("vit_small_patch14_dinov2").num_tokens == 37 * 37 + 1


def test_published_parameter_counts():
    published = {
        "vit_tiny_patch16_224": 5_717_416,
        "vit_small_patch16_224": 22_050_664,
        "vit_base_patch16_224": 86_567_656,
        "vit_large_patch16_224": 304_326_632,
    }
    for name, num_parameters in published.items():
        assert load_model_shape(name, num_classes=1000).num_parameters == num_parameters
    assert set(published) < set(known_vision_transformers())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("[1, 2]", "content is"),
        ("name: x", "num_blocks is missing"),
        ("{", "is not YAML"),
        (
            "{name: x, num_blocks: 2, num_heads: 0, head_dim: 1, width: 1, mlp_hidden: 1, "
            "num_tokens: 1}",
            "num_heads is 0",
        ),
        (
            "{name: x, num_blocks: 1, num_heads: 1, head_dim: 1, width: 1, mlp_hidden: 1, "
            "num_tokens: 1, trunk_parameters: 3, classifier_parameters: 10}",
            "classifier_parameters is 10; trunk_parameters, which count them too, are 3",
        ),
        (
            "{name: x, num_blocks: two, num_heads: 1, head_dim: 1, width: 1, mlp_hidden: 1, "
            "num_tokens: 1}",
            "num_blocks is 'two'",
        ),
    ],
)
def test_a_file_that_is_no_shape_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "shape.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load_model_shape(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_names_and_sizes_are_refused():
    with pytest.raises(InputError, match="'vit_nano' is not in the table"):
        load_model_shape("vit_nano")
    with pytest.raises(InputError, match="image size 100 is not a multiple"):
        load_model_shape("vit_tiny_patch16_224", image_size=100)
    with pytest.raises(InputError, match="image size 0 is not a multiple"):
        load_model_shape("vit_tiny_patch16_224", image_size=0)
    with pytest.raises(InputError, match="cannot be read"):
        load_model_shape("missing.yaml")


SMALL = ModelShape("small", 2, 3, 4, 12, 48, 5)


@pytest.mark.parametrize("field", MOST)
@given(beyond=st.integers(1, 10**40))
@settings(max_examples=15, deadline=None)
def test_sizes_that_no_machine_has_are_refused_by_field(field: str, beyond: int) -> None:
    with pytest.raises(InputError, match=f"{field} is .*; it must be at most") as caught:
        replace(SMALL, **{field: MOST[field] + beyond})
    assert len(str(caught.value)) < 120
    with pytest.raises(InputError, match=f"{field} is .*; it must be a whole number of at least"):
        replace(SMALL, **{field: -beyond})


def test_heads_of_all_blocks_are_bounded_together() -> None:
    assert replace(SMALL, num_blocks=MOST_HEADS // 10, num_heads=10)
    with pytest.raises(InputError, match="num_blocks is 10000 and num_heads 10000; together"):
        replace(SMALL, num_blocks=10_000, num_heads=10_000)


@pytest.mark.parametrize("image_size", [16 * 1001, 16 * 10**6, 16 * 10**30])
def test_an_image_size_of_too_many_patches_is_refused(image_size: int) -> None:
    with pytest.raises(InputError, match="patches of vit_tiny_patch16_224; they must be at most"):
        load_model_shape("vit_tiny_patch16_224", image_size=image_size)


@pytest.mark.parametrize("num_classes", [0, -1, 10**6 + 1, 10**400])
@pytest.mark.parametrize("model", ["vit_tiny_patch16_224", "minilm-l6"])
def test_a_number_of_classes_that_nobody_has_is_refused(model: str, num_classes: int) -> None:
    with pytest.raises(InputError, match=r"the number of classes is .* must be 1 to 1000000"):
        load_model_shape(model, num_classes=num_classes)


@given(rank=st.one_of(st.integers(1, 40), st.integers(1, 10**400)))
def test_adapters_have_at_most_the_rank_of_what_they_adapt(rank: int) -> None:
    partition = partition_by_heads(SMALL, 1)
    if rank <= SMALL.width:
        assert Workload(SMALL, partition, (1,), lora=Lora(rank, 1.0)).lora.rank == rank
        return
    with pytest.raises(InputError, match="must be at most the width of small, 12") as caught:
        Workload(SMALL, partition, (1,), lora=Lora(rank, 1.0))
    assert len(str(caught.value)) < 100
