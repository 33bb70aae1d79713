"""Programs are built again when, and only when, what they are made from changes."""

from __future__ import annotations

import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from cluster import components, paths
from cluster.components import ALL, DASHBOARD_SCHEMA, KEDA, KUBERNETES, KWOK, TOXIPROXY, Component

OTHERS = (KEDA, TOXIPROXY, KWOK, DASHBOARD_SCHEMA)


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Component:
    shutil.copytree(paths.COMPONENTS, tmp_path / "components")
    monkeypatch.setattr(paths, "COMPONENTS", tmp_path / "components")
    return components.ETCD


def test_the_same_module_and_go_give_the_same_key(copied: Component) -> None:
    assert components.key(copied, "go1.24.0") == components.key(copied, "go1.24.0")


@pytest.mark.parametrize("file", ["go.mod", "go.sum"])
def test_a_changed_file_of_the_module_gives_another_key(copied: Component, file: str) -> None:
    before = components.key(copied, "go1.24.0")
    with (copied.module / file).open("a") as content:
        content.write("// changed\n")
    assert components.key(copied, "go1.24.0") != before


@pytest.mark.parametrize("file", ["go.work", "go.work.sum", "prometheus/go.mod"])
def test_a_changed_version_in_the_workspace_gives_another_key(copied: Component, file: str) -> None:
    before, keda = components.key(copied, "go1.24.0"), components.key(KEDA, "go1.24.0")
    with (paths.COMPONENTS / file).open("a") as content:
        content.write("// changed\n")
    assert components.key(copied, "go1.24.0") != before
    assert components.key(KEDA, "go1.24.0") == keda


def test_the_workspace_has_every_component_that_shares() -> None:
    used = re.findall(r"^\t\./(.*)$", (paths.COMPONENTS / "go.work").read_text(), re.MULTILINE)
    assert sorted(used) == sorted(each.name for each in (*ALL, *OTHERS) if each.shares)


def test_another_go_gives_another_key(copied: Component) -> None:
    assert components.key(copied, "go1.24.0") != components.key(copied, "go1.25.0")


def test_another_program_gives_another_key(copied: Component) -> None:
    more = replace(copied, programs={**copied.programs, "etcdctl": "go.etcd.io/etcd/etcdctl/v3"})
    assert components.key(copied, "go1.24.0") != components.key(more, "go1.24.0")


@pytest.mark.parametrize("component", [*ALL, *OTHERS], ids=lambda component: component.name)
def test_every_component_is_one_go_module_with_its_sums(component: Component) -> None:
    assert component.gomod().startswith(f"module inference-system/cluster/{component.name}\n")
    assert (component.module / "go.sum").exists()


def test_kubernetes_is_told_the_version_that_its_module_requires() -> None:
    version = KUBERNETES.version("k8s.io/kubernetes")
    major, minor, _ = version.removeprefix("v").split(".")
    for setting in (f"gitVersion={version}", f"gitMajor={major}", f"gitMinor={minor}"):
        assert f"-X k8s.io/component-base/version.{setting}" in KUBERNETES.ldflags()


def test_staging_modules_are_those_of_the_same_release() -> None:
    version = KUBERNETES.version("k8s.io/kubernetes")
    staged = [line for line in KUBERNETES.gomod().splitlines() if "=>" in line]
    assert staged
    assert all(line.endswith(version.replace("v1", "v0", 1)) for line in staged)


def test_a_version_that_go_mod_does_not_require_is_named() -> None:
    with pytest.raises(LookupError, match=r"kubernetes/go\.mod does not require example\.org/unknown"):
        KUBERNETES.version("example.org/unknown")


def test_manifests_of_the_monitoring_stack_are_yaml() -> None:
    assert list(yaml.safe_load_all((paths.MANIFESTS / "monitoring.yaml").read_text()))


def test_prometheus_is_known_by_the_version_of_its_module() -> None:
    assert components.PROMETHEUS.version("github.com/prometheus/prometheus") == "v0.310.0"
    assert components.prometheus_version() == "v3.10.0"


@pytest.mark.parametrize("component", OTHERS, ids=lambda component: component.name)
def test_what_few_need_is_nothing_that_a_cluster_is_made_of(component: Component) -> None:
    """Building it takes minutes: only what asks for it pays them."""
    assert component not in ALL


def test_two_that_need_a_component_at_once_build_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(components.preflight, "go_version", lambda go: "go1.24.0")
    built = []

    def build(component: Component, go: str, done: Path) -> None:
        built.append(component.name)
        time.sleep(0.2)  # long enough for the other to come
        done.mkdir(parents=True)

    monkeypatch.setattr(components, "_build", build)
    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(lambda _: components.build(components.ETCD, "go"), range(2)))
    assert folders[0] == folders[1]
    assert built == ["etcd"]
