"""What enforces NetworkPolicies: kube-network-policies of the Kubernetes project, on every node.

The kernel asks it about the first packet of a connection (Node.policy_rules); those that follow pass.
"""

from __future__ import annotations

from pathlib import Path

from cluster import control
from cluster.node import POLICY_QUEUE


def install(folder: Path, image: str) -> None:
    """Applies its manifest. folder: of the component's programs; image: a reference. Raises StepFailed."""
    name, _, tag = image.rpartition(":")
    values = {"IMAGE": name, "TAG": tag, "QUEUE": str(POLICY_QUEUE)}
    control.apply(control.kustomize(folder / "install", "network-policies.yaml", values))


def wait() -> None:
    """Until it runs on every node. Raises StepFailed."""
    control.kubectl(
        "rollout", "status", "daemonset/kube-network-policies", "--namespace=kube-system", "--timeout=120s",
        timeout=130,
    )  # fmt: skip
