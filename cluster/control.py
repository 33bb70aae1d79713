"""The API server: kubeadm's init and join, and kubectl from where the cluster's network is."""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from cluster import kube_tools, paths, shell
from cluster.components import KUBERNETES
from cluster.node import Node, pod_network

CONTROL_PLANE = Node(0)
REPOSITORY = "localhost/inference-system/cluster"
# The first address of kubeadm's default range for Services.
API_SERVICE = "10.96.0.1"


def render(manifest: str, values: Mapping[str, str]) -> str:
    """A manifest with its ${NAMES} replaced. Raises KeyError for one that has no value."""
    return Template((paths.MANIFESTS / manifest).read_text()).substitute(values)


def init(tag: str) -> None:
    """Makes the control plane with kubeadm and writes the kubeconfig. Raises StepFailed."""
    node = CONTROL_PLANE
    values = {
        "TOKEN": _token(),
        "KUBERNETES_VERSION": KUBERNETES.version("k8s.io/kubernetes"),
        "REPOSITORY": REPOSITORY,
        "TAG": tag,
        "POD_NETWORK": pod_network(),
        **_values(node),
    }
    config = render("kubeadm.yaml", values)
    _kubeadm(node, config, "init", "--ignore-preflight-errors=all", "--skip-phases=addon/coredns")
    # What starts before kube-proxy has made the Services' addresses loses half a minute to a time-out.
    answers = node.command(
        "timeout", "1", "bash", "-c", f"exec 3<> /dev/tcp/{API_SERVICE}/443", namespaces="--net"
    )
    shell.wait_for(
        lambda: subprocess.run(answers, capture_output=True, check=False).returncode == 0,
        "kube-proxy", timeout=120, log=node.log("kubelet"),
    )  # fmt: skip
    making = paths.kubeconfig().with_suffix(".making")
    shutil.copy(node.etc("kubernetes/admin.conf"), making)
    corefile = render("dns.yaml", {})
    apply(corefile, kubeconfig=making)
    _kubeadm(node, config, "init", "phase", "addon", "coredns")
    making.replace(paths.kubeconfig())


def join(node: Node) -> None:
    """Makes a node a worker with kubeadm. Raises StepFailed."""
    values = {"SERVER": CONTROL_PLANE.address, "TOKEN": _token(), "CA_HASH": _ca_hash(), **_values(node)}
    _kubeadm(node, render("join.yaml", values), "join", "--ignore-preflight-errors=all")


def kubectl(
    *arguments: str, stdin: str | None = None, timeout: float = 60, kubeconfig: Path | None = None
) -> str:
    """kubectl's standard output. Raises StepFailed with what it says on standard error."""
    argv = CONTROL_PLANE.command(
        kube_tools.kubectl(), "--kubeconfig", kubeconfig or paths.kubeconfig(), *arguments, namespaces="--net"
    )
    try:
        ended = subprocess.run(
            shell.tied(argv), input=stdin, capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired as late:
        raise shell.StepFailed(f"kubectl {arguments[0]} did not end within {timeout:g} s") from late
    if ended.returncode:
        raise shell.StepFailed(f"kubectl {' '.join(arguments)}: {ended.stderr.strip()}")
    return ended.stdout


def apply(documents: str, kubeconfig: Path | None = None) -> None:
    """Applies YAML or JSON documents on the server's side. Raises StepFailed."""
    options = ("--server-side", "--force-conflicts", "--filename", "-")
    kubectl("apply", *options, stdin=documents, timeout=180, kubeconfig=kubeconfig)


def kustomize(base: Path, manifest: str, values: Mapping[str, str]) -> str:
    """The YAML of a kustomization among the manifests, rendered with values, which finds the folder base
    beside itself. Raises StepFailed."""
    # kustomize takes bases from below its own folder, by relative paths only.
    with tempfile.TemporaryDirectory(prefix="inference-system-") as folder:
        shutil.copytree(base, Path(folder) / base.name)
        (Path(folder) / "kustomization.yaml").write_text(render(manifest, values))
        return kubectl("kustomize", folder)


def get(*arguments: str) -> Any:
    return json.loads(kubectl("get", *arguments, "--output", "json"))


def healthy() -> bool:
    """Whether the API server answers and says that it is ready."""
    try:
        return kubectl("get", "--raw", "/readyz", "--request-timeout", "5s", timeout=10) == "ok"
    except shell.StepFailed:
        return False


def nodes() -> dict[str, dict[str, Any]]:
    return {node["metadata"]["name"]: node for node in get("nodes")["items"]}


def ready(node: Mapping[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions", []))


def advertise_gpu(node: Node) -> None:
    """One GPU a worker, said as a device plugin would say it; a kubelet that starts anew forgets it."""
    status = {"status": {kind: {"nvidia.com/gpu": "1"} for kind in ("capacity", "allocatable")}}
    kubectl("patch", "node", node.name, "--subresource=status", "--type=merge", "--patch", json.dumps(status))


def gpus(node: Mapping[str, Any]) -> int:
    return int(node["status"].get("allocatable", {}).get("nvidia.com/gpu", 0))


def _kubeadm(node: Node, config: str, *arguments: str) -> None:
    file = f"kubernetes/{arguments[0]}.yaml"
    node.etc(file).write_text(config)
    shell.run(
        node.command("/run/programs/kubeadm", *arguments, "--config", f"/etc/{file}"),
        node.log("kubeadm"),
        f"kubeadm {arguments[0]} of {node.name}",
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )


def _values(node: Node) -> dict[str, str]:
    return {"NAME": node.name, "ADDRESS": node.address, "CGROUP": node.cgroup}


def _token() -> str:
    """The token that workers join with: made once a cluster."""
    file = paths.state() / "token"
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(f"{secrets.token_hex(3)}.{secrets.token_hex(8)}")
    return file.read_text()


def _ca_hash() -> str:
    """How a worker knows the cluster that it joins: the hash of its authority's public key."""
    certificate = CONTROL_PLANE.etc("kubernetes/pki/ca.crt")
    public = subprocess.run(
        ["openssl", "x509", "-pubkey", "-noout", "-in", certificate], capture_output=True, check=True
    ).stdout
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-outform", "DER"], input=public, capture_output=True, check=True
    )
    return f"sha256:{hashlib.sha256(der.stdout).hexdigest()}"


def wait_for_runtime(node: Node) -> None:
    """Until the node's containerd does what a kubelet asks. Raises StepFailed with the end of its log."""
    socket = node.inside("/run/containerd/containerd.sock")
    shell.wait_for(
        lambda: serves_kubelets(socket),
        f"containerd of {node.name}",
        timeout=60,
        log=node.log("containerd"),
    )


def serves_kubelets(socket: Path) -> bool:
    """Whether a container runtime answers there. It listens, and answers `ctr`, sooner than that."""
    import grpc

    with grpc.insecure_channel(f"unix://{socket}") as channel:
        # The request has no field that must be set, so it is no bytes at all.
        version = channel.unary_unary("/runtime.v1.RuntimeService/Version")
        try:
            version(b"", timeout=5)
        except grpc.RpcError:
            return False
    return True
