"""Which regions are meant, what an upgrade would change in them, and how their pods' engines are."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from model_tools.console import BadInput
from model_tools.regions.changes import changes
from model_tools.regions.fleet import Region, read_regions
from model_tools.regions.helm import Helm, HelmFailed
from model_tools.regions.status import engine_state

ROOT = Path(__file__).resolve().parents[4]
FLEET = ROOT / "values" / "fleet.yaml"
REGIONS = sorted((ROOT / "values" / "regions").glob("*.yaml"))


def test_the_region_that_holds_the_gateway_is_the_last() -> None:
    regions = read_regions(FLEET, reversed(REGIONS), {"europe-west1": "eu"})
    assert [region.name for region in regions] == ["europe-west1", "asia-northeast1", "us-central1"]
    assert [region.context for region in regions] == ["eu", "asia-northeast1", "us-central1"]
    assert regions[0].files == (FLEET, ROOT / "values" / "regions" / "europe-west1.yaml")


def test_values_over_all_regions_win(tmp_path: Path) -> None:
    over = tmp_path / "over.yaml"
    over.write_text("routing: {configCluster: europe-west1}")
    regions = read_regions(FLEET, REGIONS, {}, [over])
    assert regions[-1].name == "europe-west1"
    assert all(region.files[-1] == over for region in regions)


def test_a_region_that_is_named_twice_or_not_at_all_is_refused(tmp_path: Path) -> None:
    nameless = tmp_path / "nameless.yaml"
    nameless.write_text("triton: {replicas: 2}")
    with pytest.raises(BadInput, match=r"nameless.yaml: region: is empty"):
        read_regions(FLEET, [nameless], {})
    with pytest.raises(BadInput, match="region: europe-west1 is named by two files"):
        read_regions(FLEET, [*REGIONS, REGIONS[1]], {})
    with pytest.raises(BadInput, match="--context mars: is none of the regions"):
        read_regions(FLEET, REGIONS, {"mars": "m"})


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["regions", "status", "--context", "europe-west1"], "europe-west1: is no REGION=CONTEXT"),
        (["regions", "upgrade", "--watch", "soon"], "'soon' is no duration"),
        (["regions", "diff", "--fleet", "/nowhere"], "/nowhere"),
    ],
)
def test_wrong_arguments_are_named_in_one_line(
    refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], named: str
) -> None:
    monkeypatch.chdir(ROOT)
    assert named in refusal(*arguments)


def objects(**specs: Any) -> str:
    return yaml.safe_dump_all(
        {"kind": kind, "metadata": {"name": "triton"}, "spec": spec} for kind, spec in specs.items()
    )


def test_changes_are_by_object() -> None:
    before = objects(Service={"port": 1}, Deployment={"replicas": 2, "image": "a"}, ConfigMap={"a": "b"})
    after = objects(Deployment={"image": "b", "replicas": 2}, Service={"port": 1}, Gateway={"listeners": []})
    found = {change.kind: change for change in changes(before, after)}
    assert {kind: change.action for kind, change in found.items()} == {
        "ConfigMap": "removed", "Deployment": "changed", "Gateway": "added"
    }  # fmt: skip
    assert "-  image: a\n+  image: b" in found["Deployment"].diff
    assert "replicas" in found["Deployment"].diff


def test_a_long_text_is_compared_line_by_line() -> None:
    text = "".join(f"line {number}\n" for number in range(50))
    (change,) = changes(objects(ConfigMap=text), objects(ConfigMap=text.replace("line 25", "another")))
    assert "-  line 25\n+  another" in change.diff
    assert len(change.diff.splitlines()) < 10


def test_nothing_changes_between_an_installed_release_and_itself() -> None:
    assert changes(objects(Service={"port": 1}), "# a comment\n" + objects(Service={"port": 1})) == []
    assert [change.action for change in changes("", objects(Service={}))] == ["added"]


RUNNING = {"running": {"startedAt": "now"}}
DONE = {"terminated": {"exitCode": 0}}


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([DONE], "ready"),
        ([DONE, DONE], "ready"),
        ([RUNNING], "building"),
        ([DONE, RUNNING], "building"),
        ([{"waiting": {"reason": "PodInitializing"}}], "waiting"),
        ([{"waiting": {"reason": "CrashLoopBackOff"}}], "failed"),
        ([{"waiting": {"reason": "ImagePullBackOff"}}], "failed"),
        ([{"terminated": {"exitCode": 2}}], "failed"),
        ([DONE, {"waiting": {"reason": "PodInitializing"}}], "waiting"),
        ([], "waiting"),
    ],
)
def test_the_state_of_a_pods_engines(states: list[dict[str, Any]], expected: str) -> None:
    names = ["build-engine", "build-engine-small"][: max(1, len(states))]
    pod = {
        "spec": {"initContainers": [{"name": "deliver-model"}, *({"name": name} for name in names)]},
        "status": {
            "initContainerStatuses": [
                {"name": "deliver-model", "state": DONE},
                *({"name": name, "state": state} for name, state in zip(names, states, strict=False)),
            ]
        },
    }
    assert engine_state(pod) == expected


def test_a_pod_without_engines_has_no_state_of_one() -> None:
    pod = {"spec": {"initContainers": [{"name": "deliver-model"}]}, "status": {}}
    assert engine_state(pod) == ""


@pytest.fixture
def helm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Stands for helm where only its words matter: gives an answer, and says what it was asked."""

    def answers(output: str = "", error: str = "") -> Path:
        asked = tmp_path / "asked"
        tool = tmp_path / "helm"
        (tmp_path / "output").write_text(output)
        (tmp_path / "error").write_text(error)
        tool.write_text(
            f'#!/bin/sh\necho "$@" >> {asked}\n[ "$1" = version ] && printf v4.1.4 && exit\n'
            f"cat {tmp_path}/output; cat {tmp_path}/error >&2; [ ! -s {tmp_path}/error ]\n"
        )
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        return asked

    return answers


REGION = Region("europe", "eu", (Path("fleet.yaml"), Path("europe.yaml")))
# As `helm history --output json` has it, the oldest first: what was upgraded, and broke.
HISTORY = [
    {"revision": 1, "updated": "2026-01-01", "status": "superseded", "chart": "c-1", "app_version": "1"},
    {"revision": 2, "updated": "2026-01-02", "status": "deployed", "chart": "c-2", "app_version": "1"},
    {"revision": 3, "updated": "2026-01-03", "status": "failed", "chart": "c-3", "app_version": "1"},
]


def test_the_revision_to_go_back_to_is_the_one_that_is_deployed(helm: Callable[..., Path]) -> None:
    helm(json.dumps(HISTORY))
    found = Helm(REGION).installed()
    assert found is not None
    assert (found.revision, found.status, found.deployed, found.chart) == (3, "failed", 2, "c-3")


def test_a_release_that_is_not_there_is_no_error(helm: Callable[..., Path]) -> None:
    helm(error="Error: release: not found\n")
    assert Helm(REGION).installed() is None
    assert Helm(REGION).manifest() == ""


def test_helms_error_is_told_without_its_warnings(helm: Callable[..., Path]) -> None:
    helm(error="W0101 something is old\nError: UPGRADE FAILED: timed out\n")
    with pytest.raises(HelmFailed, match=r"^UPGRADE FAILED: timed out$"):
        Helm(REGION).upgrade(Path("chart"))


def test_helm_is_asked_about_the_regions_own_cluster_with_its_values_in_order(
    helm: Callable[..., Path],
) -> None:
    asked = helm(json.dumps({"manifest": "kind: Service\n"}))
    release = Helm(REGION, timeout=7)
    assert release.planned(Path("chart")) == "kind: Service\n"
    release.upgrade(Path("chart"))
    release.rollback(2)
    planned, _, upgraded, back = asked.read_text().splitlines()
    for line in (planned, upgraded, back):
        assert "--kube-context eu --namespace inference" in line
        assert "--timeout 7s" in line
    for line in (planned, upgraded):
        assert line.startswith("upgrade inference-system chart ")
        assert "--values=fleet.yaml --values=europe.yaml" in line
    assert "--dry-run=server" in planned
    assert "--dry-run" not in upgraded
    assert "--rollback-on-failure" in upgraded
    assert back.startswith("rollback inference-system 2 ")
