"""Contents of cluster files that tests begin with."""

DEVICE = {
    "compute_flops_per_s": "12 TFLOP/s",
    "memory_bytes": "24 GiB",
    "memory_bandwidth_bytes_per_s": "900 GB/s",
}
CABLE = {"bandwidth_bytes_per_s": "10 Gbit/s", "latency_s": "50 us"}


def content(*names: str, network: dict | None = None) -> dict:
    return {
        "name": "lab",
        "devices": [{"name": n, **DEVICE} for n in names or ("a", "b")],
        "network": network or {"kind": "star", **CABLE},
    }
