"""What benchmarks.scale makes of events, figures of processes, name servers' answers and records."""

from __future__ import annotations

import os
import struct
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.scale import dns, report, simulated
from benchmarks.scale.timeline import Pod, Promise, Timeline, promised, shortest_rollout
from benchmarks.scale.usage import Usage


def api_pod(**changes: Any) -> dict[str, Any]:
    pod: dict[str, Any] = {
        "metadata": {"name": "triton-1", "labels": {"pod-template-hash": "abc"}},
        "spec": {"nodeName": "node-1"},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }
    return pod | changes


def test_a_pod_that_is_being_deleted_does_not_serve_though_it_is_ready() -> None:
    pod = Pod.of(api_pod())
    assert (pod, pod.serving) == (Pod("triton-1", "node-1", True, False, "abc"), True)
    ending = Pod.of(api_pod(metadata={"name": "triton-1", "deletionTimestamp": "2026-01-01T00:00:00Z"}))
    assert (ending.ready, ending.serving) == (True, False)


def test_a_pod_of_the_first_moment_has_neither_node_nor_conditions() -> None:
    assert Pod.of({"metadata": {"name": "triton-1"}, "spec": {}}) == Pod("triton-1")


def serving(name: str, node: str = "", revision: str = "old") -> Pod:
    return Pod(name, node or f"node-of-{name}", ready=True, revision=revision)


def test_a_replaced_pod_is_counted_as_a_deployment_counts_it() -> None:
    """One at a time: the old one is told to end, the new one waits for its node, comes, and serves."""
    line = Timeline()
    for each in (serving("a"), serving("b")):
        line.observe(1, each.name, each)
    line.begin(10)
    line.observe(11, "a", Pod("a", "node-of-a", ready=True, deleting=True, revision="old"))
    line.observe(12, "c", Pod("c", revision="new"))
    assert (len(line), line.serving, line.scheduled) == (3, 1, 2)
    line.observe(15, "a", None)
    line.observe(16, "c", Pod("c", "node-of-a", revision="new"))
    line.observe(20, "c", serving("c", "node-of-a", "new"))
    assert line.phase.figures() == {
        "fewest_serving": 1, "most_pods": 2, "most_on_a_node": 1,
        "created": 2, "scheduled": 6, "ready": 10, "gone": 5,
    }  # fmt: skip
    assert line.revisions() == {"old": 1, "new": 1}
    assert line.used() == {"node-of-a", "node-of-b"}


def test_two_pods_on_a_node_are_seen_even_if_one_is_ending() -> None:
    line = Timeline()
    line.observe(1, "a", Pod("a", "node-1", ready=True, deleting=True))
    line.observe(2, "b", Pod("b", "node-1"))
    line.observe(3, "a", None)
    assert line.phase.most_on_a_node == 2
    line.begin(4)
    assert line.phase.most_on_a_node == 1


def test_a_surge_is_seen() -> None:
    line = Timeline()
    for name in "abc":
        line.observe(1, name, serving(name))
    line.begin(2)
    line.observe(3, "d", Pod("d"))
    line.observe(4, "a", None)
    assert line.phase.most_pods == 4


def test_the_end_of_a_pod_that_nobody_knew_changes_nothing() -> None:
    line = Timeline()
    line.observe(1, "a", None)
    assert (len(line), line.phase.gone) == (0, None)


@pytest.mark.parametrize(
    ("surge", "unavailable", "replicas", "expected"),
    [
        (0, 1, 10, Promise(10, 9)),
        (0, "10%", 1000, Promise(1000, 900)),
        (0, "10%", 19, Promise(19, 18)),
        (0, "10%", 4, Promise(4, 3)),  # neither: one
        ("25%", 0, 10, Promise(13, 10)),
        ("25%", "25%", 10, Promise(13, 8)),
        (0, 5, 2, Promise(2, 0)),
    ],
)
def test_percentages_are_resolved_as_by_the_deployment_controller(
    surge: int | str, unavailable: int | str, replicas: int, expected: Promise
) -> None:
    assert promised({"maxSurge": surge, "maxUnavailable": unavailable}, replicas) == expected


@pytest.mark.parametrize(
    ("replicas", "least", "waves"), [(1000, 900, 10), (10, 9, 10), (19, 18, 19), (25, 23, 13)]
)
def test_a_rollout_takes_as_many_waves_as_the_promise_lets_it(replicas: int, least: int, waves: int) -> None:
    assert shortest_rollout(Promise(replicas, least), replicas, 7.0) == 7.0 * waves


def processes(folder: Path, **seconds: float) -> None:
    for name, used in seconds.items():
        program, _, pid = name.rpartition("_")
        (folder / pid).mkdir(exist_ok=True)
        (folder / pid / "cmdline").write_bytes(f"/run/{program.replace('_', '-')}\0--flag\0".encode())
        ticks = int(used * os.sysconf("SC_CLK_TCK"))
        (folder / pid / "stat").write_text(f"{pid} (a) name) S 0 1 1 0 0 0 0 0 0 0 {ticks} 0 0 0")
        pages = 100 * 2**20 // os.sysconf("SC_PAGE_SIZE")
        (folder / pid / "statm").write_text(f"9 {pages} 0 0 0 0 0")


def test_processors_time_is_of_the_phase_and_of_all_processes_of_a_program(tmp_path: Path) -> None:
    ids = {1, 2, 3, 4}
    processes(tmp_path, kube_proxy_1=10, kube_proxy_2=20, etcd_3=5, containerd_4=99)
    usage = Usage(lambda: ids, tmp_path)
    processes(tmp_path, kube_proxy_1=11, kube_proxy_2=22, etcd_3=5.5)
    assert usage.figures() == {
        "etcd": {"processor": 0.5, "memory": 100.0},
        "kube-proxy": {"processor": 3.0, "memory": 200.0},
    }
    usage.begin()
    assert usage.figures()["kube-proxy"]["processor"] == 0
    assert usage.ended == []


def test_a_child_that_has_not_become_its_own_program_yet_is_left_out(tmp_path: Path) -> None:
    processes(tmp_path, kube_proxy_5=10, kube_proxy_6=0)
    (tmp_path / "6" / "stat").write_text("6 (a) S 5 1 1 0 0 0 0 0 0 0 0 0 0 0")
    ids = {5, 6}
    usage = Usage(lambda: ids, tmp_path)
    ids = {5}
    assert usage.figures() == {"kube-proxy": {"processor": 0.0, "memory": 100.0}}
    assert usage.ended == []


def test_a_process_that_ended_and_its_successor_are_told(tmp_path: Path) -> None:
    ids = {1}
    processes(tmp_path, kube_scheduler_1=10)
    usage = Usage(lambda: ids, tmp_path)
    processes(tmp_path, kube_scheduler_2=3)
    ids = {2}
    assert usage.figures()["scheduler"]["processor"] == 3
    assert usage.ended == ["scheduler"]


def test_a_name_servers_answer_is_read_over_udp_and_over_tcp() -> None:
    """A server that answers with 200 addresses, of which UDP carries none and says so."""
    import socket

    def answer(asked: bytes, flags: int, count: int) -> bytes:
        header = struct.pack("!6H", 7, flags, 1, count, 0, 0)
        return header + asked[12:] + count * struct.pack("!HHHIH4s", 0xC00C, 1, 1, 5, 4, b"\x01\x02\x03\x04")

    asked = dns.question("triton.scale.svc")
    assert asked[12:30] == b"\x06triton\x05scale\x03svc\0"
    assert struct.unpack("!H", asked[-8:-6]) == (dns.UDP_SIZE,)
    assert dns.Answer.of(answer(asked, 0x8380, 0)) == dns.Answer(len(asked), True, 0)

    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                (size,) = struct.unpack("!H", connection.recv(2))
                whole = answer(connection.recv(size), 0x8180, 200)
                connection.sendall(struct.pack("!H", len(whole)) + whole[:1000])
                connection.sendall(whole[1000:])

        thread = threading.Thread(target=serve)
        thread.start()
        found = dns.over_tcp("127.0.0.1", "triton.scale.svc", port=server.getsockname()[1])
        thread.join()
    assert (found.truncated, found.addresses, found.bytes) == (False, 200, len(asked) + 200 * 16)


def test_a_simulated_node_is_marked_as_a_worker_and_takes_none_of_the_clusters_own_pods() -> None:
    worker = {
        "metadata": {"labels": {"cloud.google.com/gke-accelerator": "t4", "kubernetes.io/os": "linux"}},
        "spec": {"taints": [
            {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"},
            {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"},
        ]},
        "status": {"allocatable": {"nvidia.com/gpu": "1"}},
    }  # fmt: skip
    nodes = [simulated.node(number, worker) for number in range(5000)]
    labels = nodes[0]["metadata"]["labels"]
    assert labels["cloud.google.com/gke-accelerator"] == "t4"
    assert "kubernetes.io/os" not in labels
    assert nodes[0]["spec"]["taints"] == worker["spec"]["taints"][:1]
    assert nodes[0]["status"]["allocatable"]["nvidia.com/gpu"] == "1"
    assert len({each["status"]["addresses"][0]["address"] for each in nodes}) == 5000


def test_kwoks_stages_get_the_delays(tmp_path: Path) -> None:
    for name in ("node-initialize", "pod-ready", "pod-delete", "pod-complete"):
        phase = {"key": ".status.phase", "operator": "In", "values": ["Pending"]}
        stage = {
            "metadata": {"name": name},
            "spec": {"selector": {"matchExpressions": [phase]}, "next": {"delete": name == "pod-delete"}},
        }
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(stage))
    configuration, *stages = yaml.safe_load_all(simulated.stages(tmp_path, 5, 0.5))
    assert set(configuration["options"].values()) == {simulated.PARALLEL}
    made = {stage["metadata"]["name"]: stage["spec"] for stage in stages}
    assert set(made) == {"node-initialize", "pod-ready", "pod-ready-again", "pod-delete"}
    assert made["pod-ready"]["delay"] == {"durationMilliseconds": 5000}
    assert made["pod-delete"]["delay"] == {"durationMilliseconds": 500}
    assert made["pod-delete"]["next"] == {"delete": True}
    phases = {name: spec["selector"]["matchExpressions"][0]["values"] for name, spec in made.items()}
    assert (phases["pod-ready"], phases["pod-ready-again"]) == (["Pending"], ["Running"])


def test_a_record_without_all_phases_has_empty_cells() -> None:
    (line,) = [line for line in report.table([{"nodes": 1000}]).splitlines() if line.startswith("| rollout")]
    assert line == "| rollout |  |"


def test_processors_time_leaves_out_the_simulation() -> None:
    used = {"etcd": {"processor": 1.5}, "scheduler": {"processor": 2}, "kwok": {"processor": 40}}
    record = {"rollout": {"usage": used}}
    assert report.processors(record, "rollout") == 3.5
    assert report.processors(record, "rollout", "scheduler") == 2
    assert report.processors(record, "rollout", "kwok") == 40
