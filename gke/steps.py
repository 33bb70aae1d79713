"""What has to be there, in order: for each thing how to see that it is, to make it, and to remove it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from gke.fleet import NAMESPACE, PREFIX, RELEASE, Fleet, Region

SERVICES = (
    "artifactregistry", "certificatemanager", "compute", "container", "gkehub", "multiclusteringress",
    "multiclusterservicediscovery", "trafficdirector",
)  # fmt: skip
PORTS = (8000, 8001, 8003)  # HTTP, gRPC, health: docs/operations.md, "What clients can reach"


@dataclass(frozen=True)
class Answer:
    """What a command prints, its lines joined by commas, between two other texts."""

    command: tuple[str, ...]
    before: str = ""
    after: str = ""


Word = str | Answer
Command = tuple[Word, ...]


@dataclass(frozen=True)
class Thing:
    """Something in the cloud, or in the kubeconfig.

    there: succeeds where it is; None: make is run every time, which changes nothing that is right already.
    """

    name: str
    there: Command | None
    make: Command
    remove: Command | None = None


def things(fleet: Fleet, spot: bool) -> Iterator[Thing]:
    """Everything, in the order in which it is made; it is removed in the reverse order.

    spot: whether there is a second pool of nodes, of spot machines, which the autoscaler prefers as cheaper.
    """
    project = ("--project", fleet.project)
    yield Thing(
        "services of the project",
        None,
        ("gcloud", "services", "enable", *(f"{name}.googleapis.com" for name in SERVICES), *project),
    )
    for region in fleet.regions:
        yield from _registry(region)
        yield from _cluster(region, spot)
        yield from _models(region)
    if fleet.config:
        yield from _multi_cluster(fleet, fleet.config)
    if fleet.gateway:
        yield from _front(fleet)


def shell(command: Command) -> str:
    """The command as a shell takes it."""
    return " ".join(
        word if isinstance(word, str) and shlex.quote(word) == word else _quoted(word) for word in command
    )


def _quoted(word: Word) -> str:
    if isinstance(word, str):
        return shlex.quote(word)
    return f'"{word.before}$({shell(word.command)} | paste -sd,){word.after}"'


def _number(project: str) -> tuple[str, ...]:
    return ("gcloud", "projects", "describe", project, "--format=value(projectNumber)")


def _registry(region: Region) -> Iterator[Thing]:
    repository = (region.repository, "--location", region.name, "--project", region.project)
    command = ("gcloud", "artifacts", "repositories")
    yield Thing(
        f"registry in {region.name}",
        (*command, "describe", *repository),
        (*command, "create", *repository, "--repository-format", "docker"),
        (*command, "delete", *repository, "--quiet"),
    )
    nodes = Answer(_number(region.project), "serviceAccount:", "-compute@developer.gserviceaccount.com")
    role = ("--role", "roles/artifactregistry.reader", "--member", nodes)
    yield Thing(
        f"right of the nodes to pull images in {region.name}",
        None,
        (*command, "add-iam-policy-binding", *repository, *role),
    )


def _cluster(region: Region, spot: bool) -> Iterator[Thing]:
    place = ("--location", region.name, "--project", region.project)
    clusters = ("gcloud", "container", "clusters")
    yield Thing(
        f"cluster {region.cluster}",
        (*clusters, "describe", region.cluster, *place),
        (
            *clusters, "create", region.cluster, *place, "--release-channel", "regular", "--num-nodes", "1",
            "--machine-type", "e2-standard-4", "--enable-ip-alias", "--enable-dataplane-v2",
            "--workload-pool", f"{region.project}.svc.id.goog", "--gateway-api", "standard",
        ),
        (*clusters, "delete", region.cluster, *place, "--quiet"),
    )  # fmt: skip
    fewest, most = region.nodes
    yield _pool(region, "gpu", (fewest, most))
    if spot:
        yield _pool(region, "gpu-spot", (0, most), "--spot")
    memberships = ("gcloud", "container", "fleet", "memberships")
    yield Thing(
        f"{region.cluster} in the fleet",
        (*memberships, "describe", region.cluster, *place),
        (
            *memberships, "register", region.cluster, *place,
            "--gke-cluster", f"{region.name}/{region.cluster}", "--enable-workload-identity",
        ),
        (
            *memberships, "unregister", region.cluster, *place,
            "--gke-cluster", f"{region.name}/{region.cluster}", "--quiet",
        ),
    )  # fmt: skip
    named = f"gke_{region.project}_{region.name}_{region.cluster}"
    yield Thing(
        f"credentials of {region.cluster}",
        ("kubectl", "config", "get-contexts", named),
        (*clusters, "get-credentials", region.cluster, *place),
    )
    # A context of its own beside gcloud's, which a later get-credentials would make anew.
    context = ("kubectl", "config", "set-context", region.context, "--cluster", named, "--user", named)
    yield Thing(
        f"context {region.context}",
        ("kubectl", "config", "get-contexts", region.context),
        (*context, "--namespace", NAMESPACE),
        ("kubectl", "config", "delete-context", region.context),
    )


def _pool(region: Region, name: str, nodes: tuple[int, int], *options: str) -> Thing:
    place = ("--cluster", region.cluster, "--location", region.name, "--project", region.project)
    pools = ("gcloud", "container", "node-pools")
    # Few zones of a region have a kind of GPU.
    zones = Answer(
        (
            "gcloud", "compute", "accelerator-types", "list", "--project", region.project,
            "--filter", f"name={region.accelerator} AND zone~/{region.name}-",
            "--format=value(zone.basename())",
        )
    )  # fmt: skip
    accelerator = f"type={region.accelerator},count={region.gpus},gpu-driver-version=default"
    return Thing(
        f"nodes {name} of {region.cluster}",
        (*pools, "describe", name, *place),
        (
            *pools, "create", name, *place, "--node-locations", zones, "--machine-type", region.machine,
            "--accelerator", accelerator, "--enable-autoscaling", "--num-nodes", "0",
            "--total-min-nodes", str(nodes[0]), "--total-max-nodes", str(nodes[1]),
            "--location-policy", "ANY", "--workload-metadata", "GKE_METADATA", *options,
        ),
    )  # fmt: skip


def _models(region: Region) -> Iterator[Thing]:
    """The pods' own identity, which reads the buckets of the models."""
    if not region.buckets:
        return
    if region.account != "default":
        kubectl = ("kubectl", "--context", region.context)
        for kind, name in (("namespace", NAMESPACE), ("serviceaccount", region.account)):
            yield Thing(
                f"{kind} {name} in {region.cluster}",
                (*kubectl, "get", kind, name, "--namespace", NAMESPACE),
                (*kubectl, "create", kind, name, "--namespace", NAMESPACE),
            )
    pool = f"workloadIdentityPools/{region.project}.svc.id.goog/subject/ns/{NAMESPACE}/sa/{region.account}"
    member = Answer(
        _number(region.project), "principal://iam.googleapis.com/projects/", f"/locations/global/{pool}"
    )
    for bucket in region.buckets:
        binding = (f"gs://{bucket}", "--role", "roles/storage.objectViewer", "--member", member)
        buckets = ("gcloud", "storage", "buckets")
        yield Thing(
            f"right of the pods in {region.name} to read gs://{bucket}",
            None,
            (*buckets, "add-iam-policy-binding", *binding),
            (*buckets, "remove-iam-policy-binding", *binding),
        )


def _multi_cluster(fleet: Fleet, config: Region) -> Iterator[Thing]:
    project = ("--project", fleet.project)
    services = ("gcloud", "container", "fleet", "multi-cluster-services")
    yield Thing(
        "multi-cluster Services",
        (*services, "describe", *project),
        (*services, "enable", *project),
        (*services, "disable", *project, "--quiet"),
    )
    bind = ("gcloud", "projects", "add-iam-policy-binding", fleet.project, "--condition", "None")
    importer = f"serviceAccount:{fleet.project}.svc.id.goog[gke-mcs/gke-mcs-importer]"
    yield Thing(
        "right of multi-cluster Services to see the network",
        None,
        (*bind, "--role", "roles/compute.networkViewer", "--member", importer),
    )
    ingress = ("gcloud", "container", "fleet", "ingress")
    membership = f"projects/{fleet.project}/locations/{config.name}/memberships/{config.cluster}"
    yield Thing(
        "multi-cluster Gateway",
        (*ingress, "describe", *project),
        (*ingress, "enable", "--config-membership", membership, *project),
        (*ingress, "disable", *project, "--quiet"),
    )
    controller = Answer(
        _number(fleet.project),
        "serviceAccount:service-",
        "@gcp-sa-multiclusteringress.iam.gserviceaccount.com",
    )
    yield Thing(
        "right of the Gateway's controller to the clusters",
        None,
        (*bind, "--role", "roles/container.admin", "--member", controller),
    )


def _front(fleet: Fleet) -> Iterator[Thing]:
    project = ("--project", fleet.project)
    rule = (f"{PREFIX}-load-balancers", *project)
    rules = ("gcloud", "compute", "firewall-rules")
    yield Thing(
        "firewall rule for the load balancer",
        (*rules, "describe", *rule),
        (
            *rules, "create", *rule, "--direction", "INGRESS",
            "--source-ranges", ",".join(fleet.source_ranges),
            "--allow", ",".join(f"tcp:{port}" for port in PORTS),
        ),
        (*rules, "delete", *rule, "--quiet"),
    )  # fmt: skip
    if fleet.address:
        address = (fleet.address, "--global", *project)
        addresses = ("gcloud", "compute", "addresses")
        yield Thing(
            f"address {fleet.address}",
            (*addresses, "describe", *address),
            (*addresses, "create", *address, "--ip-version", "IPV4"),
            (*addresses, "delete", *address, "--quiet"),
        )
    if fleet.certificate_map:
        yield from _certificates(fleet)
    if fleet.security_policy:
        policy = (fleet.security_policy, *project)
        policies = ("gcloud", "compute", "security-policies")
        yield Thing(
            f"security policy {fleet.security_policy}",
            (*policies, "describe", *policy),
            (*policies, "create", *policy),
            (*policies, "delete", *policy, "--quiet"),
        )


def _certificates(fleet: Fleet) -> Iterator[Thing]:
    """A map with a managed certificate a host, which a record in the host's zone vouches for."""
    project = ("--project", fleet.project)

    def thing(kind: str, name: str, *made_with: str, within: tuple[str, ...] = ()) -> Thing:
        command = ("gcloud", "certificate-manager", *kind.split())
        return Thing(
            f"certificate manager's {kind.split()[-1]} {name}",
            (*command, "describe", name, *within, *project),
            (*command, "create", name, *within, *made_with, *project),
            (*command, "delete", name, *within, *project, "--quiet"),
        )

    yield thing("maps", fleet.certificate_map)
    for protocol, host in fleet.hosts:
        name = f"{fleet.certificate_map}-{protocol}"
        yield thing("dns-authorizations", name, "--domain", host)
        yield thing("certificates", name, "--domains", host, "--dns-authorizations", name)
        inside = ("--map", fleet.certificate_map)
        yield thing("maps entries", name, "--certificates", name, "--hostname", host, within=inside)


def releases(fleet: Fleet) -> Iterator[Thing]:
    """The releases, whose Gateway and load balancer have to go before the clusters do."""
    for region in fleet.regions:
        helm = ("--kube-context", region.context, "--namespace", NAMESPACE)
        yield Thing(
            f"release {RELEASE} in {region.name}",
            ("helm", "status", RELEASE, *helm),
            (),
            ("helm", "uninstall", RELEASE, *helm, "--wait", "--timeout", "10m"),
        )
