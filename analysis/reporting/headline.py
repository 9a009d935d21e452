"""The first screen of the report: what is saved, how sure that is, what it costs in accuracy."""

from dataclasses import dataclass

from analysis.console.formatting import (
    less_or_more,
    percent,
    points,
    points_within,
    quantity,
    saved,
    sentence_start,
)
from analysis.planning.way_words import trained_text
from analysis.plots.style import run_title
from analysis.results.run_dir import Run
from analysis.results.savings import (
    accuracy_interval,
    cluster_savings,
    device_pairs,
    device_savings,
    rank_correlation,
    worst_error,
)
from d2ft_sched.files.counted import counted
from d2ft_sched.plan.solved_plan import Plan
from d2ft_sched.schedule.operations import trains_in_step


@dataclass(frozen=True)
class Answer:
    """One question with its figure, where that comes from, and what stands behind it."""

    question: str
    figure: str
    basis: str
    facts: tuple[str, ...]


def question(run: Run) -> str:
    """What was asked, in one sentence."""
    plan, data = run.plan, run.measurement.data
    shape, budget = plan.workload.shape, plan.budget
    return (
        f"What does D2FT save, and what does it cost, when {shape.name} "
        f"({counted(shape.num_blocks, 'block')} of {counted(shape.num_heads, 'head')}) is "
        f"fine-tuned on {data.name} "
        f"({data.num_train:,} training and {data.num_test:,} test images of {data.image_size} px, "
        f"{counted(data.num_classes, 'class')}) on cluster {plan.cluster.name} "
        f"({counted(len(plan.cluster.devices), 'device')}) with {percent(budget.compute, 0)} "
        f"of the dense "
        f"run's compute and {percent(budget.communication, 0)} of its gradients' bytes? "
        f"{run.prediction.verdict}."
    )


def answers(run: Run) -> tuple[Answer, Answer, Answer]:
    """The three answers in the order in which they are asked."""
    return _saving(run), _certainty(run), _accuracy(run)


def _saving(run: Run) -> Answer:
    cluster, device = cluster_savings(run.prediction.cluster), device_savings(run)
    predicted = changes(
        ("FLOPs", cluster["flops"].predicted),
        ("bytes exchanged", cluster["exchange_bytes"].predicted),
        ("peak memory of the fullest device", cluster["peak_memory_bytes"].predicted),
    )
    measured = changes(
        ("step time", device["step_s"].measured),
        ("FLOPs", device["flops"].measured),
        ("peak memory", device["peak_memory_bytes"].measured),
    )
    return Answer(
        "What will I save?",
        saved(cluster["step_s"].predicted or 0.0, "step time"),
        f"predicted for cluster {run.plan.cluster.name}, against the best dense way, "
        f"{run.prediction.ways['dense']}",
        (
            f"Also predicted there: {predicted}.",
            f"Measured on one device ({run.measurement.device}): {measured}.",
            _beside_fewer(run),
        ),
    )


def _beside_fewer(run: Run) -> str:
    """The plan beside fewer samples, in words."""
    plan_s, fewer_s = (run.prediction.cluster[name].step_s for name in ("plan", "fewer"))
    return (
        f"Fewer samples of the same compute, {run.prediction.ways['fewer']}, take "
        f"{quantity(fewer_s, 's')} a step: the plan's {quantity(plan_s, 's')} are "
        f"{less_or_more(1 - plan_s / fewer_s)}."
    )


def resting_text(plan: Plan) -> str:
    """How many heads or blocks train in a step, and which."""
    if trains_in_step(plan.schedule).all():
        return "Everything trains in every step."
    how = "always the same ones" if plan.budget.resting is None else "others in every step"
    return (
        f"{trained_text(plan)} train in a step, {how}; the others rest: they run and pass the "
        f"gradient on, and their weights are neither changed nor sent."
    )


def changes(*savings: tuple[str, float | None]) -> str:
    """Savings in words, those that are known."""
    return ", ".join(
        f"{title} {less_or_more(saving)}" for title, saving in savings if saving is not None
    )


def _certainty(run: Run) -> Answer:
    step_pairs = device_pairs(run, "step_s")
    saving = device_savings(run)["step_s"]
    facts = []
    if saving.predicted is not None and saving.measured is not None:
        facts.append(
            f"Saving of step time on one device: predicted {percent(saving.predicted)}, "
            f"measured {percent(saving.measured)}."
        )
    others = [
        f"{title} by at most {percent(error, 2)}"
        for title, attribute in (("FLOPs", "flops"), ("peak memory", "peak_memory_bytes"))
        if (error := worst_error(device_pairs(run, attribute))) is not None
    ]
    if others:
        facts.append(f"Predictions there are off in {' and in '.join(others)}.")
    tau = rank_correlation(step_pairs)
    if tau is not None:
        facts.append(
            f"Order of the {counted(len(step_pairs), 'run')} by step time, predicted against "
            f"measured: Kendall's tau {tau:.2f}."
        )
    source = (
        "measured curves of its devices"
        if run.prediction.cluster["plan"].calibrated
        else "figures given for its devices, not calibrated by measurement"
    )
    facts.append(f"The cluster was simulated, not run: its predictions rest on {source}.")
    facts.append(resting_text(run.plan))
    error = worst_error(step_pairs)
    return Answer(
        "How sure is that?",
        f"off by up to {percent(error or 0.0)}",
        f"in step time, where prediction could be checked: {counted(len(step_pairs), 'run')} "
        f"on one device, not on the cluster",
        tuple(facts),
    )


def _accuracy(run: Run) -> Answer:
    training, num_test = run.measurement.training, run.measurement.data.num_test
    dense, plan = training["dense"].test_accuracy, training["plan"].test_accuracy
    interval = accuracy_interval(dense, plan, num_test)
    num_epochs = len(training["plan"].epochs)
    facts = [
        f"{sentence_start(run_title(name))}: {percent(other.test_accuracy)} "
        f"({points(other.test_accuracy - dense)})."
        for name, other in training.items()
        if name not in ("dense", "plan")
    ]
    inside = abs(plan - dense) <= interval
    facts.append(
        f"Over {num_test:,} test images chance alone moves such a difference by about "
        f"±{100 * interval:.1f} points (95 %): this one is "
        f"{'within that and may be none' if inside else 'beyond that'}."
    )
    facts.append("Each run was trained once (one seed): the spread over seeds is not known here.")
    return Answer(
        "What does it cost in accuracy?",
        points_within(plan - dense, interval),
        f"top-1 after {num_epochs} epoch{'s' if num_epochs > 1 else ''}: plan {percent(plan)}, "
        f"dense {percent(dense)}",
        tuple(facts),
    )
