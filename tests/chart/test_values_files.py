"""Every values file of the project, and the chart's own variants, give objects that Kubernetes takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import helm_python
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from charts.package import CHART

from .render import IMAGES, ROOT, Refused, chart, layers, load, merge, only, pods, render_chart

FILES = sorted((ROOT / "values").rglob("*.yaml"))
FLEET = ROOT / "values" / "fleet.yaml"
REGIONS = sorted((ROOT / "values" / "regions").glob("*.yaml"))

VARIANTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "model on a claim": {"model": {"source": {"type": "pvc", "pvc": {"claimName": "models"}}}},
    "model in an object store": {"model": {"source": {"type": "url", "url": "gs://bucket/resnet50"}}},
    "no load test": {"loadtest": {"enabled": False}},
    "no monitoring": {"monitoring": {"podMonitor": {"enabled": False}, "rules": {"enabled": False}}},
    "no server latency": {"monitoring": {"serverLatency": {"enabled": False}}},
    "no region": {"region": ""},
    "private registry": {"imagePullSecrets": [{"name": "registry"}]},
    "surge instead of a gap": {"triton": {"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0}}},
    "scaled by KEDA": {"autoscaling": {"kind": "keda", "requestsPerSecond": 0.5}},
    "scaled by an HPA": {
        "autoscaling": {"kind": "hpa", "requestsPerSecond": 2000000},
        "region": "europe-west4",
    },
    "TLS": {"triton": {"tls": {"secretName": "certificate"}}},
    "no network policy": {"networkPolicy": {"enabled": False}},
    "any node": {"triton": {"nodeSelector": {"cloud.google.com/gke-accelerator": None}, "tolerations": []}},
}


def test_there_are_values_files() -> None:
    assert len(FILES) >= 2
    assert len(REGIONS) >= 3


@pytest.mark.parametrize("file", sorted({*FILES} - {FLEET}), ids=lambda file: str(file.relative_to(ROOT)))
def test_values_file_renders_valid_objects(file: Path) -> None:
    assert only(render_chart(*layers(file)), "Deployment", "-triton")


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS.keys())
def test_variant_renders_valid_objects(values: dict[str, Any]) -> None:
    assert only(render_chart(values), "Deployment", "-triton")


@pytest.mark.parametrize("file", REGIONS, ids=lambda file: file.name)
def test_a_regions_file_is_complete_and_names_its_region(file: Path) -> None:
    """Nothing has to be passed beside it and the fleet's, so they are rendered without the tests' images."""
    values = merge(load(FLEET), load(file))
    assert values["region"] == file.stem
    with helm_python.Chart.load(CHART) as chart:
        assert chart.render(values, name="inference-system", namespace="inference")


@pytest.mark.parametrize("file", REGIONS, ids=lambda file: file.name)
def test_a_regions_file_says_only_what_differs(file: Path) -> None:
    """Nothing that the fleet, or all other regions, say the same of."""

    def facts(values: dict[str, Any], path: str = "") -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in values.items():
            found |= facts(value, f"{path}{key}.") if isinstance(value, dict) else {path + key: value}
        return found

    own = facts(load(file))
    others = [facts(load(other)) for other in REGIONS if other != file]
    common = {path for path in own if all(other.get(path) == own[path] for other in others)}
    assert not common
    assert not {path for path, value in facts(load(FLEET)).items() if own.get(path) == value}


def test_a_region_is_on_everything_that_is_scraped() -> None:
    for suffix in ("-triton", "-loadtest"):
        monitor = only(render_chart({"region": "us-central1"}), "PodMonitor", suffix)
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            assert {"targetLabel": "region", "replacement": "us-central1"} in endpoint["relabelings"]


def test_helm_lint_has_nothing_to_say_above_info() -> None:
    found = helm_python.lint(CHART, merge(IMAGES, load(ROOT / "values" / "local.yaml")), strict=True)
    # The dependency is not fetched in a checkout, which lint warns of.
    messages = [
        m for m in found["messages"] if m["severity"] > 1 and "kube-prometheus-stack" not in m["error"]
    ]
    assert messages == []


def test_objects_have_the_names_that_tools_look_for() -> None:
    """`loadtest run`, the SLO suite, dashboards and people find a release's parts by them."""
    names = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in render_chart(name="blue")}
    assert names == {
        ("ConfigMap", "blue-inference-system-model-config"),
        ("ConfigMap", "blue-inference-system-proxy-config"),
        ("NetworkPolicy", "blue-inference-system-triton"),
        ("NetworkPolicy", "blue-inference-system-loadtest"),
        ("PodDisruptionBudget", "blue-inference-system-triton"),
        ("Deployment", "blue-inference-system-triton"),
        ("Service", "blue-inference-system-triton"),
        ("Service", "blue-inference-system-triton-headless"),
        ("PodMonitor", "blue-inference-system-triton"),
        ("PodMonitor", "blue-inference-system-loadtest"),
        ("PrometheusRule", "blue-inference-system-alerts"),
        ("PrometheusRule", "blue-inference-system-slo"),
        *(
            ("ConfigMap", f"blue-inference-system-grafana-{board}")
            for board in ("capacity", "gpu", "loadtest", "overview", "regions", "triton")
        ),
        ("Deployment", "blue-inference-system-loadtest-master"),
        ("Deployment", "blue-inference-system-loadtest-worker"),
        ("Service", "blue-inference-system-loadtest"),
        ("Pod", "blue-inference-system-test-inference"),
    }


def test_two_releases_in_a_namespace_share_no_name() -> None:
    names = [
        {(m["kind"], m["metadata"]["name"]) for m in render_chart(name=release)}
        for release in ("blue", "green")
    ]
    assert not names[0] & names[1]
    assert ("Deployment", "blue-inference-system-triton") in names[0]


def test_the_longest_release_name_still_gives_valid_names() -> None:
    for manifest in render_chart(name="a" * 53):
        assert len(manifest["metadata"]["name"]) <= 63


def test_the_defaults_are_for_t4_nodes_on_gke() -> None:
    pod = pods(render_chart())["Deployment inference-system-triton"]["spec"]
    assert pod["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-tesla-t4"}
    assert pod["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Equal", "value": "present", "effect": "NoSchedule"}
    ]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_a_default_node_label_is_removed_by_null() -> None:
    pod = pods(render_chart(VARIANTS["any node"]))["Deployment inference-system-triton"]["spec"]
    assert pod["nodeSelector"] == {}


@pytest.mark.parametrize(
    "file", sorted((ROOT / "values" / "accelerators").glob("*.yaml")), ids=lambda f: f.stem
)
def test_an_accelerators_file_over_a_regions_moves_the_pods_to_its_nodes(file: Path) -> None:
    region, both = (
        pods(render_chart(*layers))["Deployment inference-system-triton"]["spec"]
        for layers in (REGIONS[:1], [*REGIONS[:1], file])
    )
    assert both["nodeSelector"] != region["nodeSelector"]
    assert both["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert both["containers"][0]["image"] == region["containers"][0]["image"]


T4 = sorted((ROOT / "values" / "ladder" / "t4").glob("*.yaml"))
# What Triton is told of each rung: runtime, precision, largest batch, instances, tag of the model's image.
CLIMB = {
    "1-baseline": ("tensorflow", "savedmodel", 1, 1, "fp32"),
    "2-tensorrt-fp32": ("tensorrt", "fp32", 1, 1, "fp32"),
    "3-fp16": ("tensorrt", "fp16", 1, 1, "fp32"),
    "4-int8": ("tensorrt", "int8", 1, 1, "int8"),
    "5-batch-16": ("tensorrt", "int8", 16, 1, "int8"),
    "6-instances-4": ("tensorrt", "int8", 16, 4, "int8"),
}


@pytest.mark.parametrize("region", REGIONS, ids=lambda file: file.stem)
def test_the_t4_ladder_climbs_from_tensorflow_to_int8_in_batches_on_four_instances(region: Path) -> None:
    found = {}
    for rung in T4:
        model = merge(chart().values, load(region), load(rung))["model"]
        manifests = render_chart(region, rung)
        text = only(manifests, "ConfigMap", "-model-config")["data"]["resnet50.pbtxt"]
        config = text_format.Parse(text, model_config_pb2.ModelConfig())
        (group,) = config.instance_group
        assert group.kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
        pod = pods(manifests)["Deployment inference-system-triton"]["spec"]
        inits = {container["name"]: container for container in pod["initContainers"]}
        if "build-engine" in inits:
            assert f"--precision={model['precision']}" in inits["build-engine"]["args"]
            assert f"--max-batch={config.max_batch_size}" in inits["build-engine"]["args"]
        else:
            assert config.backend == "tensorflow"
        repository, _, tag = inits["deliver-model"]["image"].rpartition(":")
        assert repository == load(region)["model"]["source"]["image"]["repository"]
        found[rung.stem] = (config.backend, model["precision"], config.max_batch_size, group.count, tag)
    assert found == CLIMB


CPU = sorted((ROOT / "values" / "ladder" / "cpu").glob("*.yaml"))


def test_the_cpu_ladder_climbs_from_tensorflow_to_int8_in_batches_on_two_instances() -> None:
    found = {}
    for rung in CPU:
        manifests = render_chart(ROOT / "values" / "local.yaml", rung)
        text = only(manifests, "ConfigMap", "-model-config")["data"]["resnet50.pbtxt"]
        config = text_format.Parse(text, model_config_pb2.ModelConfig())
        (group,) = config.instance_group
        assert group.kind == model_config_pb2.ModelInstanceGroup.KIND_CPU
        precision = config.parameters["INFERENCE_PRECISION"].string_value
        pod = pods(manifests)["Deployment inference-system-triton"]["spec"]
        (image,) = [part["image"] for part in pod["initContainers"] if part["name"] == "deliver-model"]
        tag = image.rpartition(":")[2]
        found[rung.stem] = (config.backend, precision, config.max_batch_size, group.count, tag)
    assert found == {
        "1-tensorflow": ("tensorflow", "", 1, 1, "fp32"),
        "2-openvino-fp32": ("openvino", "f32", 1, 1, "fp32"),
        "3-bf16": ("openvino", "bf16", 1, 1, "fp32"),
        "4-int8": ("openvino", "f32", 1, 1, "int8"),
        "5-batch-16": ("openvino", "f32", 16, 1, "int8"),
        "6-instances-2": ("openvino", "f32", 16, 2, "int8"),
    }


@pytest.mark.parametrize("rung", T4[1:], ids=lambda file: file.stem)
def test_a_rung_for_gpus_is_refused_over_values_without_one(rung: Path) -> None:
    with pytest.raises(Refused, match=r"model\.instances\.kind: model\.runtime tensorrt runs on gpu only"):
        render_chart(ROOT / "values" / "local.yaml", rung)


def test_the_baseline_is_refused_on_a_triton_that_has_no_tensorflow_any_more() -> None:
    triton = {"triton": {"image": {"tag": "25.03-py3"}}}
    with pytest.raises(Refused, match=r"^.*model\.runtime: tensorflow needs Triton 25\.02 or older"):
        render_chart(T4[0], triton)
    assert render_chart(T4[1], triton)
    for other in (
        {"tag": "25.02-py3"},
        {"tag": "2025-01-31"},
        {"tag": "25.03-py3", "repository": "own/triton"},
    ):
        assert render_chart(T4[0], {"triton": {"image": other}})
