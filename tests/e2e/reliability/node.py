"""What a test does to the embedded cluster's nodes and to processes in its pods, from the machine outside."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster import cgroups, lifecycle, paths, shell
from cluster.node import Node, switch_pid

FILES = "--mount --pid"  # of processes too, whose /proc says what is mounted


def embedded() -> None:
    """Skips the test on any other cluster: there, nobody may kill nodes."""
    if os.environ.get("KUBECONFIG") != str(paths.kubeconfig()) or os.geteuid():
        pytest.skip("only the embedded cluster's nodes may be hurt")


def node_of(pod: dict[str, Any]) -> Node:
    name = pod["spec"]["nodeName"]
    return Node(0) if name == "control-plane" else Node(int(name.removeprefix("worker-")))


def in_pod(pod: dict[str, Any], program: str) -> list[int]:
    """The processes in a pod whose command line begins with that program's path or name; the oldest first."""
    return [pid for pid, name in programs(pod).items() if name == program]


def programs(pod: dict[str, Any]) -> dict[int, str]:
    """The program's name of each process in a pod; the oldest first."""
    uid = pod["metadata"]["uid"]
    found = {}
    for pid in sorted(cgroups.processes(node_of(pod).name)):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
            if command and uid in Path(f"/proc/{pid}/cgroup").read_text():
                found[pid] = Path(command).name
        except OSError:
            continue
    return found


def triton(pod: dict[str, Any]) -> int:
    (pid,) = in_pod(pod, "tritonserver")
    return pid


def stubs(pod: dict[str, Any]) -> list[int]:
    found = in_pod(pod, "triton_python_backend_stub")
    assert found, "no process of a model's instance"
    return found


def daemon(node: Node, program: str) -> int:
    """A node's own kubelet or containerd."""
    for pid in sorted(cgroups.processes(f"{node.name}/{cgroups.DAEMONS}")):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
        except OSError:
            continue
        if Path(command).name == program:
            return pid
    raise AssertionError(f"{node.name} has no {program}")


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Processes that stand still: there, and silent."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                continue


def in_network(pid: int | None, *command: str) -> str:
    """A command's output, run in the network namespace of a process."""
    done = subprocess.run(
        ["nsenter", "--target", str(pid), "--net", "--", *command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


@contextmanager
def losing_packets(node: Node, share: float) -> Iterator[None]:
    """Each packet between the node and the others is lost with that probability."""
    rule = ["-m", "statistic", "--mode", "random", "--probability", str(share), "-j", "DROP"]
    # In the raw table: before any other rule, for what is forwarded to pods as well.
    ways = (["PREROUTING", "-i", "eth0"], ["OUTPUT", "-o", "eth0"])
    for way in ways:
        in_network(node.pid(), "iptables", "-t", "raw", "-A", *way, *rule)
    try:
        yield
        counted = in_network(node.pid(), "iptables", "-t", "raw", "-L", "PREROUTING", "-v", "-x", "-n")
        assert any("DROP" in line and int(line.split()[0]) for line in counted.splitlines()), counted
    finally:
        for way in ways:
            in_network(node.pid(), "iptables", "-t", "raw", "-D", *way, *rule)


@contextmanager
def narrow(node: Node, rate: str) -> Iterator[None]:
    """A link that carries no more than that to the node, and queues for up to 400 ms."""
    # The switch's end of the cable: requests are large, answers are not.
    link = ("qdisc", "replace", "dev", node.name, "root", "tbf", "rate", rate, "burst", "32kb")
    in_network(switch_pid(), "tc", *link, "latency", "400ms")
    try:
        yield
        counted = in_network(switch_pid(), "tc", "-s", "qdisc", "show", "dev", node.name)
        # "... overlimits 1234 ...": packets that had to wait.
        assert int(counted.split("overlimits ")[1].split()[0]) > 0, counted
    finally:
        in_network(switch_pid(), "tc", "qdisc", "del", "dev", node.name, "root")


@contextmanager
def full(folder: str) -> Iterator[None]:
    """A folder of every node on a disk that has no room left, for what is mounted from there meanwhile."""
    workers = lifecycle.workers_made()
    assert workers
    nodes = [Node(number) for number in range(workers + 1)]
    mounted = []
    try:
        for node in nodes:
            mount = ("mount", "-t", "tmpfs", "-o", "size=4k,mode=777", "full", folder)
            subprocess.run(node.command(*mount, namespaces=FILES), check=True)
            mounted.append(node)
            fill = ("dd", "if=/dev/zero", f"of={folder}/filler", "bs=4k", "count=1", "status=none")
            subprocess.run(node.command(*fill, namespaces=FILES), check=True)
        yield
    finally:
        for node in mounted:
            subprocess.run(node.command("umount", "--lazy", folder, namespaces=FILES), check=True)


def kill_node(node: Node) -> None:
    """All of it at once, as when a machine loses its power."""
    pid = node.pid()
    assert pid is not None, f"{node.name} does not run"
    os.kill(pid, signal.SIGKILL)
    shell.wait_for(lambda: node.pid() is None, f"the end of {node.name}", timeout=20)


def bring_back() -> None:
    """Lost nodes as new ones of their old names: `cluster up` sees to that."""
    workers = lifecycle.workers_made()
    assert workers
    lifecycle.up(workers)
