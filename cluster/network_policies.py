"""What enforces NetworkPolicies: kube-network-policies on every node, from its own manifest.

The kernel asks it about the first packet of every connection that a pod with policies makes or gets; those
that follow pass. Where it does not run nobody answers, and such pods get no new connections.
"""

from __future__ import annotations

from pathlib import Path

from cluster import control


def install(folder: Path, image: str) -> None:
    """Applies the manifest. folder: of the component's programs; image: a reference. Raises StepFailed."""
    name, _, tag = image.rpartition(":")
    values = {"IMAGE": name, "TAG": tag}
    control.apply(control.kustomize(folder / "install", "network-policies.yaml", values))


def wait() -> None:
    """Until it runs on every node. Raises StepFailed."""
    control.kubectl(
        "rollout", "status", "daemonset/kube-network-policies", "--namespace=kube-system", "--timeout=120s",
        timeout=130,
    )  # fmt: skip
