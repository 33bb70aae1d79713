"""How requests reach Triton: who may send them, through what, and what becomes of them when a pod ends."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from charts.package import CHART

from .container import Container
from .render import ROOT, containers, load, merge, only, pods, render_chart

LOCAL = ROOT / "values" / "local.yaml"
TLS = {"triton": {"tls": {"secretName": "certificate"}}}
# What a client may ask of Triton; all else of its API is closed.
OPEN = {"health", "metadata", "inference", "model-config"}
ALL = OPEN | {"shared-memory", "model-repository", "statistics", "trace", "logging"}
DEFAULTS = load(CHART / "values.yaml")["networkPolicy"]
PROMETHEUS = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]


def triton_pod(*values: Any) -> dict[str, Any]:
    return dict(pods(render_chart(*values))["Deployment inference-system-triton"]["spec"])


def container(pod: dict[str, Any], name: str) -> dict[str, Any]:
    return next(each for each in pod["containers"] if each["name"] == name)


def arguments(pod: dict[str, Any]) -> dict[str, str]:
    """Triton's options by name."""
    given = (word.removeprefix("--").partition("=") for word in container(pod, "triton")["args"])
    return {name: value for name, _, value in given}


def proxy(*values: Any) -> str:
    return str(only(render_chart(*values), "ConfigMap", "-proxy-config")["data"]["haproxy.cfg"])


def announced(*values: Any) -> int:
    """The largest body that the proxy passes on."""
    (size,) = set(re.findall(r"the body is larger than (\d+) bytes", proxy(*values)))
    return int(size)


@pytest.mark.parametrize(
    ("model", "extra", "size"),
    [
        ({}, {}, 16 * 224 * 224 * 3),
        ({"batching": {"maxSize": 4, "preferredSizes": [4]}}, {}, 4 * 224 * 224 * 3),
        ({"input": {"dataType": "FP32"}}, {}, 4 * 16 * 224 * 224 * 3),
        ({"input": {"shape": [8]}}, {"input": {"shape": [100, 100]}}, 16 * 100 * 100),
        ({"input": {"dataType": "BYTES"}}, {}, 64 << 20),
    ],
)
def test_a_body_may_be_as_large_as_the_largest_batch_of_any_model(
    model: dict[str, Any], extra: dict[str, Any], size: int
) -> None:
    source = {"type": "image", "image": {"repository": "registry.example/other", "tag": "1"}}
    values = {"model": model, "extraModels": {"other": {**extra, "source": source}} if extra else {}}
    assert announced(values) == size + 16384
    assert announced(values, {"triton": {"httpProxy": {"maxBodyBytes": 5}}}) == 5


def test_the_proxy_has_room_for_probes_and_for_all_json_that_it_looks_at() -> None:
    config = proxy(
        {"triton": {"httpProxy": {"maxConnections": 300, "maxConnectionsPerClient": 7, "maxJsonBytes": 2048}}}
    )
    limits = [int(number) for number in re.findall(r"^  maxconn (\d+)$", config, re.MULTILINE)]
    assert limits == [300 + limits[2], 300, limits[2]]
    assert "reject if { sc0_conn_cur gt 7 }" in config
    assert f"tune.bufsize {16384 + 2048}\n" in config
    unlimited = proxy({"triton": {"httpProxy": {"maxConnectionsPerClient": 0}}})
    assert "conn_cur" not in unlimited


def seconds(directive: str, config: str) -> int:
    found = re.findall(rf"^\s*{directive}\s+(\d+)s$", config, re.MULTILINE)
    assert len(found) == 1, f"{directive}: {found}"
    return int(found[0])


@pytest.mark.parametrize(
    ("drain", "queue", "execution"),
    list(itertools.product((1, 5, 20, 300), (0, 1, 999_999, 60_000_000), (1, 30))),
)
def test_each_part_of_a_pod_outlives_what_it_serves(drain: int, queue: int, execution: int) -> None:
    values = {
        "triton": {"drainSeconds": drain, "executionSeconds": execution},
        "model": {"batching": {"maxQueueDelayMicroseconds": 0, "queue": {"timeoutMicroseconds": queue}}},
    }
    pod, config = triton_pod(values), proxy(values)
    longest_request = queue / 1e6 + execution
    proxy_closes = seconds("grace", config)
    triton_stops = container(pod, "triton")["lifecycle"]["preStop"]["sleep"]["seconds"]
    exit_timeout = int(arguments(pod)["exit-timeout-secs"])
    assert proxy_closes == drain
    hook = container(pod, "proxy")["lifecycle"]["preStop"]["exec"]["command"][-1]
    # Over before the proxy is, whose end would take the hook with it.
    assert hook == f"kill -USR1 1; sleep {drain - 1}"
    assert triton_stops >= proxy_closes + seconds("timeout http-request", config) > drain
    assert exit_timeout >= longest_request
    assert seconds("timeout server", config) > longest_request
    assert proxy_closes + seconds("hard-stop-after", config) >= proxy_closes + longest_request
    assert pod["terminationGracePeriodSeconds"] > triton_stops + exit_timeout
    # By then a client has been told twice to ask for the pods' addresses again.
    assert int(arguments(pod)["grpc-max-connection-age"]) <= max(1000, drain * 1000 / 2)
    assert int(arguments(pod)["grpc-max-connection-age-grace"]) >= longest_request * 1000


def test_a_slower_queue_of_a_priority_level_is_waited_for_as_well() -> None:
    levels = [{"timeoutMicroseconds": 500_000}, {"timeoutMicroseconds": 70_000_000}]
    values = {"model": {"batching": {"priorities": levels}}, "triton": {"executionSeconds": 3}}
    assert arguments(triton_pod(values))["exit-timeout-secs"] == "73"


def test_a_changed_proxy_configuration_restarts_the_pods() -> None:
    before, after = (
        pods(render_chart(values))["Deployment inference-system-triton"]["metadata"]["annotations"]
        for values in ({}, {"triton": {"httpProxy": {"maxBodyBytes": 1}}})
    )
    assert before != after


def test_clients_reach_tritons_http_through_the_proxy_only() -> None:
    pod = triton_pod()
    given = arguments(pod)
    assert given["http-address"] == "127.0.0.1"
    assert f"server triton 127.0.0.1:{given['http-port']}" in proxy()
    assert given["grpc-address"] == given["metrics-address"] == "0.0.0.0"
    names = {port["name"]: each["name"] for each in pod["containers"] for port in each["ports"]}
    assert names == {
        "http": "proxy", "health": "proxy", "grpc": "triton", "metrics": "triton", "latency": "latency"
    }  # fmt: skip


def test_the_proxy_passes_nothing_but_health_on_its_plain_port() -> None:
    health = proxy(TLS).split("frontend health")[1].split("backend")[0]
    assert "bind :8003\n" in health
    assert "http-request deny unless { path /v2/health/live /v2/health/ready }" in health


def test_what_changes_triton_is_closed_with_a_key_that_every_start_makes_anew(tmp_path: Path) -> None:
    pod = triton_pod()

    def start() -> dict[str, str]:
        """The options that the server gets beside those of the manifest."""
        with Container(tmp_path, "v2").started("printf", "%s\\n") as triton:
            assert triton.stdout is not None
            lines = [triton.stdout.readline().strip() for _ in range(2)]
        return dict(line.removeprefix("--").split("=", 1) for line in lines)

    keys = []
    for _ in range(2):
        given = start()
        assert set(given) == {"http-restricted-api", "grpc-restricted-protocol"}
        (value,) = set(given.values())
        closed, _, key = value.partition(":operator=")
        assert set(closed.split(",")) == ALL - OPEN
        assert re.fullmatch("[0-9a-f]{32}", key)
        file = tmp_path / "tmp/operator-key"
        assert (file.read_text(), file.stat().st_mode & 0o777) == (f"{key}\n", 0o600)
        keys.append(key)
    assert keys[0] != keys[1]
    assert arguments(pod)["model-control-mode"] == "none"


def test_a_tls_secret_serves_tls_on_both_protocols_and_its_key_is_mounted_into_tritons_pod_only() -> None:
    manifests = render_chart(LOCAL, TLS)
    found = pods(manifests)
    pod = found.pop("Deployment inference-system-triton")["spec"]
    given = arguments(pod)
    assert given["grpc-use-ssl"] == "true"
    assert (given["grpc-server-cert"], given["grpc-server-key"]) == ("/tls/tls.crt", "/tls/tls.key")
    assert "bind :8000 ssl crt /tls/tls.crt" in proxy(LOCAL, TLS)
    assert {"name": "tls", "secret": {"secretName": "certificate"}} in pod["volumes"]
    for each in (container(pod, "triton"), container(pod, "proxy")):
        assert {"name": "tls", "mountPath": "/tls", "readOnly": True} in each["volumeMounts"], each["name"]
    assert len(found) == 3
    for name, client in found.items():
        (volume,) = (volume for volume in client["spec"]["volumes"] if volume["name"] == "tls")
        assert volume["secret"]["items"] == [{"key": "ca.crt", "path": "ca.crt"}], name
        text = str(containers(client))
        assert "LOADTEST_CA_FILE" in text, name
        assert "grpcs://dns:///inference-system-triton-headless.inference.svc:8001" in text, name
        assert "https://inference-system-triton.inference.svc:8000" in text, name


def test_without_a_secret_nothing_speaks_of_tls() -> None:
    text = str(render_chart())
    assert "/tls" not in text
    assert "grpc-use-ssl" not in text
    assert " ssl crt " not in text
    assert "https://inference" not in text


def policy(*values: Any, of: str = "-triton") -> dict[str, Any]:
    return dict(only(render_chart(*values), "NetworkPolicy", of)["spec"])


def ports(rules: list[dict[str, Any]]) -> set[int]:
    return {port["port"] for rule in rules for port in rule["ports"]}


def test_only_the_releases_namespace_and_prometheus_may_reach_triton() -> None:
    manifests = render_chart(LOCAL)
    spec = policy(LOCAL)
    labels = pods(manifests)["Deployment inference-system-triton"]["metadata"]["labels"]
    assert spec["podSelector"]["matchLabels"].items() <= labels.items()
    assert set(spec["policyTypes"]) == {"Ingress", "Egress"}
    clients, operators, prometheus = spec["ingress"]
    assert clients["from"] == load(LOCAL)["networkPolicy"]["clients"]
    assert ports([clients]) == {8000, 8001, 8003}
    assert operators["from"] == load(LOCAL)["networkPolicy"]["apiServer"]
    assert ports([operators]) == {8000, 8002}
    assert prometheus["from"] == PROMETHEUS
    assert ports([prometheus]) == {8002, 8004}


def test_clients_are_the_releases_namespace_by_default() -> None:
    assert policy()["ingress"][0]["from"] == [{"podSelector": {}}]


def test_clients_of_other_namespaces_are_a_value() -> None:
    peers = [
        {
            "namespaceSelector": {"matchLabels": {"team": "shop"}},
            "podSelector": {"matchLabels": {"app": "web"}},
        },
        {"ipBlock": {"cidr": "35.191.0.0/16"}},
    ]
    assert policy({"networkPolicy": {"clients": peers}})["ingress"][0]["from"] == peers


def test_some_clients_get_http_and_not_grpc() -> None:
    peers = [{"namespaceSelector": {"matchLabels": {"team": "web"}}}]
    rules = policy({"networkPolicy": {"httpClients": peers}})["ingress"]
    (rule,) = (rule for rule in rules if rule["from"] == peers)
    assert {port["port"] for port in rule["ports"]} == {8000, 8003}


def test_no_clients_admits_nobody_instead_of_everybody() -> None:
    """An empty `from` in a NetworkPolicy means any source."""
    nobody = {"networkPolicy": {"clients": [], "apiServer": []}}
    ingress = policy(nobody)["ingress"]
    assert all(rule["from"] for rule in ingress)
    assert ports(ingress) == {8002, 8004}
    ingress = policy(nobody, of="-loadtest")["ingress"]
    assert all(rule["from"] for rule in ingress)
    assert ports(ingress) == {5557, 9646}


def test_triton_may_ask_for_names_and_fetch_a_model_from_a_url_and_nothing_else() -> None:
    names = policy()["egress"]
    assert ports(names) == {53}
    assert names[0]["to"] == DEFAULTS["dns"]
    source = {"model": {"source": {"type": "url", "url": "gs://bucket/model"}}}
    rules = [rule for rule in policy(source)["egress"] if rule not in names]
    assert ports([rule for rule in rules if "to" not in rule]) == {443}
    for rule in rules:
        for peer in rule.get("to", []):
            assert peer["ipBlock"]["cidr"].startswith("169.254.169.")


def test_where_names_are_asked_for_is_a_value() -> None:
    cache = [{"ipBlock": {"cidr": "10.96.0.10/32"}}]
    for of in ("-triton", "-loadtest"):
        assert policy({"networkPolicy": {"dns": cache}}, of=of)["egress"][0]["to"] == cache


def test_the_load_test_reaches_triton_its_master_and_names_and_nothing_else() -> None:
    manifests = render_chart()
    spec = policy(of="-loadtest")
    selected = {
        name
        for name, pod in pods(manifests).items()
        if spec["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
        and pod["metadata"]["labels"]["app.kubernetes.io/component"]
        in spec["podSelector"]["matchExpressions"][0]["values"]
    }
    assert selected == {name for name in pods(manifests) if "triton" not in name}
    assert set(spec["policyTypes"]) == {"Ingress", "Egress"}
    names, master, triton = spec["egress"]
    assert (names["to"], ports([names])) == (DEFAULTS["dns"], {53})
    for rule, component, wanted in ((master, "loadtest-master", {5557}), (triton, "triton", {8000, 8001})):
        (peer,) = rule["to"]
        # No namespaceSelector: of its own namespace.
        assert set(peer) == {"podSelector"}
        assert peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == component
        assert ports([rule]) == wanted


def test_more_that_the_load_test_may_reach_is_a_value() -> None:
    targets = [{"ipBlock": {"cidr": "203.0.113.7/32"}}]
    assert policy({"networkPolicy": {"loadtestTargets": targets}}, of="-loadtest")["egress"][-1] == {
        "to": targets
    }


def test_locusts_page_answers_the_api_servers_proxy_alone() -> None:
    page = [rule for rule in policy(of="-loadtest")["ingress"] if 8089 in ports([rule])]
    assert [rule["from"] for rule in page] == [DEFAULTS["apiServer"]]


def test_nothing_of_a_release_is_reachable_from_outside_the_cluster() -> None:
    """Locust's page, Triton and its metrics: every Service is ClusterIP, and nothing routes to one."""
    for manifest in render_chart(LOCAL):
        assert manifest["kind"] not in ("Ingress", "HTTPRoute", "Gateway")
        if manifest["kind"] == "Service":
            assert manifest["spec"]["type"] == "ClusterIP", manifest["metadata"]["name"]
            assert not {"externalIPs", "loadBalancerIP"} & set(manifest["spec"])
    for name, pod in pods(render_chart(LOCAL)).items():
        for each in containers(pod):
            assert not any("hostPort" in port for port in each.get("ports", [])), name


def test_a_digest_can_be_given_for_every_image_of_the_chart() -> None:
    digest = "sha256:" + "0123456789abcdef" * 4
    image = {"image": {"digest": digest}}
    values = {"triton": {**image, "httpProxy": image}, "tools": image, "engine": image}
    values["model"] = {"source": image}
    for name, pod in pods(render_chart(values)).items():
        for each in containers(pod):
            assert each["image"].endswith(f"@{digest}"), (name, each["name"])


def test_two_pods_never_share_a_node_by_default() -> None:
    (rule,) = triton_pod()["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert rule["topologyKey"] == "kubernetes.io/hostname"
    labels = pods(render_chart())["Deployment inference-system-triton"]["metadata"]["labels"]
    assert rule["labelSelector"]["matchLabels"].items() <= labels.items()


def test_an_affinity_of_the_values_is_kept_beside_it() -> None:
    node = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}
    affinity = triton_pod({"triton": {"affinity": node}})["affinity"]
    assert affinity["nodeAffinity"] == node["nodeAffinity"]
    assert affinity["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert triton_pod({"triton": {"affinity": node, "onePodPerNode": False}})["affinity"] == node


def test_pods_spread_over_zones_and_nodes_but_never_wait_for_it() -> None:
    constraints = triton_pod({"triton": {"onePodPerNode": False}})["topologySpreadConstraints"]
    assert {each["topologyKey"] for each in constraints} == {
        "topology.kubernetes.io/zone",
        "kubernetes.io/hostname",
    }
    assert {each["whenUnsatisfiable"] for each in constraints} == {"ScheduleAnyway"}


def test_a_node_drain_takes_a_tenth_of_the_pods_and_one_that_cannot_start_holds_up_nothing() -> None:
    manifests = render_chart()
    budget = only(manifests, "PodDisruptionBudget", "-triton")["spec"]
    assert budget["maxUnavailable"] == "10%"
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    labels = pods(manifests)["Deployment inference-system-triton"]["metadata"]["labels"]
    assert budget["selector"]["matchLabels"].items() <= labels.items()


def test_priority_and_runtime_class_are_values() -> None:
    pod = triton_pod({"triton": {"priorityClassName": "serving", "runtimeClassName": "nvidia"}})
    assert (pod["priorityClassName"], pod["runtimeClassName"]) == ("serving", "nvidia")
    assert not {"priorityClassName", "runtimeClassName"} & set(triton_pod())


@pytest.mark.parametrize("file", ["values.yaml", "local.yaml"])
def test_nothing_waits_longer_than_it_may_take(file: str) -> None:
    """Or an overload gets late answers in place of refusals."""
    import yaml

    values = yaml.safe_load((ROOT / "charts/inference-system" / "values.yaml").read_text())
    if file == "local.yaml":
        values = merge(values, yaml.safe_load(LOCAL.read_text()))
    queue = values["model"]["batching"]["queue"]
    assert 0 < queue["timeoutMicroseconds"] / 1e6 <= 0.7 * values["slo"]["latency"]["client"]["p99"]


def test_the_proxy_has_a_right_request_for_each_model() -> None:
    """Which watch-models.lua sends where nobody else sends any."""
    values = {
        "model": {"batching": {"priorities": [{}, {}]}},
        "extraModels": {
            "words": {
                "input": {"name": "text", "dataType": "BYTES", "shape": [3, 2]},
                "batching": {"priorities": []},
            }
        },
    }
    data = only(render_chart(values), "ConfigMap", "-proxy-config")["data"]
    assert 'setenv WATCHED_MODELS "resnet50 words"' in data["haproxy.cfg"]
    assert data["watch-models.lua"] == (ROOT / "charts/inference-system/files/watch-models.lua").read_text()
    picture, words = (json.loads(data[f"{name}.json"]) for name in ("resnet50", "words"))
    assert picture["inputs"] == [
        {
            "name": "image",
            "datatype": "UINT8",
            "shape": [1, 224, 224, 3],
            "parameters": {"binary_data_size": 150528},
        }
    ]
    assert words["inputs"][0]["parameters"] == {"binary_data_size": 24}
    assert picture["parameters"]["priority"] == 1
    assert "priority" not in words["parameters"]


def test_a_batch_may_take_as_long_in_the_backend_as_in_the_pods_end() -> None:
    triton = container(triton_pod({"triton": {"executionSeconds": 7}}), "triton")
    assert {"name": "EXECUTION_SECONDS", "value": "7"} in triton["env"]
