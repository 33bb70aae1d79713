"""A node: namespaces with a containerd and a kubelet of their own, on a bridge that only nodes are on.

A switch namespace holds the bridge; each node has one cable to it. Addresses are of a documentation range,
so none of them is anybody's.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cluster import cgroups, paths, shell

SHARED_FILES = Path(__file__).resolve().parent
SWITCH = "switch"
POLICY_QUEUE = 100
# The ranges for documentation (RFC 5737): one a cluster, where something outside is to reach several.
NODE_RANGES = {1: "192.0.2", 2: "198.51.100", 3: "203.0.113"}


def switch_address() -> str:
    return f"{NODE_RANGES[paths.address_range()]}.1"


def pod_network() -> str:
    """The addresses of all pods of the cluster."""
    return f"{_pod_range()}.0.0/16"


def _pod_range() -> str:
    return f"10.{243 + paths.address_range()}"


@dataclass(frozen=True)
class Node:
    """Number 0 is the control plane, the others are workers."""

    number: int

    @property
    def name(self) -> str:
        return f"worker-{self.number}" if self.number else "control-plane"

    @property
    def address(self) -> str:
        return f"{NODE_RANGES[paths.address_range()]}.{10 + self.number}"

    @property
    def pods(self) -> str:
        """The addresses of its pods."""
        return f"{_pod_range()}.{self.number}.0/24"

    @property
    def cgroup(self) -> str:
        return f"/{paths.name()}/{self.name}"

    @property
    def disk(self) -> Path:
        return paths.state() / "nodes" / self.name

    def log(self, program: str) -> Path:
        return self.disk / "log" / f"{program}.log"

    def etc(self, file: str) -> Path:
        """A file of the node's own /etc, seen from outside."""
        return self.disk / "etc" / file

    def pid(self) -> int | None:
        """Process id of its first process; None where the node does not run."""
        return first_process(self.name, self.disk / "pid")

    def command(self, *argv: str | Path, namespaces: str = "--net --mount --uts --pid") -> list[str]:
        """argv run inside the node. Raises StepFailed where the node does not run."""
        return ["nsenter", "--target", str(self._running()), *namespaces.split(), "--", *map(str, argv)]

    def inside(self, path: str) -> Path:
        """A path of the node's own, seen from outside. Raises StepFailed where the node does not run."""
        return Path(f"/proc/{self._running()}/root{path}")

    def _running(self) -> int:
        pid = self.pid()
        if pid is None:
            raise shell.StepFailed(f"node {self.name} does not run")
        return pid

    def start(self, seed: Path, programs: Path, sandbox_image: str, volumes: Path) -> None:
        """Makes the disk from a containerd that holds the cluster's images, and starts the first process.

        volumes: folder that the nodes share.
        """
        self._write_disk(seed, sandbox_image)
        _unshare(
            self.name, "--net --mount --uts --pid --fork",
            "bash", SHARED_FILES / "node-init.sh", self.name, self.disk, programs, volumes,
            log=self.log("init"),
        )  # fmt: skip
        shell.wait_for(
            lambda: self.pid() is not None, f"starting node {self.name}", timeout=20, log=self.log("init")
        )

    def connect(self, others: list[Node]) -> None:
        """Plugs the node into the switch and tells it the way to the other nodes' pods."""
        switch, pid = switch_pid(), self.pid()
        # The cable of a node that was lost outlives it for a while.
        unplug = ["nsenter", "--target", str(switch), "--net", "--", "ip", "link", "delete", self.name]
        subprocess.run(unplug, capture_output=True, check=False)
        _ip(switch, [
            f"link add {self.name} type veth peer name eth0 netns {pid}",
            f"link set {self.name} master bridge up",
            # So that the switch can refuse a pod that asks it for a name.
            f"route replace {self.pods} via {self.address}",
        ])  # fmt: skip
        _ip(pid, [
            "link set lo up",
            f"addr add {self.address}/24 dev eth0",
            "link set eth0 up",
            f"route add default via {switch_address()}",
            *(f"route add {other.pods} via {other.address}" for other in others if other != self),
        ])  # fmt: skip
        # Answers between two pods of a node only cross a bridge; Services need them translated.
        script = 'for setting; do echo 1 > "/proc/sys/net/$setting"; done'
        settings = ["ipv4/ip_forward", "bridge/bridge-nf-call-iptables"]
        shell.output(self.command("sh", "-c", script, "sh", *settings, namespaces="--net"))
        shell.output(self.command("sh", "-euc", "\n".join(self.policy_rules()), namespaces="--net"))

    def policy_rules(self) -> list[str]:
        """Commands that have kube-network-policies asked about the first packet of every connection of a pod,
        where Services are translated and sources are not yet.

        It sets up the same by itself with nftables, if the kernel has their `queue`; not every one does.
        """
        chain = "iptables --wait --table mangle --append POSTROUTING"
        # Where nobody listens all is open: the cluster goes on.
        ask = f"--jump NFQUEUE --queue-num {POLICY_QUEUE} --queue-bypass"
        return [
            # The node's own processes, the kubelet's probes among them, reach its pods whatever policies say.
            f"{chain} --match addrtype --src-type LOCAL --jump RETURN",
            f"{chain} --match conntrack --ctstate ESTABLISHED,RELATED --jump RETURN",
            f"{chain} --source {self.pods} {ask}",
            f"{chain} --destination {self.pods} {ask}",
        ]

    def route_to(self, other: Node) -> None:
        """Tells a node that runs the way to the pods of one that came later."""
        _ip(self.pid(), [f"route replace {other.pods} via {other.address}"])

    def stop(self) -> None:
        """Ends every process of the node and its pods; what they held goes with them."""
        end_processes(self.name)
        shutil.rmtree(self.disk, ignore_errors=True)

    def _write_disk(self, seed: Path, sandbox_image: str) -> None:
        folders = (
            "etc/kubernetes/manifests etc/cni/net.d etc/containerd etc-work usr usr-work var-lib var-log log"
        )
        for folder in folders.split():
            (self.disk / folder).mkdir(parents=True, exist_ok=True)
        for folder in ("etc/kubernetes", "etc/cni", "etc/containerd"):
            # The machine's own, should it have one, does not shine through.
            os.setxattr(self.disk / folder, "trusted.overlay.opaque", b"y")
        self.etc("hosts").write_text(f"127.0.0.1 localhost\n{self.address} {self.name}\n")
        # Nobody answers there: CoreDNS does not ask, and must not ask itself.
        self.etc("resolv.conf").write_text(f"nameserver {switch_address()}\n")
        self.etc("containerd/config.toml").write_text(containerd_config(sandbox_image))
        self.etc("cni/net.d/10-bridge.conflist").write_text(json.dumps(self.network_config(), indent=2))
        # A kubelet that starts and finds no such file takes its node for a new one, without a GPU.
        checkpoint = self.disk / "var-lib/kubelet/device-plugins/kubelet_internal_checkpoint"
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_text("{}")
        copy_seed(seed, self.disk / "var-lib" / "containerd")

    def network_config(self) -> dict[str, object]:
        """CNI: a bridge for the node's pods, which keep their addresses on the way to other nodes."""
        return {
            "cniVersion": "1.0.0",
            "name": "pods",
            "plugins": [
                {
                    "type": "bridge", "bridge": "pods", "isDefaultGateway": True, "hairpinMode": True,
                    "ipam": {"type": "host-local", "ranges": [[{"subnet": self.pods}]]},
                },
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        }  # fmt: skip


def containerd_config(sandbox_image: str) -> str:
    """containerd's settings. No registry: every image is imported, and none is pulled."""
    return (
        (SHARED_FILES / "manifests" / "containerd.toml")
        .read_text()
        .replace("${SANDBOX_IMAGE}", sandbox_image)
    )


def copy_seed(seed: Path, target: Path) -> None:
    """A containerd's folder with the images of another that does not run.

    Layers and blobs never change, so they are linked and cost no time, no disk and no page cache;
    databases do change and are copied.
    """
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    same_disk = seed.stat().st_dev == target.parent.stat().st_dev
    shell.output(["cp", "--archive", *(["--link"] if same_disk else []), seed, target], timeout=300)
    for database in target.rglob("*.db"):
        copy = database.with_suffix(".copy")
        shutil.copy2(database, copy)
        copy.replace(database)


def start_switch() -> None:
    """The namespace with the bridge, held by a process that only waits."""
    pid_file = paths.state() / "switch.pid"
    script = (
        'read -r pid _ < /proc/self/stat; echo "$pid" > "$1.making"; mv "$1.making" "$1"; exec sleep infinity'
    )
    _unshare(SWITCH, "--net", "bash", "-c", script, "bash", pid_file, log=paths.logs() / "switch.log")
    shell.wait_for(
        lambda: switch_pid() is not None, "starting the switch", timeout=10, log=paths.logs() / "switch.log"
    )
    _ip(switch_pid(), [
        "link set lo up",
        "link add bridge type bridge",
        f"addr add {switch_address()}/24 dev bridge",
        "link set bridge up",
    ])  # fmt: skip


def switch_pid() -> int | None:
    return first_process(SWITCH, paths.state() / "switch.pid")


def first_process(group: str, pid_file: Path) -> int | None:
    """The process id in a file, if that process is in the group's cgroup: ids of the past mean nothing."""
    try:
        pid = int(pid_file.read_text())
    except (OSError, ValueError):
        return None
    return pid if pid in cgroups.processes(group) else None


def end_processes(group: str | None = None) -> None:
    """Kills all processes of a node, or of the cluster, waits for their end and removes their cgroups."""

    def killed() -> bool:
        left = cgroups.processes(group)
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return not left

    shell.wait_for(killed, "ending the cluster's processes", timeout=60)

    def removed() -> bool:
        try:
            cgroups.remove(group)
        except OSError:  # still busy for a moment after the last process
            return False
        return True

    shell.wait_for(removed, "removing the cluster's cgroups", timeout=20)


def _unshare(group: str, namespaces: str, *argv: str | Path, log: Path) -> None:
    """Starts argv in new namespaces and in the group's cgroup, to outlive us."""
    log.parent.mkdir(parents=True, exist_ok=True)
    procs = " ".join(str(file) for file in cgroups.make(group))
    join = f'for file in {procs}; do echo $$ > "$file"; done; exec "$@"'
    with log.open("ab") as output:
        subprocess.Popen(
            ["sh", "-c", join, "sh", "unshare", *namespaces.split(), *map(str, argv)],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/", start_new_session=True,
        )  # fmt: skip


def _ip(pid: int | None, commands: list[str]) -> None:
    ended = subprocess.run(
        ["nsenter", "--target", str(pid), "--net", "--", "ip", "-batch", "-"],
        input="\n".join(commands), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if ended.returncode:
        raise shell.StepFailed(f"network: {ended.stderr.strip()}")
