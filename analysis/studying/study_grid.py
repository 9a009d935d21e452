"""The runs of a study: clusters x methods x budgets x seeds."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.studying.study_file import BudgetSchema, MethodSchema, StudySchema, settings_of
from analysis.studying.study_methods import check_names
from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.cluster.cluster_file import cluster_to_dict, load_cluster
from d2ft_sched.errors import InputError

ANY_BUDGET = "dense"
"""Budget of methods that spend what the dense run spends."""
OWN_BUDGET = "its own"
"""Of methods that say themselves what they spend."""


@dataclass(frozen=True)
class Run:
    """One cell of the grid."""

    cluster: Cluster
    budget: BudgetSchema
    budget_name: str
    method: MethodSchema
    seed: int
    key: str

    @property
    def label(self) -> str:
        """For progress."""
        return f"{self.method.name}, {self.cluster.name}, seed {self.seed}"


def planned_runs(study: StudySchema, folder: Path) -> list[Run]:
    """All runs, all of the first seed first.

    Args:
        study: what to do.
        folder: that its cluster files are named from.

    Raises:
        InputError: a cluster file that cannot be used, a cluster named as another or as no file can
            be, or a method with an unknown name.
    """
    clusters: list[Cluster] = []
    for file in study.clusters:
        cluster = load_cluster(folder / file)
        if "/" in cluster.name:
            raise InputError(
                f"{folder / file}: name is {cluster.name!r}; files of a study are called by it, so "
                f"it must have no '/'"
            )
        if cluster.name in [c.name for c in clusters]:
            raise InputError(
                f"{folder / file}: name is {cluster.name!r}, as of another cluster of the study; "
                f"names must differ"
            )
        clusters.append(cluster)
    for method in study.methods:
        check_names(method, clusters)
    runs = []
    for seed in study.seeds:
        for cluster in clusters:
            for method in study.methods:
                for budget in study.budgets if method.has_budget else [BudgetSchema()]:
                    facts = settings_of(study, method) | {
                        "cluster": cluster_to_dict(cluster),
                        "budget": budget.model_dump() if method.has_budget else None,
                        "seed": seed,
                    }
                    name = budget.name if method.has_budget else _own_budget(method)
                    runs.append(Run(cluster, budget, name, method, seed, digest(facts)))
    return runs


def _own_budget(method: MethodSchema) -> str:
    is_whole = method.samples == method.trains == method.accumulate == 1
    return ANY_BUDGET if is_whole else OWN_BUDGET


def digest(facts: Any) -> str:
    """A short name for facts that JSON can hold."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Selection:
    """Which runs of a study; an empty tuple stands for all."""

    methods: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    clusters: tuple[str, ...] = ()

    def has(self, run: Run) -> bool:
        """Whether the run is one of them."""
        return (
            (not self.methods or run.method.name in self.methods)
            and (not self.seeds or run.seed in self.seeds)
            and (not self.clusters or run.cluster.name in self.clusters)
        )

    def check(self, runs: list[Run]) -> None:
        """Raises InputError if it names what none of the runs has."""
        for option, chosen, known in (
            ("--only", self.methods, [r.method.name for r in runs]),
            ("--seed", self.seeds, [r.seed for r in runs]),
            ("--cluster", self.clusters, [r.cluster.name for r in runs]),
        ):
            for name in chosen:
                if name not in known:
                    has = ", ".join(str(k) for k in dict.fromkeys(known))
                    raise InputError(f"{option} is {name!r}; the study has {has}")
