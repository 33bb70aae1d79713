"""The init container that builds engines, and the volume that pods share them on."""

from __future__ import annotations

from typing import Any

import pytest

from charts.package import CHART
from model_tools.config import ModelConfig
from model_tools.engine.command import preferred_sizes

from .render import Manifest, load, merge, only, render_chart, setting

OPENVINO = {"model": {"runtime": "openvino", "precision": "fp32", "instances": {"kind": "cpu"}}}
ONNXRUNTIME = {"model": {"runtime": "onnxruntime"}}
TENSORFLOW = {"model": {"runtime": "tensorflow", "precision": "savedmodel"}}
CLAIM = {"engine": {"cache": {"type": "pvc"}}}
ENGINELESS = {"engine": {"enabled": False}}
BUCKET = {"engine": {"cache": {"type": "url", "url": "gs://project-engines/t4"}}}
FOLDER = {"engine": {"cache": {"type": "hostPath", "hostPath": {"path": "/var/engines"}}}}


def pod(manifests: list[Manifest]) -> Manifest:
    return dict(only(manifests, "Deployment", "-triton")["spec"]["template"]["spec"])


def build(*values: dict[str, Any]) -> Manifest:
    """The last init container, which has to be the engine's."""
    container = pod(render_chart(*values))["initContainers"][-1]
    assert container["name"] == "build-engine"
    return dict(container)


def test_tensorrt_builds_from_the_onnx_that_the_source_holds() -> None:
    spec = pod(render_chart())
    deliver, engine = spec["initContainers"]
    assert {"name": "MODEL_FILE", "value": "model.onnx"} in deliver["env"]
    assert engine["image"] == "registry.example/engine:1"
    assert engine["args"] == [
        "model-tools", "engine", "build", "--model=/models/resnet50", "--runtime=tensorrt",
        "--precision=fp16", "--max-batch=16", "--preferred-batch=16",
    ]  # fmt: skip


def test_the_arguments_are_options_of_the_command() -> None:
    from model_tools.engine.command import build as command

    known = {option for parameter in command.params for option in parameter.opts}
    given = {word.partition("=")[0] for word in build(CLAIM)["args"] if word.startswith("--")}
    assert given <= known
    assert {"--cache", "--wait", "--keep-days"} <= given


@pytest.mark.parametrize(("sizes", "best"), [([4, 16, 8], 16), ([8], 8), ([], 32), ([16, 9], 16)])
def test_the_engine_is_tuned_for_the_largest_preferred_batch(sizes: list[int], best: int) -> None:
    args = build({"model": {"batching": {"maxSize": 32, "preferredSizes": sizes}}})["args"]
    assert f"--preferred-batch={best}" in args
    assert "--max-batch=32" in args


@pytest.mark.parametrize(
    ("sizes", "profiles", "tuned"),
    [
        ([4, 16, 8], [0, 2], [4, 16, 8]),
        ([4, 16, 8], [1], [4, 16]),
        ([4, 16, 8], [1, 0], [4, 16]),
        ([8], [0], [8]),
    ],
)
def test_instances_that_name_profiles_get_one_for_each_preferred_batch(
    sizes: list[int], profiles: list[int], tuned: list[int]
) -> None:
    """As many as the last of them needs; what the command makes of these values itself is the same."""
    values = {"model": {"batching": {"preferredSizes": sizes}, "instances": {"profiles": profiles}}}
    args = build(values)["args"]
    given = [int(word.partition("=")[2]) for word in args if word.startswith("--preferred-batch=")]
    assert given == tuned
    model = ModelConfig.from_values(merge(load(CHART / "values.yaml"), values)["model"])
    assert preferred_sizes(model) == tuple(tuned)


def test_a_plan_that_comes_with_the_model_may_have_any_profiles() -> None:
    values = {"model": {"instances": {"profiles": [7]}}, "engine": {"enabled": False}}
    assert pod(render_chart(values))


@pytest.mark.parametrize("values", [ONNXRUNTIME, TENSORFLOW, {"engine": {"enabled": False}}])
def test_without_an_engine_there_is_no_trace_of_one(values: dict[str, Any]) -> None:
    manifests = render_chart(values, CLAIM)
    spec = pod(manifests)
    assert [container["name"] for container in spec["initContainers"]] == ["deliver-model"]
    assert "engines" not in {volume["name"] for volume in spec["volumes"]}
    assert not [each for each in manifests if each["kind"] == "PersistentVolumeClaim"]


def test_openvino_builds_in_tritons_own_image_unless_told() -> None:
    image = {"engine": {"image": {"repository": ""}}}
    triton = {"triton": {"image": {"repository": "registry.example/triton-cpu", "tag": "2"}}}
    assert build(OPENVINO, image, triton)["image"] == "registry.example/triton-cpu:2"
    assert build(OPENVINO, triton)["image"] == "registry.example/engine:1"


@pytest.mark.parametrize(
    "values", [{}, {"triton": {"gpu": {"resourceName": "nvidia.com/mig-1g.5gb", "count": 1}}}]
)
def test_the_build_has_what_triton_has_the_gpu_too(values: dict[str, Any]) -> None:
    spec = pod(render_chart(values))
    assert spec["initContainers"][-1]["resources"] == spec["containers"][0]["resources"]
    assert [name for name in spec["initContainers"][-1]["resources"]["limits"] if "nvidia.com" in name]


def test_without_a_cache_there_is_no_volume() -> None:
    assert {mount["name"] for mount in build()["volumeMounts"]} == {"models", "tmp"}


def test_old_engines_are_removed_unless_told() -> None:
    assert "--keep-days=90" in build(CLAIM)["args"]
    assert "--keep-days=0" in build(FOLDER, setting("engine.cache.keepDays", 0))["args"]


def test_a_claim_is_made_and_outlives_the_release() -> None:
    manifests = render_chart(CLAIM)
    claim = only(manifests, "PersistentVolumeClaim", "-engines")
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert "storageClassName" not in claim["spec"], "an empty name is no class at all, not the default one"
    volume = {"name": "engines", "persistentVolumeClaim": {"claimName": claim["metadata"]["name"]}}
    assert volume in pod(manifests)["volumes"]
    assert {"name": "engines", "mountPath": "/engines"} in build(CLAIM)["volumeMounts"]
    triton = pod(manifests)["containers"][0]
    assert "engines" not in {mount["name"] for mount in triton["volumeMounts"]}, "Triton has its own copy"


def test_a_claim_that_is_there_is_used_and_none_is_made() -> None:
    manifests = render_chart(CLAIM, setting("engine.cache.pvc.claimName", "shared"))
    assert not [each for each in manifests if each["kind"] == "PersistentVolumeClaim"]
    assert {"name": "engines", "persistentVolumeClaim": {"claimName": "shared"}} in pod(manifests)["volumes"]


def test_a_folder_of_the_node_has_to_be_there() -> None:
    volume = {"name": "engines", "hostPath": {"path": "/var/engines", "type": "Directory"}}
    assert volume in pod(render_chart(FOLDER))["volumes"]


def test_a_bucket_needs_no_volume_but_a_way_out() -> None:
    manifests = render_chart(BUCKET)
    args = build(BUCKET)["args"]
    assert "--cache=gs://project-engines/t4" in args
    assert not [word for word in args if word.startswith("--keep-days")], "the bucket's own rules do that"
    assert "engines" not in {volume["name"] for volume in pod(manifests)["volumes"]}
    ports = [
        port
        for rule in only(manifests, "NetworkPolicy", "-triton")["spec"]["egress"]
        for port in rule["ports"]
    ]
    assert {"port": 443, "protocol": "TCP"} in ports
    closed = only(render_chart(BUCKET, OPENVINO, ENGINELESS), "NetworkPolicy", "-triton")["spec"]["egress"]
    assert len(closed) == 1, "names only"


def test_every_model_that_has_an_engine_gets_one() -> None:
    extra = {"extraModels": {"second": {}, "third": ONNXRUNTIME["model"]}}
    inits = pod(render_chart(extra, CLAIM))["initContainers"]
    builders = [each for each in inits if each["name"].startswith("build-engine")]
    assert [each["args"][3] for each in builders] == ["--model=/models/resnet50", "--model=/models/second"]
    assert len({each["name"] for each in builders}) == 2
    assert all(each["name"].startswith("build-engine") for each in inits[-2:]), "first all are delivered"


def test_one_more_model_is_enough_for_a_cache() -> None:
    manifests = render_chart(ONNXRUNTIME, {"extraModels": {"second": {"runtime": "tensorrt"}}}, CLAIM)
    assert only(manifests, "PersistentVolumeClaim", "-engines")
    assert "engines" in {volume["name"] for volume in pod(manifests)["volumes"]}


def test_a_rollout_is_given_the_time_of_a_build() -> None:
    def deadline(*values: dict[str, Any]) -> int:
        return int(only(render_chart(*values), "Deployment", "-triton")["spec"]["progressDeadlineSeconds"])

    assert deadline(merge(CLAIM, {"engine": {"waitSeconds": 500}})) == deadline(ONNXRUNTIME) + 500
