import json

import pytest
import yaml

from d2ft_sched.errors import InputError
from d2ft_sched.model.shape_file import ShapeSchema, known_vision_transformers, load_model_shape


def test_a_shape_round_trips_through_a_file(tmp_path):
    shape = load_model_shape("vit_tiny_patch16_224", num_classes=3)
    for name, dump in (("s.yaml", yaml.safe_dump), ("s.json", json.dumps)):
        path = tmp_path / name
        path.write_text(dump(ShapeSchema.from_shape(shape).model_dump()))
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
