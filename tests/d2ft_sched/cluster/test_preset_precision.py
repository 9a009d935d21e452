"""Figures of presets in the precision of what is to run on them."""

import warnings
from pathlib import Path

import pytest

from d2ft_sched.cluster.cluster_file import cluster_from_dict, cluster_to_dict, load_cluster
from d2ft_sched.cluster.device_presets import OtherPrecisionWarning, preset_device, preset_names
from d2ft_sched.errors import InputError

CLUSTER = """
name: lab
devices: [{devices}]
network: {{kind: full_mesh, bandwidth_bytes_per_s: 1e9, latency_s: 1e-5}}
"""


def rates(folder: Path, devices: str, precision: str) -> list[float]:
    path = folder / "lab.yaml"
    path.write_text(CLUSTER.format(devices=devices))
    return [d.compute_flops_per_s for d in load_cluster(path, precision).devices]


@pytest.mark.parametrize("preset", preset_names())
def test_a_preset_follows_the_precision_or_says_that_it_cannot(preset: str, tmp_path: Path) -> None:
    line = f"{{name: a, preset: {preset}, count: 3}}"
    float32 = preset_device(preset, "a").compute_flops_per_s
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = rates(tmp_path, line, "bfloat16")
        assert rates(tmp_path, line, "float32") == [float32] * 3
    if caught:
        assert {w.category for w in caught} == {OtherPrecisionWarning}
        assert f"preset {preset} has no figures for bfloat16" in str(caught[0].message)
        assert found == [float32] * 3
    else:
        own = preset_device(preset, "a", precision="bfloat16").compute_flops_per_s
        assert found == [own] * 3


def test_a_precision_in_the_file_stands_and_files_of_devices_follow(tmp_path: Path) -> None:
    (tmp_path / "device.yaml").write_text("{name: inner, preset: a100-sxm-80gb}")
    line = (
        "{name: a, preset: a100-sxm-80gb}, {name: b, preset: a100-sxm-80gb, precision: float32}, "
        "{name: c, preset: t4, precision: float16}, {name: d, file: device.yaml}"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        a, b, c, d = rates(tmp_path, line, "bfloat16")
    assert a == d == preset_device("a100-sxm-80gb", "x", precision="bfloat16").compute_flops_per_s
    assert b == preset_device("a100-sxm-80gb", "x").compute_flops_per_s
    assert c == preset_device("t4", "x", precision="float16").compute_flops_per_s


MEASURED = """{name: m, compute_flops_per_s: 1e12, memory_bytes: 8 GB,
    memory_bandwidth_bytes_per_s: 1e11, precision: PRECISION,
    curves: {mlp_forward: {work: [1e6, 1e9], seconds: [1e-5, 1e-2]}}}"""


@pytest.mark.parametrize("measured", ["float32", "bfloat16"])
@pytest.mark.parametrize("wanted", ["float32", "bfloat16", None])
def test_times_measured_in_another_precision_are_said_to_stand_in(
    measured: str, wanted: str | None, tmp_path: Path
) -> None:
    (tmp_path / "device.yaml").write_text(MEASURED.replace("PRECISION", measured))
    path = tmp_path / "lab.yaml"
    path.write_text(CLUSTER.format(devices="{name: d, file: device.yaml, count: 2}"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cluster = load_cluster(path, wanted)
    assert [d.precision for d in cluster.devices] == [measured] * 2
    assert bool(caught) == (wanted not in (None, measured))
    for warning in caught:
        assert warning.category is OtherPrecisionWarning
        assert f"device m was measured in {measured}" in str(warning.message)
    assert cluster_from_dict(cluster_to_dict(cluster)) == cluster


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (MEASURED.replace("PRECISION", "int3"), "precision is 'int3'; it must be one of float32"),
        (
            "{name: m, compute_flops_per_s: 1, memory_bytes: 1, memory_bandwidth_bytes_per_s: 1, "
            "precision: float32}",
            "precision goes with a preset or curves",
        ),
    ],
)
def test_a_precision_of_nothing_that_is_known_is_refused(
    line: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        rates(tmp_path, line, "float32")
