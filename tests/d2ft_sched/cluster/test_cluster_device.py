import dataclasses
import math
import warnings

import numpy as np
import pytest

from d2ft_sched.cluster.compute_curve import ComputeCurve, WorkKind
from d2ft_sched.cluster.device import Device, OutOfCalibrationWarning
from d2ft_sched.cluster.device_file import DeviceFileError, dump_device, load_device
from d2ft_sched.cluster.device_presets import preset_device, preset_names
from d2ft_sched.errors import InputError

PLAIN = Device("plain", 1e12, 10**10, 1e11, launch_s=1e-5)
CURVE = ComputeCurve((1e9, 4e9), (1e-3, 3e-3))


def test_roofline():
    flops = np.array([0.0, 1e10, 1e6, 0.0])
    moved = np.array([0.0, 1e6, 1e9, 1e8])
    seconds = PLAIN.seconds(WorkKind.MLP_FORWARD, flops, moved)
    np.testing.assert_allclose(seconds, [0.0, 1e-5 + 1e-2, 1e-5 + 1e-2, 1e-5 + 1e-3])
    assert not PLAIN.is_calibrated(WorkKind.MLP_FORWARD)


def test_what_does_not_overlap_adds_up(tmp_path):
    device = dataclasses.replace(PLAIN, overlaps=False)
    seconds = device.seconds(WorkKind.MLP_FORWARD, np.array([0.0, 1e10]), np.array([0.0, 1e9]))
    np.testing.assert_allclose(seconds, [0.0, 1e-5 + 1e-2 + 1e-2])
    path = tmp_path / "device.yaml"
    dump_device(device, path)
    assert load_device(path) == device


def test_roofline_broadcasts():
    assert PLAIN.seconds(WorkKind.OPTIMIZER, 0.0, np.ones((2, 3))).shape == (2, 3)


def test_calibrated_kinds_read_their_own_axis():
    device = dataclasses.replace(
        PLAIN, curves={WorkKind.MLP_FORWARD: CURVE, WorkKind.OPTIMIZER: CURVE}
    )
    assert device.is_calibrated(WorkKind.MLP_FORWARD)
    assert device.seconds(WorkKind.MLP_FORWARD, 2.5e9, 4e9) == pytest.approx(2e-3)
    assert device.seconds(WorkKind.OPTIMIZER, 4e9, 2.5e9) == pytest.approx(2e-3)
    roofline = device.seconds(WorkKind.MLP_BACKWARD, 2.5e9, 0.0)
    assert roofline == pytest.approx(1e-5 + 2.5e-3)


def test_outside_the_calibrated_range_warns_once_with_device_kind_range_and_value():
    device = dataclasses.replace(PLAIN, name="warned", curves={WorkKind.MLP_FORWARD: CURVE})
    with pytest.warns(OutOfCalibrationWarning) as caught:
        device.seconds(WorkKind.MLP_FORWARD, np.array([0.0, 2e9, 8e9]), 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        device.seconds(WorkKind.MLP_FORWARD, 9e9, 0.0)
    (warning,) = caught
    for part in ("'warned'", "mlp_forward", "1e+09 to 4e+09 FLOPs", "8e+09"):
        assert part in str(warning.message)
    assert "\n" not in str(warning.message)


def test_inside_the_range_and_no_work_do_not_warn():
    device = dataclasses.replace(PLAIN, name="quiet", curves={WorkKind.MLP_FORWARD: CURVE})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        device.seconds(WorkKind.MLP_FORWARD, np.array([0.0, 1e9, 4e9]), 0.0)


def test_scaled():
    device = dataclasses.replace(
        PLAIN, name="scaled", curves={WorkKind.MLP_FORWARD: CURVE, WorkKind.OPTIMIZER: CURVE}
    )
    faster = device.scaled(compute=2.0, memory_bandwidth=4.0, memory=0.5)
    assert faster.memory_bytes == 5 * 10**9
    assert faster.seconds(WorkKind.MLP_FORWARD, 2e9, 0.0) == pytest.approx(
        device.seconds(WorkKind.MLP_FORWARD, 2e9, 0.0) / 2
    )
    assert faster.seconds(WorkKind.OPTIMIZER, 0.0, 2e9) == pytest.approx(
        device.seconds(WorkKind.OPTIMIZER, 0.0, 2e9) / 4
    )
    assert faster.seconds(WorkKind.ATTENTION_FORWARD, 1e12, 0.0) == pytest.approx(0.5 + 1e-5)
    with pytest.raises(InputError, match="compute is scaled by 0"):
        device.scaled(compute=0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("compute_flops_per_s", 0.0),
        ("memory_bytes", -1),
        ("memory_bandwidth_bytes_per_s", math.nan),
        ("launch_s", -1e-9),
        ("power_w", math.inf),
        ("idle_power_w", -1.0),
        ("price_per_hour", -0.1),
    ],
)
def test_impossible_devices(field, value):
    with pytest.raises(InputError, match=f"device 'plain': {field} is {value}"):
        dataclasses.replace(PLAIN, **{field: value})


def test_idling_takes_no_more_power_than_computing():
    assert dataclasses.replace(PLAIN, power_w=80.0, idle_power_w=80.0).idle_power_w == 80.0
    with pytest.raises(InputError, match=r"idle_power_w is 81\.0; it must be at most power_w"):
        dataclasses.replace(PLAIN, power_w=80.0, idle_power_w=81.0)


def test_presets_sustain_a_fraction_of_their_datasheet():
    for name in preset_names():
        device = preset_device(name, "x")
        assert device.power_w
        assert "power_w is its limit" in device.source
        assert device.price_per_hour is None
        assert device.idle_power_w is None
        assert "assumed" in device.source
        full = preset_device(name, "x", efficiency=1.0)
        assert device.compute_flops_per_s < full.compute_flops_per_s
    assert preset_device("t4", "x", efficiency=1.0).compute_flops_per_s == pytest.approx(8.1e12)
    a100 = preset_device("a100-sxm-80gb", "x", precision="bfloat16", efficiency=0.5)
    assert a100.compute_flops_per_s == pytest.approx(156e12)
    assert a100.memory_bytes == 80 * 10**9


def test_unknown_preset_or_precision():
    with pytest.raises(InputError, match="preset is 'gpu-9000'; known are h100-sxm"):
        preset_device("gpu-9000", "x")
    with pytest.raises(InputError, match="precision is 'bfloat16'; t4 has figures for float32"):
        preset_device("t4", "x", precision="bfloat16")


def test_device_file_round_trip(tmp_path):
    device = Device(
        "laptop",
        1.23456789e12 / 7,
        8 * 10**9 + 1,
        2.2e11 / 3,
        launch_s=1 / 3e5,
        curves={WorkKind.MLP_FORWARD: CURVE, WorkKind.TRUNK_BACKWARD: CURVE.scaled(3.0)},
        price_per_hour=0.1,
        power_w=80.5,
        idle_power_w=9.25,
        source="measured: CPU, float32",
    )
    dump_device(device, tmp_path / "laptop.yaml")
    assert load_device(tmp_path / "laptop.yaml") == device
    assert [p.name for p in tmp_path.iterdir()] == ["laptop.yaml"]


def test_damaged_device_file(tmp_path):
    path = tmp_path / "d.yaml"
    path.write_text("name: x\ncompute_flops_per_s: 1e12\nmemory_bytes: 1 GB\n")
    with pytest.raises(DeviceFileError) as error:
        load_device(path)
    assert str(error.value) == (
        f"{path}: device.memory_bandwidth_bytes_per_s is missing; give it, or a preset or file"
    )
