"""A release with several models: each has its own delivery, and the pod is right for all of them."""

from __future__ import annotations

from .promtool import rules
from .render import only, render_chart

TWO_SOURCES = {
    "extraModels": {
        "small.fast": {"source": {"type": "pvc", "pvc": {"claimName": "models"}, "path": "/small"}},
        "url": {"source": {"type": "url", "url": "gs://bucket/url"}, "warmup": {"enabled": False}},
    }
}


def test_every_model_has_its_own_delivery_and_configuration() -> None:
    manifests = render_chart(TWO_SOURCES)
    configurations = only(manifests, "ConfigMap", "-model-config")["data"]
    assert set(configurations) == {"resnet50.pbtxt", "small.fast.pbtxt", "url.pbtxt", "deliver-model.sh"}
    pod = only(manifests, "Deployment", "-triton")["spec"]["template"]["spec"]
    containers = {each["name"]: each for each in pod["initContainers"] if "engine" not in each["name"]}
    assert list(containers) == [
        "deliver-model",
        "deliver-model-small-fast",
        "fetch-model-url",
        "deliver-model-url",
    ]
    delivered = {}
    for name, container in containers.items():
        if name.startswith("deliver"):
            environment = {entry["name"]: entry["value"] for entry in container["env"]}
            delivered[environment["MODEL_NAME"]] = environment["SOURCE"], environment["WARMUP_FILE"]
    assert delivered == {
        "resnet50": ("image registry.example/model:1", "warmup/sample"),
        "small.fast": ("claim models", "warmup/sample"),
        "url": ("gs://bucket/url", ""),
    }


def test_every_claim_and_fetched_model_has_its_own_volume() -> None:
    pod = only(render_chart(TWO_SOURCES), "Deployment", "-triton")["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["source-small-fast"]["persistentVolumeClaim"]["claimName"] == "models"
    assert volumes["source-url"]["emptyDir"] == {}
    for container in pod["initContainers"]:
        assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes)


def test_models_share_a_cache_to_which_each_adds_its_part() -> None:
    values = {"model": {"responseCache": 1000}, "extraModels": {"a": {}, "b": {"responseCache": 0}}}
    pod = only(render_chart(values), "Deployment", "-triton")["spec"]["template"]["spec"]
    assert "--cache-config=local,size=2000" in pod["containers"][0]["args"]


def test_a_pod_ends_no_sooner_than_the_slowest_queue_of_any_model() -> None:
    def grace(values: dict[str, object]) -> int:
        pod = only(render_chart(values), "Deployment", "-triton")["spec"]["template"]["spec"]
        return int(pod["terminationGracePeriodSeconds"])

    slow = {"batching": {"queue": {"timeoutMicroseconds": 61_000_000}}}
    slow_level = {"batching": {"priorities": [{}, {"timeoutMicroseconds": 61_000_000}]}}
    assert grace({"extraModels": {"slow": slow}}) == grace({}) + 60
    assert grace({"extraModels": {"slow": slow_level}}) == grace({}) + 60


def test_the_network_is_open_to_the_store_of_any_model() -> None:
    def ports(values: dict[str, object]) -> set[int]:
        policy = only(render_chart({"networkPolicy": {"enabled": True}}, values), "NetworkPolicy", "-triton")
        return {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}

    assert 443 not in ports({})
    assert 443 in ports(TWO_SOURCES)


def test_objectives_are_those_of_the_first_model() -> None:
    judged = ("InferenceErrorBudgetBurn", "InferenceQueueTime", "InferenceRequestsRejected")
    found = [rule for rule in rules(TWO_SOURCES) if rule.get("alert") in judged]
    assert {rule["alert"] for rule in found} == set(judged)
    for rule in found:
        for selector in rule["expr"].split("{")[1:]:
            assert 'model="resnet50"' in selector.partition("}")[0]
