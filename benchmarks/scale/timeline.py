"""What became of pods, from the events of a watch: when, how many at once, and on how many nodes."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Pod:
    """What matters of a pod here. node: empty until it is scheduled. revision: its ReplicaSet's hash."""

    name: str
    node: str = ""
    ready: bool = False
    deleting: bool = False
    revision: str = ""

    @classmethod
    def of(cls, pod: dict[str, Any]) -> Pod:
        """From the API's object."""
        metadata = pod["metadata"]
        return cls(
            name=metadata["name"],
            node=pod["spec"].get("nodeName", ""),
            ready=any(
                each["type"] == "Ready" and each["status"] == "True"
                for each in pod.get("status", {}).get("conditions", [])
            ),
            deleting="deletionTimestamp" in metadata,
            revision=metadata.get("labels", {}).get("pod-template-hash", ""),
        )

    @property
    def serving(self) -> bool:
        """As Deployments and PodDisruptionBudgets count: one that is being deleted is not."""
        return self.ready and not self.deleting


@dataclass
class Phase:
    """Extremes since a moment, and the seconds from it to the last time that something happened to a pod.

    most_pods leaves out pods that are being deleted, as a Deployment does; most_on_a_node counts them, since
    they hold their node's GPU until they are gone. A time is None where it has not happened.
    """

    fewest_serving: int
    most_pods: int
    most_on_a_node: int
    created: float | None = None
    scheduled: float | None = None
    ready: float | None = None
    gone: float | None = None

    def figures(self) -> dict[str, Any]:
        return asdict(self)


class Timeline:
    """The pods there are, counted as events come in, and the extremes of the phase that is on."""

    def __init__(self) -> None:
        self._pods: dict[str, Pod] = {}
        self._active = 0
        self._on_node: Counter[str] = Counter()
        self._serving: Counter[str] = Counter()
        self.begin(0)

    def __len__(self) -> int:
        """All pods, those that are being deleted too."""
        return len(self._pods)

    @property
    def scheduled(self) -> int:
        return self._on_node.total()

    @property
    def serving(self) -> int:
        return self._serving.total()

    def names(self) -> set[str]:
        return set(self._pods)

    def revisions(self) -> dict[str, int]:
        """How many pods of each revision serve."""
        return {revision: count for revision, count in self._serving.items() if count}

    def used(self) -> set[str]:
        """The nodes that hold a pod."""
        return {node for node, count in self._on_node.items() if count}

    def begin(self, now: float) -> None:
        """A phase begins."""
        self._began = now
        self.phase = Phase(self.serving, self._active, max(self._on_node.values(), default=0))

    def observe(self, now: float, name: str, pod: Pod | None) -> None:
        """What is so of a pod from now on; None for one that is gone."""
        before = self._pods.pop(name, None)
        self._count(before, -1)
        self._count(pod, 1)
        if pod is not None:
            self._pods[name] = pod
        phase, since = self.phase, now - self._began
        if pod is None:
            phase.gone = since if before is not None else phase.gone
        else:
            if before is None:
                phase.created = since
            if pod.node and not (before and before.node):
                phase.scheduled = since
                phase.most_on_a_node = max(phase.most_on_a_node, self._on_node[pod.node])
            if pod.serving and not (before and before.serving):
                phase.ready = since
        phase.fewest_serving = min(phase.fewest_serving, self.serving)
        phase.most_pods = max(phase.most_pods, self._active)

    def _count(self, pod: Pod | None, by: int) -> None:
        if pod is None:
            return
        if pod.node:
            self._on_node[pod.node] += by
        if pod.serving:
            self._serving[pod.revision] += by
        if not pod.deleting:
            self._active += by


@dataclass(frozen=True)
class Promise:
    """What a rollout may do: pods at the most, and serving pods at the least."""

    most_pods: int
    fewest_serving: int


def promised(strategy: dict[str, Any], replicas: int) -> Promise:
    """Of a Deployment's `rollingUpdate`, percentages resolved as the Deployment controller does.

    A surge is rounded up and what may be unavailable down; where that leaves none of either, one pod may be
    unavailable (ResolveFenceposts in Kubernetes' pkg/controller/deployment/util).
    """
    surge = absolute(strategy["maxSurge"], replicas, math.ceil)
    unavailable = absolute(strategy["maxUnavailable"], replicas, math.floor)
    if not surge and not unavailable:
        unavailable = 1
    return Promise(replicas + surge, replicas - min(unavailable, replicas))


def absolute(value: int | str, of: int, rounded: Any) -> int:
    """A number, or a percentage such as "10%" of so many, rounded by that function."""
    if isinstance(value, str):
        return int(rounded(int(value.removesuffix("%")) * of / 100))
    return value


def shortest_rollout(promise: Promise, replicas: int, seconds: float) -> float:
    """Seconds of a rollout if the control plane took no time: waves of as many pods as may be replaced at
    once, each of which takes so many seconds to end and to start. None may be surplus: nodes have one GPU."""
    return math.ceil(replicas / (replicas - promise.fewest_serving)) * seconds
