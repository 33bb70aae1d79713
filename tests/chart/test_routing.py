"""How clients outside the cluster reach Triton: one load balancer, or one for the regions of a fleet."""

from __future__ import annotations

from typing import Any

import pytest

from . import schemas
from .render import ROOT, load, merge, only, pods, render_chart, render_files
from .test_values_files import FLEET, REGIONS

US, EUROPE = (ROOT / "values" / "regions" / f"{region}.yaml" for region in ("us-central1", "europe-west1"))
GATEWAY = {
    "routing": {
        "kind": "gateway",
        "hosts": {"http": "a.example.com", "grpc": "b.example.com"},
        "gateway": {"certificateMap": "map"},
    }
}
BALANCER = {"routing": {"kind": "loadBalancer", "loadBalancer": {"sourceRanges": ["192.0.2.0/24"]}}}
TLS = {"triton": {"tls": {"secretName": "certificate"}}}
ROUTED = {"Gateway", "HTTPRoute", "HealthCheckPolicy", "GCPBackendPolicy", "ServiceExport"}
GRPC = {"routing": {"gateway": {"grpcRoute": "GRPCRoute"}}}
LOAD_BALANCERS = ["130.211.0.0/22", "35.191.0.0/16"]


def routing(**values: Any) -> dict[str, Any]:
    return {"routing": values}


def of_kind(manifests: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def admitted(manifests: list[dict[str, Any]], port: int) -> list[str]:
    """The networks that may reach a port of Triton's pods."""
    rules = only(manifests, "NetworkPolicy", "-triton")["spec"]["ingress"]
    return [
        peer["ipBlock"]["cidr"]
        for rule in rules
        for peer in rule["from"]
        if "ipBlock" in peer and port in {each["port"] for each in rule["ports"]}
    ]


def rate(manifests: list[dict[str, Any]], protocol: str) -> int | None:
    annotations = only(manifests, "Service", f"-{protocol}")["metadata"].get("annotations", {})
    found = annotations.get("networking.gke.io/max-rate-per-endpoint")
    return None if found is None else int(found)


@pytest.fixture(autouse=True, scope="module")
def _every_kind_has_its_schema() -> None:
    """The renders below are validated, GKE's own kinds among them."""
    try:
        schemas.load(), schemas.load_gke()
    except schemas.Unavailable as error:
        pytest.skip(f"objects of the Gateway API and of GKE are NOT validated here: {error}")


def test_nothing_of_it_is_there_by_default() -> None:
    manifests = render_chart()
    assert not ROUTED & {manifest["kind"] for manifest in manifests}
    assert not admitted(manifests, 8001)


@pytest.mark.parametrize("file", REGIONS, ids=lambda file: file.stem)
def test_every_region_exports_its_services_and_only_the_config_cluster_has_the_gateway(file: Any) -> None:
    manifests = render_chart(FLEET, file)
    config = load(FLEET)["routing"]["configCluster"]
    exported = {each["metadata"]["name"] for each in of_kind(manifests, "ServiceExport")}
    assert exported == {"inference-system-http", "inference-system-grpc"}
    assert exported <= {each["metadata"]["name"] for each in of_kind(manifests, "Service")}
    here = ROUTED & {manifest["kind"] for manifest in manifests}
    assert here == (ROUTED if file.stem == config else {"ServiceExport"})


def test_one_of_the_regions_is_the_config_cluster() -> None:
    assert load(FLEET)["routing"]["configCluster"] in {file.stem for file in REGIONS}


def test_another_region_can_be_the_config_cluster() -> None:
    moved = routing(configCluster="europe-west1")
    assert not of_kind(render_chart(FLEET, US, moved), "Gateway")
    assert of_kind(render_chart(FLEET, EUROPE, moved), "Gateway")


def test_a_fleets_routes_and_policies_are_about_what_the_services_of_all_regions_make_together() -> None:
    manifests = render_chart(FLEET, US)
    (gateway,) = of_kind(manifests, "Gateway")
    assert gateway["spec"]["gatewayClassName"] == "gke-l7-global-external-managed-mc"
    for protocol, port in (("http", 8000), ("grpc", 8001)):
        target = {"group": "net.gke.io", "kind": "ServiceImport", "name": f"inference-system-{protocol}"}
        route = only(manifests, "HTTPRoute", f"-{protocol}")
        assert route["spec"]["hostnames"] == [load(FLEET)["routing"]["hosts"][protocol]]
        assert route["spec"]["rules"] == [{"backendRefs": [{**target, "port": port}]}]
        (parent,) = route["spec"]["parentRefs"]
        assert parent["name"] == gateway["metadata"]["name"]
        assert parent["sectionName"] in {each["name"] for each in gateway["spec"]["listeners"]}
        for policy in ("HealthCheckPolicy", "GCPBackendPolicy"):
            assert only(manifests, policy, f"-{protocol}")["spec"]["targetRef"] == target


def test_a_gateway_of_one_cluster_has_routes_to_the_services_themselves() -> None:
    manifests = render_chart(GATEWAY)
    (gateway,) = of_kind(manifests, "Gateway")
    assert gateway["spec"]["gatewayClassName"] == "gke-l7-global-external-managed"
    assert not of_kind(manifests, "ServiceExport")
    (backend,) = only(manifests, "HTTPRoute", "-grpc")["spec"]["rules"][0]["backendRefs"]
    assert backend == {"group": "", "kind": "Service", "name": "inference-system-grpc", "port": 8001}
    policies = of_kind(manifests, "HealthCheckPolicy") + of_kind(manifests, "GCPBackendPolicy")
    assert {policy["spec"]["targetRef"]["kind"] for policy in policies} == {"Service"}


@pytest.mark.parametrize("values", [GATEWAY, BALANCER], ids=["gateway", "load balancer"])
def test_what_is_routed_to_are_tritons_pods_and_their_ports(values: dict[str, Any]) -> None:
    manifests = render_chart(values)
    pod = pods(manifests)["Deployment inference-system-triton"]
    ports = {
        port["name"]: port["containerPort"] for each in pod["spec"]["containers"] for port in each["ports"]
    }
    named = ("-http", "-grpc", "-external")
    services = [m for m in of_kind(manifests, "Service") if m["metadata"]["name"].endswith(named)]
    assert services
    for service in services:
        assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
        for port in service["spec"]["ports"]:
            assert port["port"] == ports[port["targetPort"]]


@pytest.mark.parametrize(
    ("values", "http", "grpc"), [({}, "HTTP", "kubernetes.io/h2c"), (TLS, "HTTPS", "HTTP2")]
)
def test_the_load_balancer_speaks_to_pods_as_they_do(values: dict[str, Any], http: str, grpc: str) -> None:
    manifests = render_chart(GATEWAY, values)
    spoken = [
        only(manifests, "Service", f"-{protocol}")["spec"]["ports"][0]["appProtocol"]
        for protocol in ("http", "grpc")
    ]
    assert spoken == [http, grpc]


def test_a_region_is_full_where_its_pods_have_all_they_can_serve() -> None:
    """autoscaling.requestsPerSecond is 70 % of it: pods are added before a request goes to another region."""
    scaled = merge(GATEWAY, {"autoscaling": {"kind": "keda", "requestsPerSecond": 700}})
    manifests = render_chart(scaled, routing(grpcShare=0.75))
    assert (rate(manifests, "grpc"), rate(manifests, "http")) == (750, 250)
    (load_trigger, _) = only(manifests, "ScaledObject", "-triton")["spec"]["triggers"]
    assert float(load_trigger["metadata"]["threshold"]) == 700


@pytest.mark.parametrize(("share", "left"), [(1, "grpc"), (0, "http")])
def test_one_protocol_alone_has_the_whole_pod(share: float, left: str) -> None:
    host = routing(grpcShare=share, hosts={"http": "", "grpc": "", left: "a.example.com"})
    manifests = render_chart(GATEWAY, host, {"autoscaling": {"requestsPerSecond": 700}})
    assert rate(manifests, left) == 1000
    routes = of_kind(manifests, "HTTPRoute")
    assert [route["metadata"]["name"] for route in routes] == [f"inference-system-{left}"]


def test_a_gateway_of_one_cluster_does_without_a_measured_rate() -> None:
    assert rate(render_chart(GATEWAY), "grpc") is None


def test_regions_with_other_gpus_have_a_rate_of_their_own() -> None:
    faster = {"autoscaling": {"requestsPerSecond": 1400}}
    assert rate(render_chart(FLEET, EUROPE, faster), "grpc") == 1000
    assert rate(render_chart(FLEET, US), "grpc") == 200


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_pods_are_asked_for_their_readiness_on_the_plain_port(protocol: str) -> None:
    manifests = render_chart(GATEWAY, TLS)
    check = only(manifests, "HealthCheckPolicy", f"-{protocol}")["spec"]["default"]["config"]
    pod = pods(manifests)["Deployment inference-system-triton"]
    probes = [
        each["readinessProbe"]["httpGet"] for each in pod["spec"]["containers"] if "readinessProbe" in each
    ]
    assert check["type"] == "HTTP"
    assert check["httpHealthCheck"]["requestPath"] in {probe["path"] for probe in probes}
    assert check["httpHealthCheck"]["port"] == 8003


def test_grpc_health_is_asked_of_the_grpc_port_by_choice() -> None:
    manifests = render_chart(GATEWAY, routing(healthCheck={"grpc": "grpc"}))
    checks = {
        protocol: only(manifests, "HealthCheckPolicy", f"-{protocol}")["spec"]["default"]["config"]
        for protocol in ("http", "grpc")
    }
    assert checks["grpc"] == {"type": "GRPC", "grpcHealthCheck": {"portSpecification": "USE_SERVING_PORT"}}
    assert checks["http"]["type"] == "HTTP"


@pytest.mark.parametrize("queue", [0, 20_000_000])
def test_the_load_balancer_outlasts_the_pods_proxy_and_a_pod_that_drains(queue: int) -> None:
    waits = {"model": {"batching": {"maxQueueDelayMicroseconds": 0, "queue": {"timeoutMicroseconds": queue}}}}
    manifests = render_chart(GATEWAY, waits)
    proxy = only(manifests, "ConfigMap", "-proxy-config")["data"]["haproxy.cfg"]
    (server,) = (int(line.split()[-1][:-1]) for line in proxy.splitlines() if "timeout server" in line)
    grace = pods(manifests)["Deployment inference-system-triton"]["spec"]["terminationGracePeriodSeconds"]
    for policy in of_kind(manifests, "GCPBackendPolicy"):
        default = policy["spec"]["default"]
        assert default["timeoutSec"] > server
        assert default["connectionDraining"]["drainingTimeoutSec"] >= 45 + queue / 1e6
        assert default["connectionDraining"]["drainingTimeoutSec"] < grace


def test_the_log_is_sampled_or_off() -> None:
    def logging(share: float) -> Any:
        manifests = render_chart(GATEWAY, routing(logging={"sampleRate": share}))
        return only(manifests, "GCPBackendPolicy", "-grpc")["spec"]["default"]["logging"]

    assert logging(0.25) == {"enabled": True, "sampleRate": 250_000}
    assert logging(0.000001) == {"enabled": True, "sampleRate": 1}
    assert logging(0) == {"enabled": False}


def test_a_security_policy_and_iap_are_names() -> None:
    named = routing(securityPolicy="armor", iap={"clientId": "id", "secretName": "oauth"})
    for policy in of_kind(render_chart(GATEWAY, named), "GCPBackendPolicy"):
        assert policy["spec"]["default"]["securityPolicy"] == "armor"
        assert policy["spec"]["default"]["iap"] == {
            "enabled": True, "clientID": "id", "oauth2ClientSecret": {"name": "oauth"}
        }  # fmt: skip
    for policy in of_kind(render_chart(GATEWAY), "GCPBackendPolicy"):
        assert not {"iap", "securityPolicy"} & set(policy["spec"]["default"])


def test_the_gateway_takes_its_address_and_its_certificate_from_names() -> None:
    def gateway(**values: Any) -> Any:
        (found,) = of_kind(render_chart(GATEWAY, routing(gateway=values)), "Gateway")
        return found

    mapped = gateway(address="inference")
    assert mapped["spec"]["addresses"] == [{"type": "NamedAddress", "value": "inference"}]
    assert mapped["metadata"]["annotations"] == {"networking.gke.io/certmap": "map"}
    (listener,) = mapped["spec"]["listeners"]
    assert (listener["protocol"], listener["port"], "tls" in listener) == ("HTTPS", 443, False)

    (listener,) = gateway(certificateMap="", certificates=["one", "two"])["spec"]["listeners"]
    assert listener["tls"]["options"] == {"networking.gke.io/pre-shared-certs": "one,two"}
    (listener,) = gateway(certificateMap="", secretName="tls")["spec"]["listeners"]
    assert listener["tls"]["certificateRefs"] == [{"kind": "Secret", "name": "tls"}]


def test_a_class_of_another_make_has_no_policies_of_gke() -> None:
    manifests = render_chart(GATEWAY, routing(gateway={"className": "envoy"}))
    assert not {"HealthCheckPolicy", "GCPBackendPolicy"} & {m["kind"] for m in manifests}


def test_grpc_has_a_route_of_its_own_kind_where_the_class_takes_it() -> None:
    as_http, as_grpc = (
        only(render_chart(GATEWAY, values), kind, "-grpc")
        for values, kind in (({}, "HTTPRoute"), (GRPC, "GRPCRoute"))
    )
    assert as_grpc["spec"] == as_http["spec"]
    assert [route["metadata"]["name"] for route in of_kind(render_chart(GATEWAY, GRPC), "HTTPRoute")] == [
        "inference-system-http"
    ]


@pytest.mark.parametrize(
    ("values", "networks"), [(GATEWAY, LOAD_BALANCERS), (BALANCER, ["192.0.2.0/24"]), ({}, [])]
)
def test_the_network_policy_admits_what_the_load_balancer_comes_from(
    values: dict[str, Any], networks: list[str]
) -> None:
    manifests = render_chart(values)
    for port in (8000, 8001, 8003):
        assert admitted(manifests, port) == networks
    assert admitted(manifests, 8002) == []
    assert admitted(render_chart(values, {"networkPolicy": {"clients": []}}), 8001) == networks


def test_every_region_admits_the_fleets_load_balancer() -> None:
    assert admitted(render_chart(FLEET, EUROPE), 8001) == LOAD_BALANCERS


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ((FLEET, US), "https://inference.example.com\n"),
        ((FLEET, US), "gRPC grpc.inference.example.com:443\n"),
        ((FLEET, EUROPE), "through the Gateway in us-central1:"),
        ((BALANCER,), "get service inference-system-external`"),
    ],
)
def test_the_notes_say_where_clients_outside_find_it(layers: tuple[Any, ...], said: str) -> None:
    (notes,) = (text for file, text in render_files(*layers).items() if file.endswith("NOTES.txt"))
    assert said in notes
    (notes,) = (text for file, text in render_files().items() if file.endswith("NOTES.txt"))
    assert "From outside" not in notes


def test_a_load_balancer_of_one_cluster_is_a_service() -> None:
    annotations = {"networking.gke.io/load-balancer-type": "Internal"}
    manifests = render_chart(BALANCER, routing(loadBalancer={"annotations": annotations}))
    service = only(manifests, "Service", "-external")
    assert service["metadata"]["annotations"] == annotations
    assert service["spec"]["type"] == "LoadBalancer"
    assert service["spec"]["loadBalancerSourceRanges"] == ["192.0.2.0/24"]
    # Another policy hides the client's address, by which the NetworkPolicy admits it.
    assert service["spec"]["externalTrafficPolicy"] == "Local"
    assert {port["port"] for port in service["spec"]["ports"]} == {8000, 8001}
    assert not ROUTED & {manifest["kind"] for manifest in manifests}
