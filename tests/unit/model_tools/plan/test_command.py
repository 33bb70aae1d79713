"""`model-tools plan`: what it writes, what it says, and its exit status."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from tests.chart.render import only, render_chart
from tests.commands import model_tools

ROOT = Path(__file__).parents[4]
REGIONS = ROOT / "docs" / "plan" / "three-regions.yaml"
FLEET = [ROOT / "values" / "fleet.yaml", ROOT / "values" / "regions" / "us-central1.yaml"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of the example's plan, and what was printed."""
    folder = tmp_path_factory.mktemp("plan") / "plan"
    result = model_tools("plan", REGIONS, "--precision=int8", f"--output={folder}", "--json")
    assert result.returncode == 0, result.stderr
    return folder, result.stdout


def test_what_is_printed_for_machines_is_what_is_written(made: tuple[Path, str]) -> None:
    folder, printed = made
    plan = json.loads(printed)
    assert plan == json.loads((folder / "plan.json").read_text())
    assert [region["name"] for region in plan["regions"]] == ["us-central1", "europe-west4", "asia-east1"]
    assert (plan["curve"]["gpu"], plan["curve"]["kind"]) == ("NVIDIA T4", "published")
    assert plan["cost_a_month"] > 0


@pytest.mark.parametrize("region", ["us-central1", "europe-west4", "asia-east1"])
def test_a_regions_values_file_is_taken_by_the_chart_and_rendered(
    made: tuple[Path, str], region: str
) -> None:
    """Over the chart's values, and over a fleet's and a region's; the schema refuses unknown keys."""
    folder, _ = made
    file = folder / "values" / f"{region}.yaml"
    plan = json.loads((folder / "plan.json").read_text())
    planned = next(each for each in plan["regions"] if each["name"] == region)
    for below in ([], FLEET):
        manifests = render_chart(*below, file)
        scaler = only(manifests, "ScaledObject", "-triton")["spec"]
        assert (scaler["minReplicaCount"], scaler["maxReplicaCount"]) == (planned["least"], planned["most"])
        load = next(trigger for trigger in scaler["triggers"] if trigger["name"] == "load")
        assert float(load["metadata"]["threshold"]) == plan["autoscaling"]["requestsPerSecond"]
        assert f'region="{region}"' in load["metadata"]["query"]
        # Where a load balancer takes a pod for full is where the plan's day has it.
        full = [
            int(manifest["metadata"]["annotations"]["networking.gke.io/max-rate-per-endpoint"])
            for manifest in manifests
            if "networking.gke.io/max-rate-per-endpoint" in manifest["metadata"].get("annotations", {})
        ]
        assert not below or sum(full) == pytest.approx(plan["pod"]["full"], abs=1)
        config = only(manifests, "ConfigMap", "-model-config")["data"]["resnet50.pbtxt"]
        assert "max_batch_size: 16" in config
        assert f"max_queue_size: {plan['pod']['batching']['queue']['maxSize']}" in config


def test_the_page_needs_nothing_else_and_its_plots_are_real(made: tuple[Path, str]) -> None:
    folder, _ = made
    page = (folder / "index.html").read_text()
    assert "http" not in page.replace("http://www.w3.org", "").replace("https://matplotlib.org", "").replace(
        "http://purl.org", ""
    ).replace("http://creativecommons.org", "")
    root = ElementTree.fromstring((folder / "plan.svg").read_text())
    texts = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"objective", "planned", "asia-east1", "nodes", "served elsewhere"} <= texts


def test_curves_are_listed_with_what_they_are(run: Any) -> None:
    result = run("plan", "--curves")
    assert result.returncode == 0, result.stderr
    lines = [line.split()[1:4] for line in result.stdout.splitlines()]
    assert ["t4", "int8", "published"] in lines
    assert ["h200", "fp16", "measured"] in lines


def test_an_objective_that_nothing_meets_is_a_sentence_and_status_1(run: Any, tmp_path: Path) -> None:
    """With a curve that comes along, and with one of one's own as `engine bench --json` prints it."""
    values = tmp_path / "values.yaml"
    values.write_text("slo: {latency: {server: {threshold: 0.002}}}")
    lines = [
        {"batch": batch, "instances": 1, "copies": True, "method": "ahead",
         "images_per_s": 1000 * batch / time, "p50_ms": time, "p95_ms": time, "p99_ms": time}
        for batch, time in ((1, 2), (32, 8))
    ]  # fmt: skip
    file = tmp_path / "mine.json"
    file.write_text("\n".join(map(json.dumps, lines)))
    for option, name in (("--gpu=t4", "t4 int8"), (f"--curve={file}", "mine any")):
        arguments = ["--values", values, "--precision=int8", option, "--output", tmp_path / "plan"]
        result = run("plan", REGIONS, *arguments)
        assert result.returncode == 1
        assert result.stdout == ""
        assert f"model-tools: {name}: no batch is computed within the 2 ms of slo.latency" in result.stderr
        assert not (tmp_path / "plan").exists()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["/nowhere.yaml"], "/nowhere.yaml: No such file"),
        ([REGIONS, "--gpu", "b200"], "--gpu b200: there are curves of h200, h200-served, t4"),
        (
            [REGIONS, "--precision", "fp64"],
            "has no curve of model.precision fp64, only of fp16, int8, savedmodel",
        ),
        ([REGIONS, "--curve", "/nowhere.json"], "/nowhere.json: no such file"),
        ([REGIONS, "--price", "-1"], "-1"),
        ([REGIONS, "--curve", REGIONS], "three-regions.yaml: is not JSON"),
    ],
    ids=str,
)
def test_bad_input_is_one_line_and_status_2(
    refusal: Callable[..., str], arguments: list[object], line: str
) -> None:
    assert line in refusal("plan", *arguments)


def test_a_folder_that_is_no_plan_is_not_replaced(refusal: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("")
    assert "is not empty and no plan" in refusal("plan", REGIONS, "--precision=int8", "--output", tmp_path)
    assert (tmp_path / "precious").exists()


def test_values_files_are_yaml_that_says_only_what_the_plan_decides(made: tuple[Path, str]) -> None:
    folder, _ = made
    content = yaml.safe_load((folder / "values" / "us-central1.yaml").read_text())
    assert set(content) == {"region", "model", "triton", "autoscaling"}
    assert set(content["model"]) == {"batching", "instances"}
