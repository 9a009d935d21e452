import math
import re

import pytest

from d2ft_sched.files.quantity import Dimension, parse_quantity


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("24 GiB", Dimension.BYTES, 24 * 2**30),
        ("24 GB", Dimension.BYTES, 24e9),
        ("512MiB", Dimension.BYTES, 512 * 2**20),
        ("1000", Dimension.BYTES, 1000),
        ("1e9", Dimension.BYTES, 1e9),
        (1000, Dimension.BYTES, 1000),
        ("10 Gbit/s", Dimension.BYTES_PER_S, 1.25e9),
        ("10 Gbps", Dimension.BYTES_PER_S, 1.25e9),
        ("1.2 GB/s", Dimension.BYTES_PER_S, 1.2e9),
        ("100 Mbit/s", Dimension.BYTES_PER_S, 12.5e6),
        ("12 TFLOP/s", Dimension.FLOPS_PER_S, 12e12),
        ("1.5 PFLOPS", Dimension.FLOPS_PER_S, 1.5e15),
        ("50 us", Dimension.SECONDS, 50e-6),
        ("50 µs", Dimension.SECONDS, 50e-6),
        ("3 ms", Dimension.SECONDS, 3e-3),
        ("350 W", Dimension.WATTS, 350),
        ("0.35 kW", Dimension.WATTS, 350),
    ],
)
def test_numbers_and_units(text, dimension, value):
    assert parse_quantity(text, dimension) == value


@pytest.mark.parametrize(
    ("value", "dimension", "message"),
    [
        ("24 GHz", Dimension.BYTES, "unknown unit 'GHz'"),
        ("24 GB", Dimension.BYTES_PER_S, "'GB' is a unit of bytes; bytes/s are wanted"),
        ("10 Gbit/s", Dimension.BYTES, "'Gbit/s' is a unit of bytes/s; bytes are wanted"),
        ("10 Gb/s", Dimension.BYTES_PER_S, "unknown unit 'Gb/s'"),
        ("fast", Dimension.BYTES_PER_S, "write a number of bytes/s or text like '10 Gbit/s'"),
        ("1 2 GB", Dimension.BYTES, "write a number"),
        ("", Dimension.BYTES, "write a number"),
        (True, Dimension.BYTES, "write a number"),
        (None, Dimension.BYTES, "write a number"),
        ([1], Dimension.BYTES, "write a number"),
        (math.nan, Dimension.BYTES, "finite"),
        (math.inf, Dimension.BYTES, "finite"),
        ("1e999 s", Dimension.SECONDS, "finite"),
    ],
)
def test_what_is_refused(value, dimension, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_quantity(value, dimension)
