"""The cluster's programs, built from Go modules: cluster/components has one module a component.

What every cluster is made of shares a Go workspace: what several components need has one version there, and
Go compiles it once. A component's programs lie in the cache under a hash of the files that decide about them
and of the Go that builds them.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from cluster import paths, preflight, shell

KEDA_MODULE = "github.com/kedacore/keda/v2"
NETWORK_POLICIES = "sigs.k8s.io/kube-network-policies"
OPERATOR = "github.com/prometheus-operator/prometheus-operator"
ENVIRONMENT = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -trimpath -buildvcs=false"}


@dataclass(frozen=True)
class Component:
    """A Go module under cluster/components: the programs it gives, by package, and other names of them."""

    name: str
    programs: dict[str, str]
    aliases: tuple[str, ...] = ()
    # Files of a required module that are kept beside the programs: name -> (module, which). One file, a
    # folder's YAML files and those of its subfolders, or what a pattern finds.
    manifests: dict[str, tuple[str, str]] = field(default_factory=dict)
    # Build tags, separated by commas.
    tags: str = ""
    # Whether it is built with the versions of go.work instead of those of its go.mod.
    shares: bool = True

    @property
    def module(self) -> Path:
        return paths.COMPONENTS / self.name

    def version(self, required: str) -> str:
        """The version of a module that go.mod requires, such as v1.34.4."""
        found = re.search(rf"^(?:require|\t)?\s*{re.escape(required)} (v\S+)", self.gomod(), re.MULTILINE)
        if not found:
            raise LookupError(f"{self.module}/go.mod does not require {required}")
        return found[1]

    def environment(self) -> dict[str, str]:
        return {**ENVIRONMENT, "GOWORK": str(paths.COMPONENTS / "go.work") if self.shares else "off"}

    def files(self) -> list[Path]:
        """Those that decide what is built: the module's own, and where its workspace has versions from."""
        files = list(self.module.iterdir())
        if self.shares:
            files += [*paths.COMPONENTS.glob("go.work*"), *(each.module / "go.mod" for each in ALL)]
        return sorted({*files})

    def gomod(self) -> str:
        return (self.module / "go.mod").read_text()

    def ldflags(self) -> str:
        """Stripped; Kubernetes, Prometheus and KEDA learn their versions from the linker."""
        said = {}
        if self.name == "kubernetes":
            version = self.version("k8s.io/kubernetes")
            major, minor, _ = version.removeprefix("v").split(".", 2)
            about = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
            said = {f"k8s.io/component-base/version.{key}": value for key, value in about.items()}
        elif self.name == "prometheus":
            said = {"github.com/prometheus/common/version.Version": prometheus_version().removeprefix("v")}
        elif self.name == "keda":
            said = {f"{KEDA_MODULE}/version.Version": self.version(KEDA_MODULE).removeprefix("v")}
        return " ".join(["-s -w", *(f"-X {variable}={value}" for variable, value in said.items())])


PAUSE = Component("pause", {"pause": "."})
ETCD = Component("etcd", {"etcd": "go.etcd.io/etcd/server/v3"})
KUBERNETES = Component(
    "kubernetes",
    {"kubernetes": "."},
    ("kubeadm", "kubelet", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy"),
)
COREDNS = Component("coredns", {"coredns": "."})
PROMETHEUS_OPERATOR = Component(
    "prometheus-operator",
    {
        "prometheus-operator": f"{OPERATOR}/cmd/operator",
        "prometheus-config-reloader": f"{OPERATOR}/cmd/prometheus-config-reloader",
    },
    manifests={
        "crds": (OPERATOR, "example/prometheus-operator-crd"),
        "rbac": (OPERATOR, "example/rbac/prometheus-operator"),
    },
)
# Of all the ways to find targets only the one for Kubernetes: the clouds' SDKs take minutes to build.
PROMETHEUS = Component(
    "prometheus",
    {"prometheus": "github.com/prometheus/prometheus/cmd/prometheus"},
    tags="remove_all_sd,enable_kubernetes_sd",
)
KUBE_NETWORK_POLICIES = Component(
    "kube-network-policies",
    {"kube-network-policies": f"{NETWORK_POLICIES}/cmd"},
    manifests={"install": (NETWORK_POLICIES, "install.yaml")},
)
KUBE_STATE_METRICS = Component("kube-state-metrics", {"kube-state-metrics": "k8s.io/kube-state-metrics/v2"})
# What every cluster is made of.
ALL = (
    PAUSE,
    ETCD,
    KUBERNETES,
    COREDNS,
    KUBE_NETWORK_POLICIES,
    PROMETHEUS_OPERATOR,
    PROMETHEUS,
    KUBE_STATE_METRICS,
)
# What `cluster add` puts into one: dear to build, and most uses of a cluster don't need it.
KEDA = Component(
    "keda",
    {"keda": f"{KEDA_MODULE}/cmd/operator", "keda-adapter": f"{KEDA_MODULE}/cmd/adapter"},
    manifests={"config": (KEDA_MODULE, "config")},
    shares=False,
)
# Delay between regions, for a kernel without netem: only the tests of several regions build it.
TOXIPROXY = Component("toxiproxy", {"toxiproxy": "github.com/Shopify/toxiproxy/v2/cmd/server"}, shares=False)
# Whether Grafana's schema takes the chart's dashboards: only their test builds it.
DASHBOARD_SCHEMA = Component(
    "dashboard-schema",
    {"dashboard-schema": "."},
    manifests={"schema": ("github.com/grafana/grafana-foundation-sdk/go", "*/types_gen.go")},
    shares=False,
)

# Nodes that are objects and nothing else, for benchmarks/scale.
KWOK = Component(
    "kwok",
    {"kwok": "sigs.k8s.io/kwok/cmd/kwok"},
    manifests={
        "stages/node": ("sigs.k8s.io/kwok", "kustomize/stage/node/fast"),
        "stages/pod": ("sigs.k8s.io/kwok", "kustomize/stage/pod/fast"),
    },
    shares=False,
)


def prometheus_version() -> str:
    """Prometheus 3.10.2 is published as the Go module v0.310.2."""
    _, minor, patch = PROMETHEUS.version("github.com/prometheus/prometheus").split(".")
    return f"v{int(minor) // 100}.{int(minor) % 100}.{patch}"


def key(component: Component, go_version: str) -> str:
    """Hash of the module's files, the Go that builds them and how it is told to."""
    digest = hashlib.sha256(f"{go_version}\0{component}\0{component.ldflags()}\0{ENVIRONMENT}\0".encode())
    for file in component.files():
        name = file.relative_to(paths.COMPONENTS)
        digest.update(f"{name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:12]


def folder(component: Component, go_version: str) -> Path:
    return paths.cache() / "bin" / f"{component.name}-{key(component, go_version)}"


def build(component: Component, go: str) -> Path:
    """The folder of the component's programs, built unless the cache has it, by one process at a time.

    Raises StepFailed, with the build's log, when it does not build.
    """
    done = folder(component, preflight.go_version(go))
    if not done.exists():
        with paths.making(f"build-{component.name}"):
            if not done.exists():
                _build(component, go, done)
    return done


def _build(component: Component, go: str, done: Path) -> None:
    log = paths.cache() / "log" / f"build-{component.name}.log"
    paths.remove_halves(done.parent, f"{component.name}-{'[0-9a-f]' * 12}.making*")
    making = done.with_name(f"{done.name}.making")
    _download(component, go, log)
    options = ["-tags", component.tags, "-ldflags", component.ldflags()]
    for program, package in component.programs.items():
        build_it: list[str | Path] = [go, "build", *options, "-o", making / program, package]
        shell.run(
            build_it, log, f"go build of {component.name}", cwd=component.module, env=component.environment()
        )
    for alias in component.aliases:
        (making / alias).symlink_to(next(iter(component.programs)))
    for name, (module, inside) in component.manifests.items():
        _keep(_module_folder(component, go, module), inside, making / name)
    making.rename(done)


def _keep(module: Path, inside: str, folder: Path) -> None:
    source = module / inside
    if source.is_dir():
        base, files = source, source.rglob("*.yaml")
    else:
        base, files = source.parent if source.is_file() else module, module.glob(inside)
    for file in files:
        copy = folder / file.relative_to(base)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)


def _download(component: Component, go: str, log: Path, attempts: int = 4) -> None:
    """Fetches the modules; what a hiccup of the network leaves out is fetched by the next attempt."""
    for attempt in range(1, attempts + 1):
        try:
            shell.run(
                [go, "list", "-tags", component.tags, "-deps", "-f", "", *component.programs.values()],
                log, f"fetching the modules of {component.name}",
                cwd=component.module, env=component.environment(),
            )  # fmt: skip
            return
        except shell.StepFailed:
            if attempt == attempts:
                raise
            time.sleep(2**attempt)


def _module_folder(component: Component, go: str, module: str) -> Path:
    said = subprocess.run(
        [go, "list", "-m", "-f", "{{.Dir}}", module],
        cwd=component.module, env={**os.environ, **component.environment()},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return Path(said.stdout.strip())
