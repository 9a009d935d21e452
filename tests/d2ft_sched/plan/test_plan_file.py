import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched.cluster.cluster import Cluster, Link
from d2ft_sched.cluster.device import Device
from d2ft_sched.deployment import deploy
from d2ft_sched.errors import InputError
from d2ft_sched.model.lora import Lora
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import ModelShape
from d2ft_sched.model.shape_file import load_model_shape
from d2ft_sched.model.workload import Workload
from d2ft_sched.plan import plan_file
from d2ft_sched.plan.plan_file import dump_plan, load_plan, parse_plan, save_plan
from d2ft_sched.plan.planning import make_plan
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.scores import Scores
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.replica import Replica

SHAPE = ModelShape("m", 2, 4, 8, 32, 64, 5, embed_flops=10, trunk_parameters=1000)
positive = st.floats(1e-3, 1e15)


@st.composite
def plans(draw):
    num_devices = draw(st.integers(1, 4))
    devices = tuple(
        Device(f"d{i}", draw(positive), 10**9, draw(positive), draw(st.floats(0, 1)))
        for i in range(num_devices)
    )
    links = tuple(
        Link(f"d{i}", "sw", draw(positive), draw(st.floats(0, 1))) for i in range(num_devices)
    )
    cluster = Cluster("c", devices, links, ("sw",))
    sizes = draw(st.sampled_from([1, 2, 4, [1, 3], [2, 1, 1]]))
    samples = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=4)))
    workload = Workload(SHAPE, partition_by_heads(SHAPE, sizes), samples)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    table = (workload.num_subnets, len(samples))
    budget = Budget(draw(st.floats(0.1, 1)), 1.0, draw(st.booleans()))
    scores = Scores(rng.random(table), rng.random(table))
    return make_plan(
        deploy(workload, cluster, num_waves=draw(st.integers(1, len(samples)))), scores, budget
    )


@settings(deadline=None, max_examples=30)
@given(plans())
def test_a_plan_round_trips_exactly(plan):
    assert parse_plan(dump_plan(plan)) == plan


@pytest.fixture
def plan():
    cluster = Cluster("one", (Device("d", 1e9, 10**9, 1e10),))
    workload = Workload(SHAPE, partition_by_heads(SHAPE, 1), (2, 2))
    return make_plan(deploy(workload, cluster), Scores(np.ones((8, 2)), np.ones((8, 2))), Budget())


def test_a_file_round_trips(plan, tmp_path):
    path = tmp_path / "deep" / "plan.json"
    save_plan(plan, path)
    assert load_plan(path) == plan
    assert [p.name for p in path.parent.iterdir()] == ["plan.json"]


def test_any_changed_value_is_noticed(plan):
    content = json.loads(dump_plan(plan))
    content["solver"]["objective"] += 1e-9
    with pytest.raises(InputError, match="does not match its sha256"):
        parse_plan(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("schedule"), "schedule is missing"),
        (lambda c: c.update(extra=1), "extra"),
        (lambda c: c["replicas"][0].update(num_waves="two"), "num_waves is 'two'"),
        (lambda c: c.update(version=1), "is a plan of version 1"),
        (lambda c: c.update(format="x"), "is not a plan file"),
        (lambda c: c["workload"]["shape"].pop("width"), "workload.shape.width is missing"),
    ],
)
def test_damage_is_named(plan, change, message):
    content = json.loads(dump_plan(plan))
    change(content)
    with pytest.raises(InputError, match=message):
        parse_plan(json.dumps(content))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule_rows": ("FF",) * 7}, "schedule has shape"),
        ({"schedule_rows": ("FX",) * 8}, "schedule row 0 is 'FX'"),
    ],
)
def test_a_plan_that_does_not_fit_its_workload_is_refused(plan, changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(plan, **changes)


def test_replicas_that_do_not_fit_are_refused(plan):
    (only,) = plan.replicas
    place = only.placement
    with pytest.raises(InputError, match="number of waves is 3"):
        Replica(place, 3)
    for replicas, message in (
        ((), "no replica"),
        ((only, only), "device 0 is in replicas 0 and 1"),
        ((Replica(dataclasses.replace(place, owner=(0,))),), "of 1 micro-batch;"),
        ((Replica(dataclasses.replace(place, subnet_device=(0,))),), "of 1 subnet;"),
        ((Replica(dataclasses.replace(place, num_devices=9)),), "is for 9 devices"),
    ):
        with pytest.raises(InputError, match=message):
            dataclasses.replace(plan, replicas=replicas)


def test_a_plan_from_before_there_were_decoders_is_read(plan):
    content = json.loads(dump_plan(plan))
    for name in ("format", "version", "sha256"):
        content.pop(name)
    for name in (
        "queries_per_head",
        "gated_mlp",
        "norm",
        "output_bias",
        "query_key_norm",
        "rotary",
        "causal",
        "vocabulary_size",
        "tied_vocabulary",
    ):
        content["workload"]["shape"].pop(name)
    content["workload"].pop("frozen_bytes")
    content["replicas"][0].pop("recomputing")
    header = {"format": "d2ft-plan", "version": 6, "sha256": plan_file._digest(content)}
    assert parse_plan(json.dumps(header | content)) == plan


def test_a_plan_carries_a_decoder_its_precisions_and_who_computes_again(plan):
    shape = load_model_shape("SmolLM2-135M", num_tokens=16)
    workload = Workload(
        shape, partition_by_heads(shape, 1), (2, 1), 2, lora=Lora(4, 8.0), frozen_bytes=2
    )
    place = Placement(1, (0,) * workload.num_subnets, (0, 0), (0,))
    changed = dataclasses.replace(
        plan,
        workload=workload,
        replicas=(Replica(place),),
        schedule_rows=("FF",) * workload.num_subnets,
    )
    read = parse_plan(dump_plan(changed))
    assert read == changed
    assert read.workload.shape.queries_per_head == 3
    assert read.replicas[0].placement.recomputing == (0,)


def test_a_plan_of_the_version_before_has_one_replica(plan):
    content = json.loads(dump_plan(plan))
    for name in ("format", "version", "sha256"):
        content.pop(name)
    replica = content.pop("replicas")[0]
    content["num_waves"] = replica.pop("num_waves")
    content["placement"] = replica
    header = {"format": "d2ft-plan", "version": 5, "sha256": plan_file._digest(content)}
    assert parse_plan(json.dumps(header | content)) == plan


@pytest.mark.parametrize(("aligned", "patterns"), [(True, 1), (False, None)])
def test_a_plan_that_says_whether_it_is_aligned_is_read(plan, aligned, patterns):
    content = json.loads(dump_plan(plan))
    for name in ("format", "version", "sha256"):
        content.pop(name)
    content["budget"].pop("patterns")
    content["budget"]["aligned"] = aligned
    header = {"format": "d2ft-plan", "version": 7, "sha256": plan_file._digest(content)}
    read = parse_plan(json.dumps(header | content))
    assert read.budget.patterns == patterns
    assert dataclasses.replace(read, budget=plan.budget) == plan
