"""``d2ft profile --cluster-out`` on ranks of this machine."""

import numpy as np

from d2ft_sched.cluster.cluster_file import load_cluster
from d2ft_sched.cluster.compute_curve import WorkKind
from d2ft_sched.deployment import deploy
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import vision_transformer_shape
from d2ft_sched.model.workload import Workload
from d2ft_sched.plan.planning import make_plan
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.scores import uniform_scores
from rank_processes import d2ft_on_ranks


def test_two_ranks_write_a_cluster_that_can_be_planned_for(tmp_path):
    out = tmp_path / "measured.yaml"
    d2ft_on_ranks(
        2, tmp_path, "profile", "--cluster-out", out, "--model", "vit_tiny_patch16_224",
        "--image-size", 32, "--heads-per-subnet", 3, "--microbatches", 2, "--microbatch-size", 2,
        "--repeats", 1, "--device", "cpu",
    )  # fmt: skip
    said = "".join((tmp_path / f"stdout-{rank}").read_text() for rank in (0, 1))
    assert "rank0 - " in said
    assert said.count("Wrote") == 1
    text = out.read_text()
    assert "# torch_version: " in text
    assert "# latency: includes what the collective itself costs" in text
    cluster = load_cluster(out)
    assert [device.name for device in cluster.devices] == ["rank0", "rank1"]
    for device in cluster.devices:
        assert set(device.curves) == set(WorkKind)
    assert np.isfinite(cluster.device_bandwidth_bytes_per_s()).all()
    shape = vision_transformer_shape(
        "vit_of_four_blocks", image_size=32, patch_size=16, width=192, num_blocks=4,
        num_heads=3, mlp_hidden=768, num_classes=10,
    )  # fmt: skip
    workload = Workload(shape, partition_by_heads(shape, 1), (2,) * 2)
    scores = uniform_scores(workload.num_subnets, workload.num_microbatches)
    plan = make_plan(deploy(workload, cluster), scores, Budget(0.6, 1.0))
    assert plan.cluster == cluster
