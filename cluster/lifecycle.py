"""Up, down and status.

What is dear (programs, images) is in the cache and survives; a cluster that `up` did not finish does not: it
is taken down and made again, which takes a minute and leaves no state that nobody has seen.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from cluster import (
    cgroups,
    components,
    control,
    images,
    keda,
    kube_tools,
    monitoring,
    network_policies,
    node,
    paths,
    preflight,
    shell,
    volumes,
)
from cluster.control import CONTROL_PLANE
from cluster.node import Node
from cluster.progress import Steps
from model_tools.console import BadInput

T = TypeVar("T")
# What a cluster needs at least, in bytes: a node with the pods that it has at once; programs, images and what
# they are made from.
NODE_DISK = 200 * 2**20
NODE_MEMORY = 400 * 2**20
CACHE_DISK = 5 * 2**30
# So little that whatever fails has probably failed for it.
LEAST_DISK = 64 * 2**20


@contextmanager
def explained() -> Iterator[None]:
    """What fails for want of disk or memory says so, and what to do. Raises StepFailed for OSErrors too."""
    try:
        yield
    except (OSError, shell.StepFailed) as error:
        said = str(error)
        if isinstance(error, OSError):
            said = ": ".join(map(str, filter(None, (error.filename, error.strerror)))) or said
        raise shell.StepFailed("\n".join([said, *_shortages()])) from error


def _shortages() -> Iterator[str]:
    for folder, variable in ((paths.cache(), "XDG_CACHE_HOME"), (paths.state(), "XDG_STATE_HOME")):
        if shutil.disk_usage(paths.existing(folder)).free < LEAST_DISK:
            yield f"the disk of {folder} is full: make room, or name a folder with more in {variable}"
    if killed := cgroups.killed_for_memory():
        yield f"the kernel ended {killed} processes of it for want of memory: free some, or have fewer nodes"
    elif (left := cgroups.memory_left()) < NODE_MEMORY:  # then programs wait for their pages, and time out
        yield f"{left / 2**30:.1f} GiB of memory are left: free some, or have fewer nodes"


@contextmanager
def only_one(steps: Steps) -> Iterator[None]:
    """Lets one `up` or `down` work at a time; the next waits and says so."""
    with paths.only_one(f"cluster-{paths.name()}", "`cluster` command", steps.say):
        yield


def up(workers: int, values: Path | None = None) -> None:
    """Brings the cluster up with that many workers and the images that a values file of images.build names.

    Raises BadInput, StepFailed.
    """
    preflight.check()
    with explained(), Steps() as steps, only_one(steps):
        made = _recorded()
        if made and alive(0):
            if (lost(made.workers) or workers > made.workers) and not made.seed.exists():
                made = _seeded(made, values, steps)
            _heal(made, workers, steps)
            if values:
                with steps.step("images that the nodes lack"):
                    images.load_missing(_nodes(workers), values)
        else:
            _create(workers, values, steps)
        steps.say(f"cluster is up: 1 control plane, {workers} workers, {steps.elapsed():.0f} s")


def build(with_keda: bool = False) -> None:
    """Makes all that `up`, and maybe `add_keda`, need and the cache can hold. Raises BadInput, StepFailed."""
    preflight.check()
    with explained(), Steps() as steps:
        programs = _programs(steps)
        with steps.step("images of the cluster"), images.seed(programs, images.cluster_tag(programs)):
            pass
        if with_keda:
            with steps.step("programs and image of keda"):
                keda.build(preflight.go())


def add_keda() -> None:
    """Puts KEDA into the cluster that is up, or sees to it that it is there. Raises BadInput, StepFailed."""
    nodes = require()
    with (
        explained(),
        Steps() as steps,
        only_one(steps),
        steps.step("KEDA, which is built unless the cache has it"),
    ):
        keda.install(nodes, preflight.go())


def down() -> None:
    """Ends the cluster, whatever state it is in, and removes all of it but the cache."""
    preflight.root()
    with explained(), Steps() as steps, only_one(steps):
        _remove(steps)


def status() -> dict[str, Any]:
    """What there is of the cluster: state up, broken or down, its nodes and the bytes of memory it holds."""
    made = workers_made()
    if made is None or not alive(made):
        return {"state": "broken" if cgroups.processes() else "down", "nodes": [], "memory": cgroups.memory()}
    answers = control.healthy()
    found = control.nodes() if answers else {}
    nodes = [
        {
            "name": each.name,
            "address": each.address,
            "pods": each.pods,
            "ready": each.name in found and control.ready(found[each.name]),
            "gpus": control.gpus(found[each.name]) if each.name in found else 0,
            "log": str(each.disk / "log"),
        }
        for each in _nodes(made)
    ]
    state = "up" if answers and all(each["ready"] for each in nodes) else "broken"
    return {
        "state": state,
        "nodes": nodes,
        "memory": cgroups.memory(),
        "kubeconfig": str(paths.kubeconfig()),
        "switch": node.switch_pid(),
    }


def workers_made() -> int | None:
    """How many workers the cluster has; None where no `up` has finished."""
    made = _recorded()
    return made.workers if made else None


def alive(workers: int) -> bool:
    """Whether every node's first process runs; after a reboot or a crash none does."""
    return node.switch_pid() is not None and all(each.pid() is not None for each in _nodes(workers))


def lost(workers: int) -> list[Node]:
    """The workers whose first process has ended, while the control plane runs."""
    return [each for each in _nodes(workers)[1:] if each.pid() is None]


def require() -> list[Node]:
    """The nodes of the running cluster. Raises BadInput where there is none."""
    preflight.root()
    made = workers_made()
    if made is None or not alive(0):
        raise BadInput("no cluster is up: cluster up")
    return _nodes(made)


def _nodes(workers: int) -> list[Node]:
    return [Node(number) for number in range(workers + 1)]


@dataclass(frozen=True)
class Made:
    """What a finished `up` leaves for later ones."""

    workers: int
    seed: Path
    programs: Path
    sandbox_image: str

    def start(self, each: Node) -> None:
        """Raises BadInput where the cache has no more of what the cluster was made of."""
        if not (self.seed.exists() and self.programs.exists()):
            raise BadInput(
                f"{paths.cache()} has no more of what this cluster is made of: cluster down, then cluster up"
            )
        each.start(self.seed, self.programs, self.sandbox_image, volumes.folder())

    def write(self) -> None:
        making = _record().with_suffix(".making")
        making.write_text(json.dumps(asdict(self), default=str))
        making.replace(_record())


def _record() -> Path:
    return paths.state() / "cluster.json"


def _recorded() -> Made | None:
    try:
        said = json.loads(_record().read_text())
        return Made(int(said["workers"]), Path(said["seed"]), Path(said["programs"]), said["sandbox_image"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _create(workers: int, values: Path | None, steps: Steps) -> None:
    if paths.state().exists() or cgroups.processes():
        _remove(steps)
    nodes = _nodes(workers)
    preflight.memory(len(nodes) * NODE_MEMORY)
    preflight.room(paths.state(), len(nodes) * NODE_DISK, "XDG_STATE_HOME")
    programs = _programs(steps)
    tag = images.cluster_tag(programs)
    with ExitStack() as using:
        with steps.step("images of the cluster"):
            seed = using.enter_context(images.seed(programs, tag, values))
        paths.keep_address_range()
        made = Made(workers, seed, programs["kubernetes"], images.reference("pause", tag))
        with steps.step(f"{len(nodes)} nodes with containerd"):
            preflight.load_modules()
            volumes.make_folders()
            node.start_switch()
            _each(nodes, made.start)
    with steps.step("network of the nodes"):
        for each in nodes:
            each.connect(nodes)
        _each(nodes, control.wait_for_runtime)
    with steps.step("kubeadm init"):
        control.init(tag)
    with shell.side_by_side(2) as pool:
        work: list[Future[None]] = [
            pool.submit(_join, nodes[1:], steps),
            pool.submit(_add_ons, programs, tag, steps),
        ]
        for job in work:
            job.result()
    with steps.step("kube-network-policies, Prometheus and CoreDNS ready"):
        network_policies.wait()
        shell.wait_for(monitoring.ready, "Prometheus", timeout=180)
        control.kubectl(
            "rollout",
            "status",
            "deployment/coredns",
            "--namespace=kube-system",
            "--timeout=120s",
            timeout=130,
        )
    made.write()


def _programs(steps: Steps) -> dict[str, Path]:
    """Folders of the cluster's programs by component; helm, kubectl and the base image are made meanwhile."""
    go = preflight.go()
    version = preflight.go_version(go)
    if not all(components.folder(each, version).exists() for each in components.ALL):
        preflight.room(paths.cache(), CACHE_DISK, "XDG_CACHE_HOME")
    missing = preflight.missing_packages()
    if missing:
        with steps.step(f"Debian packages: {', '.join(missing)}"):
            preflight.install(missing, preflight.log())
    with shell.side_by_side(2) as pool:
        tools = pool.submit(_step, steps, "helm and kubectl", kube_tools.tools_folder)
        base = pool.submit(_step, steps, "base image", images.base.ensure)
        programs = {
            each.name: _step(steps, f"programs of {each.name}", partial(components.build, each, go))
            for each in components.ALL
        }
        tools.result()
        base.result()
    return programs


def _step(steps: Steps, what: str, work: Callable[[], T]) -> T:
    with steps.step(what):
        return work()


def _join(workers: list[Node], steps: Steps) -> None:
    with steps.step(f"kubeadm join of {len(workers)} workers"):
        _each(workers, control.join)
        _wait_until_ready(workers)
        _each(workers, control.advertise_gpu)


def _add_ons(programs: dict[str, Path], tag: str, steps: Steps) -> None:
    with steps.step("kube-network-policies, prometheus-operator and Prometheus"):
        policies = components.KUBE_NETWORK_POLICIES.name
        network_policies.install(programs[policies], images.reference(policies, tag))
        control.kubectl("scale", "deployment/coredns", "--namespace=kube-system", "--replicas=1")
        monitoring.install(programs["prometheus-operator"], partial(images.reference, tag=tag))
        volumes.install()


def _heal(made: Made, workers: int, steps: Steps) -> None:
    """Makes a cluster that runs what it should be: its size, and what kubelets that started anew forgot."""
    with steps.step("API server and nodes"):
        shell.wait_for(control.healthy, "API server", timeout=60, log=CONTROL_PLANE.log("kubelet"))
        old, new = _nodes(made.workers), _nodes(workers)
        for each in lost(made.workers):
            # A node of that name that is Ready would be refused, and one that is not still holds its pods.
            control.kubectl("delete", "node", each.name, "--ignore-not-found")
            _add(each, [other for other in old if other.pid() is not None], made)
        for each in old[len(new) :]:
            control.kubectl("delete", "node", each.name, "--ignore-not-found")
            each.stop()
        _each(new[len(old) :], lambda each: _add(each, old, made))
        replace(made, workers=workers).write()
        _wait_until_ready(new)
        found = control.nodes()
        for each in new[1:]:
            if control.gpus(found[each.name]) != 1:
                control.advertise_gpu(each)
        volumes.install()
        network_policies.wait()
        shell.wait_for(monitoring.ready, "Prometheus", timeout=120)


def _seeded(made: Made, values: Path | None, steps: Steps) -> Made:
    """The same cluster with images for new nodes, which the cache has forgotten meanwhile."""
    programs = _programs(steps)
    tag = images.cluster_tag(programs)
    with steps.step("images of the cluster"), images.seed(programs, tag, values) as seed:
        return replace(made, seed=seed)


def _add(each: Node, others: list[Node], made: Made) -> None:
    """One more worker. What an interrupted attempt left of it is removed first."""
    each.stop()
    made.start(each)
    each.connect(others)
    for other in others:
        other.route_to(each)
    control.wait_for_runtime(each)
    control.join(each)


def _wait_until_ready(nodes: list[Node]) -> None:
    names = {each.name for each in nodes}

    def are_ready() -> bool:
        return names <= {name for name, found in control.nodes().items() if control.ready(found)}

    shell.wait_for(are_ready, "nodes becoming ready", timeout=120)


def _remove(steps: Steps) -> None:
    with steps.step("taking the cluster down"):
        node.end_processes()
        shutil.rmtree(paths.state(), ignore_errors=True)


def _each(nodes: list[Node], work: Callable[[Node], None]) -> None:
    with shell.side_by_side(max(1, len(nodes))) as pool:
        list(pool.map(work, nodes))
