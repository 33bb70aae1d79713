"""The embedded cluster enforces NetworkPolicies as the Kubernetes API documents them.

Four pods of two namespaces and two nodes ask a fifth one over TCP, over UDP and through a Service. A
connection counts as let through when the answer came back.
"""

from __future__ import annotations

import json
import subprocess
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from cluster import control, lifecycle
from cluster.components import KUBERNETES
from cluster.node import Node, pod_network
from model_tools.console import BadInput

from .embedded import EMBEDDED

pytestmark = [*EMBEDDED, pytest.mark.timeout(600)]
# An image that every node has; it has perl.
IMAGE = f"{control.REPOSITORY}/kube-proxy:{KUBERNETES.version('k8s.io/kubernetes')}"
# Answers every connection and every datagram with one line.
SERVER = r"""
use IO::Socket::INET; use IO::Select;
my @ports = (8080, 9090, 9091, 9092, 9093);
my @tcp = map { IO::Socket::INET->new(LocalPort => $_, Listen => 64, ReuseAddr => 1) or die } @ports;
my $udp = IO::Socket::INET->new(LocalPort => 8080, Proto => "udp") or die;
my $all = IO::Select->new(@tcp, $udp);
while (my @ready = $all->can_read) {
    for my $one (@ready) {
        if ($one == $udp) { $udp->recv(my $asked, 64); $udp->send("here\n"); next }
        my $client = $one->accept or next;
        print $client "here\n";
        close $client;
    }
}
"""
# `PROTOCOL ADDRESS PORT` for each argument, at the same time; prints those that answered.
ASK = r"""
use IO::Socket::INET;
for my $target (@ARGV) {
    next if fork;
    alarm 3;
    my ($protocol, $address, $port) = split " ", $target;
    my $socket = IO::Socket::INET->new(Proto => $protocol, PeerAddr => $address, PeerPort => $port) or exit;
    $socket->send("there?\n") if $protocol eq "udp";
    $socket->recv(my $answer, 64);
    print "$target\n" if $answer eq "here\n";
    exit;
}
1 while wait > 0;
"""
PATIENCE = 60.0  # seconds until policies must be in force
LABELS = {"server": "server", "near": "friend", "far": "stranger", "friend": "friend", "stranger": "stranger"}
CLIENTS = ("near", "far", "friend", "stranger")
TCP = ("8080", "9090", "9091", "9092", "9093")
ASKED = (*(f"tcp {port}" for port in TCP), "udp 8080", "service")
FRIENDS = {"podSelector": {"matchLabels": {"role": "friend"}}}

NO_FRIENDS = {"matchExpressions": [{"key": "role", "operator": "NotIn", "values": ["friend"]}]}


@dataclass(frozen=True)
class Place:
    """Two namespaces with pods; `near` is on the node of `server`, as is `friend`."""

    home: str
    other: str
    addresses: dict[str, str]
    service: str

    def namespace(self, pod: str) -> str:
        return self.home if pod in ("server", "near", "far") else self.other

    def target(self, pod: str, what: str) -> str:
        if what == "service":
            return f"tcp {self.service} 80"
        protocol, port = what.split()
        return f"{protocol} {self.addresses[pod]} {port}"

    def answered(self, client: str, pod: str, asked: tuple[str, ...]) -> set[str]:
        """What of `asked` the pod answered a client."""
        targets = {self.target(pod, what): what for what in asked}
        said = control.kubectl(
            "exec", client, "--namespace", self.namespace(client), "--",
            "perl", "-e", ASK, *targets,
        )  # fmt: skip
        return {targets[line] for line in said.splitlines()}


@dataclass(frozen=True)
class Case:
    """policies of the namespace `home`, as their specs; what of the pod `of` answers each client then."""

    policies: tuple[dict[str, Any], ...]
    answers: dict[str, set[str]]
    of: str = "server"
    asked: tuple[str, ...] = ASKED
    # Policies of the namespace `other`.
    others: tuple[dict[str, Any], ...] = field(default=())


def ingress(*rules: dict[str, Any], to: str | None = "server") -> dict[str, Any]:
    """For the pod `to`, or for all."""
    selected = {"matchLabels": {"role": to}} if to else {}
    return {"podSelector": selected, "policyTypes": ["Ingress"], "ingress": list(rules)}


def egress(*rules: dict[str, Any], of: str | None = None) -> dict[str, Any]:
    selected = {"matchLabels": {"role": of}} if of else {}
    return {"podSelector": selected, "policyTypes": ["Egress"], "egress": list(rules)}


def named(namespace: str) -> dict[str, Any]:
    """The namespaces of the test, by a label that they have."""
    return {"namespaceSelector": {"matchLabels": {"place": namespace}}}


def port(number: int | str, protocol: str = "TCP", end: int | None = None) -> dict[str, Any]:
    return {"port": number, "protocol": protocol, **({"endPort": end} if end else {})}


def everything(*clients: str) -> dict[str, set[str]]:
    return {client: set(ASKED) if client in clients else set() for client in CLIENTS}


def each(*asked: str) -> dict[str, set[str]]:
    return {client: set(asked) for client in CLIENTS}


WHOLE = {"cidr": pod_network()}
OTHER_NODE = "${FAR}/32"
CASES = {
    "no policy: all is open": Case((), everything(*CLIENTS)),
    "a policy without rules closes": Case((ingress(),), everything()),
    "an empty podSelector is the whole namespace": Case((ingress(to=None),), everything()),
    "what the policies of others select stays open": Case((ingress(to="friend"),), everything(*CLIENTS)),
    "an empty rule opens": Case((ingress({}),), everything(*CLIENTS)),
    "podSelector: of the policy's namespace": Case((ingress({"from": [FRIENDS]}),), everything("near")),
    "empty podSelector: all of the policy's namespace": Case(
        (ingress({"from": [{"podSelector": {}}]}),), everything("near", "far")
    ),
    "namespaceSelector": Case((ingress({"from": [named("other")]}),), everything("friend", "stranger")),
    "empty namespaceSelector: all namespaces": Case(
        (ingress({"from": [{"namespaceSelector": {}}]}),), everything(*CLIENTS)
    ),
    "namespaceSelector and podSelector in one peer: both": Case(
        (ingress({"from": [{**named("other"), **FRIENDS}]}),), everything("friend")
    ),
    "namespaceSelector and podSelector in two peers: either": Case(
        (ingress({"from": [named("other"), FRIENDS]}),), everything("friend", "stranger", "near")
    ),
    "matchExpressions": Case(
        (ingress({"from": [{"namespaceSelector": {}, "podSelector": NO_FRIENDS}]}),),
        everything("far", "stranger"),
    ),
    "ipBlock with except": Case(
        (ingress({"from": [{"ipBlock": {**WHOLE, "except": [OTHER_NODE]}}]}),),
        everything("near", "friend", "stranger"),
    ),
    "ports, of the pod and not of the Service": Case(
        (ingress({"ports": [port(8080)]}),), each("tcp 8080", "service")
    ),
    "a port is of its protocol": Case((ingress({"ports": [port(8080, "UDP")]}),), each("udp 8080")),
    "a protocol without a port is all of its ports": Case(
        (ingress({"ports": [{"protocol": "UDP"}]}),), each("udp 8080")
    ),
    "endPort": Case(
        (ingress({"ports": [port(9090, end=9092)]}),), each("tcp 9090", "tcp 9091", "tcp 9092")
    ),
    "a named port": Case((ingress({"ports": [port("admin")]}),), each("tcp 9093")),
    "from and ports: both": Case(
        (ingress({"from": [FRIENDS], "ports": [port(9090)]}),),
        {**everything(), "near": {"tcp 9090"}},
    ),
    "rules add up": Case(
        (ingress({"from": [FRIENDS]}, {"from": [named("other")], "ports": [port(9090)]}),),
        {"near": set(ASKED), "far": set(), "friend": {"tcp 9090"}, "stranger": {"tcp 9090"}},
    ),
    "policies add up": Case(
        (ingress(to=None), ingress({"from": [FRIENDS]}), ingress({"ports": [port(9091)]})),
        {**each("tcp 9091"), "near": set(ASKED)},
    ),
    "egress without rules closes; those that are asked still answer": Case(
        (egress(),), everything("friend", "stranger")
    ),
    "egress to pods": Case(
        (egress({"to": [{"podSelector": {"matchLabels": {"role": "server"}}}]}, of="friend"),),
        everything(*CLIENTS),
    ),
    "egress to other pods": Case(
        (egress({"to": [named("other")]}, of="friend"),), everything("far", "friend", "stranger")
    ),
    "egress to an ipBlock's ports, through a Service too": Case(
        (egress({"to": [{"ipBlock": WHOLE}], "ports": [port(8080)]}, of="stranger"),),
        {**everything("near", "friend", "stranger"), "far": {"tcp 8080", "service"}},
    ),
    "egress to a named port": Case(
        (egress({"ports": [port("admin")]}, of="stranger"),),
        {**everything("near", "friend", "stranger"), "far": {"tcp 9093"}},
    ),
    "egress and ingress: both ends must let it through": Case(
        (ingress({"from": [named("other")], "ports": [port(9090), port(9091)]}),),
        {**everything(), "friend": {"tcp 9091"}, "stranger": {"tcp 9090", "tcp 9091"}},
        others=(egress({"ports": [port(9091), port(9092)]}, of="friend"),),
    ),
}  # fmt: skip
# Those that say the most in the least time, for every change; the others are for the night.
QUICK = (
    "a policy without rules closes",
    "namespaceSelector and podSelector in two peers: either",
    "egress to an ipBlock's ports, through a Service too",
)


@pytest.fixture(scope="module")
def nodes() -> list[Node]:
    try:
        return lifecycle.require()
    except BadInput as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def place(nodes: list[Node]) -> Iterator[Place]:
    suffix = uuid.uuid4().hex[:8]
    namespaces = {kind: f"test-{kind}-{suffix}" for kind in ("home", "other")}
    objects: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"place": kind}}}
        for kind, name in namespaces.items()
    ]
    control.apply(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    for namespace in namespaces.values():
        # Pods are refused until the account that they run as is there.
        control.kubectl(
            "wait", "serviceaccount/default", "--for=create", "--namespace", namespace, "--timeout=60s",
            timeout=70,
        )  # fmt: skip
    objects = []
    homes = {name: namespaces["home" if name in ("server", "near", "far") else "other"] for name in LABELS}
    for name, role in LABELS.items():
        node = nodes[-1] if name in ("far", "stranger") else nodes[-2]
        objects.append(pod(name, homes[name], {"role": role}, nodeName=node.name))
    service = {"selector": {"role": "server"}, "ports": [{"port": 80, "targetPort": 8080}]}
    objects.append(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "server", "namespace": namespaces["home"]},
            "spec": service,
        }
    )
    control.apply(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    try:
        for namespace in namespaces.values():
            control.kubectl(
                "wait", "pod", "--all", "--namespace", namespace, "--for=condition=Ready", "--timeout=90s",
                timeout=100,
            )  # fmt: skip
        found = [
            item for name in namespaces.values() for item in control.get("pods", "--namespace", name)["items"]
        ]
        yield Place(
            **namespaces,
            addresses={item["metadata"]["name"]: item["status"]["podIP"] for item in found},
            service=control.get("service", "server", "--namespace", namespaces["home"])["spec"]["clusterIP"],
        )
    finally:
        control.kubectl("delete", "namespace", *namespaces.values(), "--wait=false")


def pod(name: str, namespace: str, labels: dict[str, str], **spec: Any) -> dict[str, Any]:
    container = {
        "name": "main",
        "image": IMAGE,
        "command": ["perl", "-e", SERVER],
        "ports": [{"name": "web", "containerPort": 8080}, {"name": "admin", "containerPort": 9093}],
        "readinessProbe": {"tcpSocket": {"port": "web"}, "periodSeconds": 1},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "containers": [container],
            "terminationGracePeriodSeconds": 0,
            "tolerations": [{"operator": "Exists"}],
            **spec,
        },
    }


def enforce(place: Place, namespace: str, policies: tuple[dict[str, Any], ...]) -> None:
    """Makes these the policies of the namespace, and no others."""
    control.kubectl("delete", "networkpolicies", "--all", "--namespace", namespace)
    items = [
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": f"policy-{number}", "namespace": namespace},
            "spec": spec,
        }
        for number, spec in enumerate(policies)
    ]
    if items:
        listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
        control.apply(listed.replace("${FAR}", place.addresses["far"]))


def until_seen(place: Place, case: Case) -> None:
    """Until the answers are the case's. Fails with the last ones when they never are."""
    deadline = time.monotonic() + PATIENCE
    while True:
        with ThreadPoolExecutor(len(CLIENTS)) as pool:
            found = pool.map(lambda client: place.answered(client, case.of, case.asked), CLIENTS)
            seen = dict(zip(CLIENTS, found, strict=True))
        if seen == case.answers or time.monotonic() > deadline:
            break
    assert seen == case.answers


@pytest.fixture
def policies(place: Place) -> Iterator[Place]:
    yield place
    for namespace in (place.home, place.other):
        enforce(place, namespace, ())


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.nightly) for name in CASES]
)
def test_policies_let_through_what_the_api_says(policies: Place, name: str) -> None:
    case = CASES[name]
    enforce(policies, policies.home, case.policies)
    enforce(policies, policies.other, case.others)
    until_seen(policies, case)


def test_a_policy_takes_a_pod_in_and_out_as_labels_change(policies: Place) -> None:
    enforce(policies, policies.home, (ingress({"from": [FRIENDS]}),))
    until_seen(policies, Case((), everything("near")))
    label = ("label", "pod", "far", "--namespace", policies.home, "--overwrite")
    control.kubectl(*label, "role=friend")
    try:
        until_seen(policies, Case((), everything("near", "far")))
    finally:
        control.kubectl(*label, "role=stranger")
    until_seen(policies, Case((), everything("near")))


def reached(node: Node, address: str) -> bool:
    """Whether a process of the node itself gets an answer of a pod."""
    asked = node.command("perl", "-e", ASK, f"tcp {address} 8080", namespaces="--net")
    return bool(subprocess.run(asked, capture_output=True, check=False).stdout)


def test_a_closed_pod_is_ready_and_its_own_node_reaches_it_but_no_other(
    policies: Place, nodes: list[Node]
) -> None:
    """The kubelet's probes come from the node, which every policy lets in."""
    enforce(policies, policies.home, (ingress(to=None),))
    until_seen(policies, Case((), everything()))
    control.apply(json.dumps(pod("late", policies.home, {"role": "late"}, nodeName=nodes[-1].name)))
    control.kubectl(
        "wait",
        "pod/late",
        "--namespace",
        policies.home,
        "--for=condition=Ready",
        "--timeout=90s",
        timeout=100,
    )
    own, control_plane = nodes[-2], nodes[0]
    assert reached(own, policies.addresses["server"])
    assert not reached(control_plane, policies.addresses["server"])
    # Another node is an address like any other.
    block = {"from": [{"ipBlock": {"cidr": f"{control_plane.address}/32"}}]}
    enforce(policies, policies.home, (ingress(block),))
    deadline = time.monotonic() + PATIENCE
    while not reached(control_plane, policies.addresses["server"]):
        assert time.monotonic() < deadline, "an ipBlock of the control plane does not let it in"
    until_seen(policies, Case((), everything()))
