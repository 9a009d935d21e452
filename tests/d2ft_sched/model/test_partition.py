import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2ft_sched.errors import InputError
from d2ft_sched.model.partition import Partition, Subnet, partition_by_heads
from d2ft_sched.model.shape import ModelShape, vision_transformer_shape


def shape(num_blocks: int = 3, num_heads: int = 6, mlp_hidden: int = 50) -> ModelShape:
    return ModelShape("m", num_blocks, num_heads, 4, 4 * num_heads, mlp_hidden, 5)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(1, 4), st.integers(1, 97))
def test_every_head_and_hidden_unit_is_in_exactly_one_subnet(sizes, num_blocks, mlp_hidden):
    partition = partition_by_heads(shape(num_blocks, sum(sizes), mlp_hidden), sizes)
    for block in range(num_blocks):
        subnets = [partition.subnets[s] for s in partition.of_block(block)]
        assert [len(s.heads) for s in subnets] == sizes
        assert sorted(h for s in subnets for h in s.heads) == list(range(sum(sizes)))
        units = [u for s in subnets for u in range(s.hidden_start, s.hidden_stop)]
        assert sorted(units) == list(range(mlp_hidden))
        for s in subnets:
            assert abs(s.num_hidden - mlp_hidden * len(s.heads) / sum(sizes)) < 1


def test_arrays_follow_the_subnets():
    partition = partition_by_heads(shape(2, 6, 12), [1, 2, 3])
    assert partition.block.tolist() == [0, 0, 0, 1, 1, 1]
    assert partition.heads.tolist() == [1, 2, 3] * 2
    assert partition.hidden.tolist() == [2, 4, 6] * 2


@pytest.mark.parametrize("size", [0, 4, 7, -1])
def test_a_size_that_does_not_divide_the_heads_is_refused(size):
    with pytest.raises(InputError, match=f"heads per subnet is {size}.*divide the 6"):
        partition_by_heads(shape(), size)


def test_sizes_that_do_not_add_up_are_refused():
    with pytest.raises(InputError, match=r"\[1, 2\].*add up to the 6"):
        partition_by_heads(shape(), [1, 2])


@pytest.mark.parametrize(
    ("subnets", "message"),
    [
        ([Subnet(0, (0,), 0, 8)], "heads"),
        ([Subnet(0, (0, 1), 0, 4), Subnet(0, (1,), 4, 8)], "heads"),
        ([Subnet(0, (0, 1), 0, 7)], "7 hidden units of 8"),
        ([Subnet(0, (0,), 0, 5), Subnet(0, (1,), 4, 8)], "follow one another"),
        ([], "blocks"),
    ],
)
def test_a_partition_that_does_not_cover_is_refused(subnets, message):
    with pytest.raises(InputError, match=message):
        Partition(tuple(subnets), num_blocks=1, num_heads=2, mlp_hidden=8)


def test_parameters_add_up_to_the_published_size():
    vit_s = vision_transformer_shape(
        "vit_small_patch16_224",
        image_size=224,
        patch_size=16,
        width=384,
        num_blocks=12,
        num_heads=6,
        mlp_hidden=1536,
        num_classes=1000,
    )
    assert vit_s.num_parameters == 22_050_664
    assert np.isclose(vit_s.num_tokens, 197)
