"""The dashboards reach Grafana's sidecar byte for byte, under labels that it looks for."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from charts import dist
from charts.package import CHART, package
from grafana.boards import BOARDS

from .render import Manifest, render_chart, setting

FILES = sorted((CHART / "dashboards").glob("*.json"))


def dashboards(*values: dict[str, Any]) -> list[Manifest]:
    return [
        manifest
        for manifest in render_chart(*values)
        if manifest["kind"] == "ConfigMap" and "-grafana-" in manifest["metadata"]["name"]
    ]


def test_every_dashboard_is_in_the_chart_and_nothing_else() -> None:
    assert [file.stem for file in FILES] == sorted(board.name for board in BOARDS)


def test_each_dashboard_is_one_config_map_that_holds_its_file_as_it_is() -> None:
    """Legends keep their braces: `{{pod}}` is Grafana's, not Helm's."""
    found: dict[str, str] = {}
    for manifest in dashboards():
        assert len(manifest["data"]) == 1
        found |= manifest["data"]
    assert found == {f"inference-system-{file.name}": file.read_text() for file in FILES}
    assert any('"{{pod}}"' in text for text in found.values())


def test_names_say_which_release_and_which_dashboard() -> None:
    assert [manifest["metadata"]["name"] for manifest in dashboards()] == [
        f"inference-system-grafana-{file.stem}" for file in FILES
    ]


def test_the_sidecar_finds_them_by_the_label_that_it_looks_for_by_default() -> None:
    assert all(
        manifest["metadata"]["labels"]["grafana_dashboard"] == "1"
        and "annotations" not in manifest["metadata"]
        for manifest in dashboards()
    )


def test_label_and_folder_are_values() -> None:
    changed = {"labels": {"grafana_dashboard": "yes"}, "annotations": {"grafana_folder": "Inference"}}
    for manifest in dashboards(setting("monitoring.dashboards", changed)):
        assert manifest["metadata"]["labels"]["grafana_dashboard"] == "yes"
        assert manifest["metadata"]["annotations"] == {"grafana_folder": "Inference"}


def test_runbooks_are_where_the_alerts_say() -> None:
    published = dashboards(setting("monitoring.rules.runbooks", "https://wiki.example/serving"))
    texts = [text for manifest in published for text in manifest["data"].values()]
    assert not any("docs/runbooks" in text for text in texts)
    assert all("(https://wiki.example/serving/Inference" in text for text in texts)


def test_they_can_be_left_out() -> None:
    assert dashboards(setting("monitoring.dashboards.enabled", False)) == []


@pytest.mark.parametrize("manifest", dashboards(), ids=lambda manifest: manifest["metadata"]["name"])
def test_each_fits_where_kubectl_keeps_what_it_applied(manifest: Manifest) -> None:
    """An annotation holds at most 256 KiB, and `kubectl apply` puts the whole object into one."""
    assert len(json.dumps(manifest)) < 200_000


def test_the_copy_and_the_archive_of_the_chart_hold_them(tmp_path: Path) -> None:
    copy = package(tmp_path / "copy")
    assert sorted(file.name for file in (copy / "dashboards").iterdir()) == [file.name for file in FILES]
    with tarfile.open(dist.chart(tmp_path / "dist")) as archive:
        names = set(archive.getnames())
    assert {f"inference-system/dashboards/{file.name}" for file in FILES} <= names
