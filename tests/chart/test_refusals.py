"""Bad values fail before anything is installed, with the name of the key."""

from __future__ import annotations

from typing import Any

import pytest

from charts.package import CHART
from charts.reference import values as schema_values

from .render import Refused, merge, render_chart, setting

OPENVINO = {"model": {"runtime": "openvino", "precision": "fp32", "instances": {"kind": "cpu"}}}
# As values/fleet.yaml has it, in the region that holds the Gateway.
FLEET = {
    "region": "us-central1",
    "autoscaling": {"requestsPerSecond": 280},
    "routing": {
        "kind": "multiClusterGateway",
        "configCluster": "us-central1",
        "hosts": {"http": "a.example.com", "grpc": "b.example.com"},
        "gateway": {"certificateMap": "map"},
    },
}
KEDA = {"autoscaling": {"kind": "keda", "requestsPerSecond": 100}}
PASSED_THROUGH = {"kube-prometheus-stack"}
GROUPS = [value.path for value in schema_values(CHART) if value.is_group and value.path not in PASSED_THROUGH]


def refusal(*values: dict[str, Any]) -> str:
    with pytest.raises(Refused) as refused:
        render_chart(*values)
    return str(refused.value)


def test_groups_of_all_levels_are_tried() -> None:
    assert {"model", "model.batching.queue", "slo.latency.client", "monitoring.podMonitor"} <= set(GROUPS)


@pytest.mark.parametrize("group", ["", *GROUPS])
def test_a_misspelt_key_is_named(group: str) -> None:
    message = refusal(setting(f"{group}.mispelt".lstrip("."), 1))
    assert "'mispelt' not allowed" in message
    assert f"/{group.replace('.', '/')}'" in message or not group


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.instances.count", 0),
        ("model.version", 0),
        ("model.batching.maxSize", 0),
        ("model.batching.preferredSizes", [0]),
        ("model.batching.preferredSizes", [8, 8]),
        ("model.batching.maxQueueDelayMicroseconds", -1),
        ("model.batching.queue.maxSize", -1),
        ("model.batching.priorities", [{"size": 1}]),
        ("model.batching.priorities", [{"maxSize": -1}]),
        ("model.batching.defaultPriority", -1),
        ("model.instances.profiles", ["fast"]),
        ("model.versionPolicy.kind", "newest"),
        ("model.versionPolicy.count", 0),
        ("model.warmup.data", "zero"),
        ("model.responseCache", "1Gi"),
        ("extraModels", {"a/b": {}}),
        ("extraModels.small.precision", "fp8"),
        ("extraModels.small.batching.priorities", [{"size": 1}]),
        ("model.runtime", "torch"),
        ("model.precision", "fp8"),
        ("model.name", "../etc"),
        ("model.name", 'a" }'),
        ("model.input.name", 'a" }'),
        ("model.input.dataType", "FLOAT32"),
        ("model.input.shape", []),
        ("model.input.shape", [224, 0, 3]),
        ("model.instances.kind", "tpu"),
        ("model.source.type", "ftp"),
        ("model.source.url", "file:///etc"),
        ("triton.replicas", -1),
        ("triton.replicas", "2"),
        ("triton.sharedMemory", "lots"),
        ("triton.image.digest", "sha256:1"),
        ("triton.rollingUpdate.maxSurge", "half"),
        ("triton.resources.limit", {}),
        ("autoscaling.kind", "vpa"),
        ("autoscaling.window", "soon"),
        ("autoscaling.maxReplicas", 0),
        ("triton.drainSeconds", 0),
        ("engine.cache.keepDays", -1),
        ("slo.availability", 1),
        ("slo.availability", 99.9),
        ("slo.window", "a month"),
        ("slo.queueTime", 0),
        ("slo.latency.server.percentile", 1),
        ("slo.latency.server.percentile", 99),
        ("slo.latency.server.threshold", 0),
        ("monitoring.serverLatency.sampleEvery", 0),
        ("monitoring.serverLatency.sampleEvery", 0.1),
        ("loadtest.workers", 0),
        ("loadtest.protocol", "tcp"),
        ("loadtest.arrival", "open"),
        ("monitoring.podMonitor.interval", "fast"),
        ("region", "US Central"),
        ("routing.kind", "ingress"),
        ("routing.grpcShare", 1.1),
        ("routing.hosts.http", "localhost"),
        ("routing.hosts.grpc", "*.example.com"),
        ("routing.gateway.sourceRanges", []),
        ("routing.healthCheck.intervalSeconds", 0),
        ("routing.logging.sampleRate", 2),
        ("routing.loadBalancer.sourceRanges", ["everybody"]),
    ],
)
def test_a_value_out_of_range_is_named(key: str, value: Any) -> None:
    message = refusal(setting(key, value))
    path = key.replace(".", "/")
    parent, _, last = path.rpartition("/")
    assert f"'/{path}" in message or (f"'/{parent}'" in message and f"'{last}'" in message)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"model": {"batching": {"maxSize": 16, "preferredSizes": [8, 32]}}},
            "model.batching.preferredSizes: 32 is above model.batching.maxSize 16.",
        ),
        (
            {"model": {"runtime": "tensorflow", "precision": "int8"}},
            "model.precision: int8 can't run on model.runtime tensorflow, which takes savedmodel.",
        ),
        (
            merge(OPENVINO, {"model": {"precision": "fp16"}}),
            "model.precision: fp16 can't run on model.runtime openvino, which takes fp32, bf16, int8.",
        ),
        (
            {
                "model": {"runtime": "tensorflow", "precision": "savedmodel"},
                "triton": {"image": {"tag": "26.01-py3"}},
            },
            "model.runtime: tensorflow needs Triton 25.02 or older, and triton.image.tag is 26.01-py3.",
        ),
        (
            {"model": {"precision": "savedmodel"}},
            "model.precision: savedmodel can't run on model.runtime tensorrt",
        ),
        (
            {"model": {"instances": {"kind": "cpu"}}},
            "model.instances.kind: model.runtime tensorrt runs on gpu only.",
        ),
        (
            merge(OPENVINO, {"model": {"instances": {"kind": "gpu"}}}),
            "model.instances.kind: model.runtime openvino runs on cpu only.",
        ),
        ({"model": {"instances": {"threads": 2}}}, "model.instances.threads: threads are for"),
        ({"triton": {"gpu": {"count": 0}}}, "triton.gpu.count: model.instances.kind gpu needs at least 1."),
        (
            {
                "model": {
                    "batching": {"maxQueueDelayMicroseconds": 5000, "queue": {"timeoutMicroseconds": 5000}}
                }
            },
            "model.batching.queue.timeoutMicroseconds: 5000 is not above",
        ),
        (
            {"model": {"batching": {"priorities": [{}, {"timeoutMicroseconds": 1000}]}}},
            "model.batching.priorities[1].timeoutMicroseconds: 1000 is not above",
        ),
        (
            {"model": {"batching": {"priorities": [{}], "defaultPriority": 2}}},
            "model.batching.defaultPriority: 2 is no level, model.batching.priorities has 1.",
        ),
        (
            merge(OPENVINO, {"model": {"instances": {"profiles": [0]}}}),
            "model.instances.profiles: only TensorRT engines have profiles, and model.runtime is openvino.",
        ),
        (
            {
                "model": {
                    "versionPolicy": {"kind": "all"},
                    "source": {"type": "url", "url": "gs://bucket/resnet50"},
                }
            },
            "model.versionPolicy.kind: all needs a source that holds several versions",
        ),
        (
            {"extraModels": {"small": {"precision": "savedmodel"}}},
            "extraModels.small.precision: savedmodel can't run on extraModels.small.runtime tensorrt",
        ),
        (
            {"extraModels": {"small": {"batching": {"maxSize": 8}}}},
            "extraModels.small.batching.preferredSizes: 16 is above extraModels.small.batching.maxSize 8.",
        ),
        ({"extraModels": {"resnet50": {}}}, "extraModels.resnet50: is the name of model already."),
        (
            {"extraModels": {"small": {"name": "large"}}},
            "extraModels.small.name: the key is the model's name",
        ),
        ({"extraModels": {"a.b": {}, "a_b": {}}}, "extraModels.a_b: is too much like a.b"),
        ({"model": {"source": {"image": {"repository": ""}}}}, "model.source.image.repository: "),
        ({"model": {"source": {"image": {"tag": ""}}}}, "model.source.image.tag: "),
        ({"model": {"source": {"type": "pvc"}}}, "model.source.pvc.claimName: "),
        ({"model": {"source": {"type": "url"}}}, "model.source.url: "),
        ({"tools": {"image": {"repository": ""}}}, "tools.image.repository: "),
        ({"tools": {"image": {"tag": ""}}}, "tools.image.tag: "),
        ({"triton": {"image": {"tag": ""}}}, "triton.image.tag: "),
        ({"triton": {"httpProxy": {"image": {"repository": ""}}}}, "triton.httpProxy.image.repository: "),
        (
            {"triton": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}},
            "triton.rollingUpdate: maxSurge and maxUnavailable are both 0",
        ),
        (
            {"triton": {"rollingUpdate": {"maxSurge": "0%", "maxUnavailable": "0%"}}},
            "triton.rollingUpdate: maxSurge and maxUnavailable are both 0",
        ),
        (
            {"slo": {"latency": {"client": {"p50": 0.3}}}},
            "slo.latency.client: p50, p95 and p99 must not fall.",
        ),
        ({"slo": {"batchSize": 17}}, "slo.batchSize: 17 can't be reached with model.batching.maxSize 16."),
        (
            {"loadtest": {"arrival": "constant", "requestsPerSecond": 0}},
            "loadtest.requestsPerSecond: loadtest.arrival constant needs a rate above 0.",
        ),
        (
            {"loadtest": {"arrival": "poisson", "requestsPerSecond": 0}},
            "loadtest.requestsPerSecond: loadtest.arrival poisson needs a rate above 0.",
        ),
        (
            {"loadtest": {"stages": [{"seconds": 0, "target": 9}]}},
            "loadtest.stages: at least one stage must take more than 0 seconds.",
        ),
        ({"loadtest": {"protocol": "both", "users": 1}}, "loadtest.users: loadtest.protocol both needs"),
        ({"monitoring": {"podMonitor": {"enabled": False}}}, "monitoring.rules.enabled: the rules need"),
        ({"autoscaling": {"kind": "keda"}}, "autoscaling.requestsPerSecond: autoscaling.kind keda needs"),
        (
            merge(KEDA, {"autoscaling": {"minReplicas": 9}}),
            "autoscaling.minReplicas: 9 is above autoscaling.maxReplicas 4.",
        ),
        (
            merge(KEDA, {"autoscaling": {"kind": "hpa", "minReplicas": 0}}),
            "autoscaling.minReplicas: 0 needs autoscaling.kind keda",
        ),
        (merge(KEDA, {"autoscaling": {"minReplicas": 0}}), "autoscaling.minReplicas: 0 needs a trigger"),
        (
            merge(KEDA, {"autoscaling": {"kind": "hpa", "triggers": [{"type": "cron"}]}}),
            "autoscaling.triggers: triggers are for autoscaling.kind keda.",
        ),
        (
            merge(KEDA, {"autoscaling": {"window": "59s"}}),
            "autoscaling.window: 59s holds fewer than 4 scrapes",
        ),
        (
            merge(KEDA, {"monitoring": {"podMonitor": {"interval": "1m"}}}),
            "autoscaling.window: 2m holds fewer than 4 scrapes at monitoring.podMonitor.interval 1m",
        ),
        (
            merge(KEDA, {"monitoring": {"rules": {"enabled": False}}}),
            "monitoring.rules.enabled: autoscaling.kind keda reads",
        ),
        ({"engine": {"image": {"repository": ""}}}, "engine.image.repository: NVIDIA's image of Triton has"),
        (
            {"extraModels": {"small": {"instances": {"profiles": [0, 1]}}}},
            "extraModels.small.instances.profiles: 1 is none of the engine's, which has one for each of"
            " extraModels.small.batching.preferredSizes, 1.",
        ),
        ({"engine": {"image": {"tag": ""}}}, "engine.image.tag: give a tag or a digest."),
        (
            {"engine": {"cache": {"type": "hostPath"}}},
            "engine.cache.hostPath.path: engine.cache.type hostPath needs the folder.",
        ),
        (
            merge(FLEET, {"routing": {"configCluster": ""}}),
            "routing.configCluster: routing.kind multiClusterGateway needs the region",
        ),
        (merge(FLEET, {"region": ""}), "region: routing.kind multiClusterGateway needs it"),
        (
            merge(FLEET, {"autoscaling": {"requestsPerSecond": 0}}),
            "autoscaling.requestsPerSecond: routing.kind multiClusterGateway needs it",
        ),
        (
            merge(FLEET, {"routing": {"hosts": {"grpc": ""}}}),
            "routing.hosts.grpc: routing.kind multiClusterGateway needs the name",
        ),
        (
            merge(FLEET, {"routing": {"hosts": {"grpc": "a.example.com"}}}),
            "routing.hosts.grpc: a.example.com is routing.hosts.http as well",
        ),
        (
            merge(FLEET, {"routing": {"gateway": {"certificates": ["one"]}}}),
            "routing.gateway.certificateMap: give one of it, routing.gateway.certificates and"
            " routing.gateway.secretName; 2 are",
        ),
        (
            merge(FLEET, {"routing": {"gateway": {"certificateMap": ""}}}),
            "routing.gateway.certificateMap: give one of it, routing.gateway.certificates and"
            " routing.gateway.secretName; 0 are",
        ),
        (
            merge(
                FLEET,
                {"routing": {"healthCheck": {"grpc": "grpc"}}, "triton": {"tls": {"secretName": "tls"}}},
            ),
            "routing.healthCheck.grpc: grpc asks port 8001 without TLS",
        ),
        (
            merge(FLEET, {"routing": {"healthCheck": {"timeoutSeconds": 6}}}),
            "routing.healthCheck.timeoutSeconds: 6 is above routing.healthCheck.intervalSeconds 5.",
        ),
        (
            merge(FLEET, {"triton": {"drainSeconds": 15}}),
            "triton.drainSeconds: 15 must be more than the 15 s in which",
        ),
        (merge(FLEET, {"routing": {"iap": {"clientId": "id"}}}), "routing.iap.secretName: routing.iap"),
        (merge(FLEET, {"routing": {"iap": {"secretName": "s"}}}), "routing.iap.clientId: routing.iap"),
        (
            {"routing": {"kind": "loadBalancer"}},
            "routing.loadBalancer.sourceRanges: routing.kind loadBalancer needs the networks",
        ),
        (
            {"engine": {"cache": {"type": "url"}}},
            "engine.cache.url: engine.cache.type url needs the folder of a bucket.",
        ),
        (
            {
                "model": {"runtime": "openvino", "precision": "fp32", "instances": {"kind": "cpu"}},
                "engine": {"cache": {"type": "url", "url": "s3://b/e"}, "image": {"repository": ""}},
            },
            "engine.image.repository: engine.cache.type url needs an image with the libraries for it; give"
            " the one of images/engine.",
        ),
    ],
)
def test_an_impossible_combination_fails_with_a_sentence(values: dict[str, Any], sentence: str) -> None:
    assert sentence in refusal(values)


def test_every_sentence_of_the_chart_is_tried() -> None:
    """A rule that is added to the chart needs a line above."""
    files = ("validate.yaml", "triton/_validate.tpl", "routing/_validate.tpl")
    template = "".join((CHART / "templates" / file).read_text() for file in files)
    tried = test_an_impossible_combination_fails_with_a_sentence.pytestmark[0].args[1]
    # The two rules on images are written once and tried for both images.
    assert template.count("fail ") + template.count("(fail") <= len({sentence for _, sentence in tried})
