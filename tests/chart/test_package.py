"""The copy without dependencies is the same chart."""

from __future__ import annotations

import tarfile
from pathlib import Path

import helm_python
import pytest

from charts import dist
from charts.package import CHART, package
from model_tools.console import BadInput

from .render import IMAGES, chart, render_files


def test_the_copy_renders_what_the_chart_renders(tmp_path: Path) -> None:
    with helm_python.Chart.load(package(tmp_path / "chart")) as copy:
        files = copy.render(IMAGES, name="inference-system", namespace="inference")
        assert copy.schema == chart().schema
    assert files == render_files()


def test_the_copy_has_nothing_to_fetch(tmp_path: Path) -> None:
    assert helm_python.dependency_list(CHART), "otherwise no copy is needed"
    assert not helm_python.dependency_list(package(tmp_path / "chart"))


def test_what_was_fetched_for_the_chart_stays_out_of_the_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    from charts import package as module

    fetched = Path(shutil.copytree(CHART, tmp_path / "fetched" / CHART.name))
    (fetched / "charts").mkdir()
    (fetched / "charts" / "kube-prometheus-stack-77.11.1.tgz").write_text("")
    (fetched / "Chart.lock").write_text("")
    monkeypatch.setattr(module, "CHART", fetched)
    copy = package(tmp_path / "copy")
    assert not (copy / "charts").exists()
    assert not (copy / "Chart.lock").exists()


def test_an_older_copy_is_replaced(tmp_path: Path) -> None:
    copy = package(tmp_path / "chart")
    (copy / "templates" / "stale.yaml").write_text("stale")
    package(copy)
    assert not (copy / "templates" / "stale.yaml").exists()
    assert sorted(tmp_path.iterdir()) == [copy]


def test_a_folder_that_is_no_chart_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(BadInput, match="is no chart"):
        package(tmp_path)
    assert (tmp_path / "thesis.txt").exists()


def test_the_archive_of_a_release_renders_what_the_chart_renders(tmp_path: Path) -> None:
    with helm_python.Chart.load(dist.chart(tmp_path)) as archive:
        assert archive.render(IMAGES, name="inference-system", namespace="inference") == render_files()
    assert [file.suffix for file in tmp_path.iterdir()] == [".tgz"], "nothing but the archive is left"


def test_the_rules_of_all_regions_travel_in_the_archive(tmp_path: Path) -> None:
    with tarfile.open(dist.chart(tmp_path)) as archive:
        for file in ("global-rules.yaml", "global-scrape.yaml"):
            content = archive.extractfile(f"inference-system/files/{file}")
            assert content is not None, file
            assert content.read() == (CHART / "files" / file).read_bytes()
