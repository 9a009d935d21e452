"""Samples dealt anew to the replicas of a plan, where devices compute at another pace."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.deployment import Deployment
from d2ft_sched.errors import InputError
from d2ft_sched.model.workload import Workload
from d2ft_sched.plan.redrawn import is_redrawable
from d2ft_sched.plan.sample_deal import SampleDeal
from d2ft_sched.schedule.operations import trains_in_step
from d2ft_sched.schedule.waves import running_microbatches
from sim.ways.candidates import whole_deal
from sim.ways.estimate.deal import load_schedule
from sim.ways.estimate.kept_cut import kept_cut
from sim.ways.estimate.load import Load, load_of
from sim.ways.estimate.steps import WaySteps
from sim.ways.price import price


@dataclass(frozen=True, eq=False)
class SampleDealer:
    """Deals the mini-batch of a plan to the same replicas, as the search over ways would.

    Every device keeps its weights, and every owner a sample at least; as many samples run, and the
    same subnets train on them.

    Attributes:
        planned: how it was dealt, with a schedule in which every subnet trains, or rests, in all
            that runs.
        cluster: devices and links as planned.
    """

    planned: SampleDeal
    cluster: Cluster

    def __post_init__(self) -> None:
        """Raises InputError if what a subnet does depends on the sample, or an owner cannot have
        one."""
        if not is_redrawable(self.planned.schedule):
            raise InputError(
                "--replan-every moves whole samples between replicas; this plan has subnets that "
                "do not the same with all of them, or forward alone: leave it out"
            )
        num_owners = len(set(self.planned.owner))
        if self._load.num_samples < num_owners:
            raise InputError(
                f"--replan-every moves samples between {num_owners} owners; this plan runs "
                f"{self._load.num_samples}: leave it out"
            )

    @cached_property
    def _load(self) -> Load:
        number = sum(self.planned.samples)
        return load_of(self.planned.workload, number, trains_in_step(self.planned.schedule))

    def at(self, slowness: Sequence[float]) -> SampleDeal:
        """How samples are dealt so that replicas end together.

        Args:
            slowness: of every device of the cluster, seconds over those planned.

        Returns:
            The planned deal where no other fits memory, leaves every owner a sample and makes the
            predicted step shorter.
        """
        then = slower(self.cluster, slowness)
        made = self._levelled(then)
        return self.planned if made is None else min((self.planned, made), key=_cost_on(then))

    def _levelled(self, cluster: Cluster) -> SampleDeal | None:
        """With level shares; None where memory cannot hold it, or an owner would have nothing."""
        load = self._load
        kept = {replica.devices: kept_cut(replica) for replica in self.planned.replicas}
        steps = WaySteps(self._workload, cluster, kept)
        found = steps.level(tuple(sorted(kept)), load)
        if found is None:
            return None
        share = dict(zip(found.groups, found.shares, strict=True))
        shares = tuple(share[group] for group in kept)
        dealt = whole_deal(steps, steps.deal(tuple(kept), shares), load, shares)
        made = SampleDeal(dealt.workload, dealt.replicas, load_schedule(dealt, load))
        return made if set(made.owner) == set(self.planned.owner) else None

    @property
    def _workload(self) -> Workload:
        """With micro-batches as large as the largest of those that run."""
        workload = self.planned.workload
        largest = int(workload.samples[running_microbatches(self.planned.schedule)].max())
        whole, rest = divmod(int(workload.samples.sum()), largest)
        return replace(workload, microbatch_samples=(*(largest,) * whole, *(rest,) * (rest > 0)))


def _cost_on(cluster: Cluster) -> Callable[[SampleDeal], tuple[bool, float]]:
    def cost(deal: SampleDeal) -> tuple[bool, float]:
        priced = price(Deployment(deal.workload, cluster, deal.replicas), deal.schedule)
        return not priced.fits, priced.step_s

    return cost


def slower(cluster: Cluster, slowness: Sequence[float]) -> Cluster:
    """A cluster whose devices take so many times as long for any work; links stay."""
    devices = (
        replace(
            device.scaled(compute=1 / factor, memory_bandwidth=1 / factor),
            launch_s=factor * device.launch_s,
        )
        for device, factor in zip(cluster.devices, slowness, strict=True)
    )
    return replace(cluster, devices=tuple(devices))
