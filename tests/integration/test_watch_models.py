"""The proxy's health is that of the models: HAProxy with the chart's configuration before a real Triton."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from processes import answers, free_ports, running

from model_tools.serve import LocalTriton
from tests.chart.render import only, render_chart
from tests.networks import SIDE, residual

MODEL = "small"
LIFE = 3  # seconds that a request may live: in the queue, and in a batch
VALUES: dict[str, Any] = {
    "model": {
        "name": MODEL,
        "runtime": "openvino",
        "precision": "fp32",
        "input": {"name": "image", "dataType": "UINT8", "shape": [SIDE, SIDE, 3]},
        "output": {"name": "probabilities", "dataType": "FP32", "shape": [10]},
        "instances": {"count": 2, "kind": "cpu", "threads": 1},
        "warmup": {"enabled": False},
    },
    "triton": {"gpu": {"count": 0}, "executionSeconds": LIFE - 1},
}
# Quiet for 5 s, a request that may live, and looks of 2 s; several times that on a busy machine.
NOTICED = 60.0
# Longer than the proxy is patient with a pod that is quiet, and than it takes to look.
OBSERVED = 9.0


@dataclass
class Pod:
    """Triton and the proxy as they are in a pod."""

    triton: LocalTriton
    http: str
    health: str
    state: Path  # a folder that Triton's container shares with the proxy's

    def ready(self) -> str:
        """Nothing while the proxy is ready, else why not."""
        answer = requests.get(f"{self.health}/v2/health/ready", timeout=10)
        return "" if answer.ok else answer.text.strip() or str(answer.status_code)

    def until(self, condition: Callable[[str], bool], what: str) -> None:
        deadline = time.monotonic() + NOTICED
        while not condition(said := self.ready()):
            assert time.monotonic() < deadline, f"{what}: not within {NOTICED:.0f} s; the proxy says '{said}'"
            time.sleep(0.5)

    def instances(self) -> list[int]:
        found = subprocess.run(
            ["pgrep", "-P", str(self.triton.pid)], capture_output=True, text=True, check=True
        )
        return [int(pid) for pid in found.stdout.split()]

    def infer(self) -> int:
        tensor = {
            "name": "image",
            "datatype": "UINT8",
            "shape": [1, SIDE, SIDE, 3],
            "data": [0] * (SIDE * SIDE * 3),
        }
        url = f"http://{self.triton.http}/v2/models/{MODEL}/infer"
        return requests.post(url, json={"inputs": [tensor]}, timeout=30).status_code

    def count(self, metric: str) -> int:
        text = requests.get(f"http://{self.triton.metrics}/metrics", timeout=5).text
        return sum(
            int(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(f"{metric}{{")
        )


@contextmanager
def running_pod(tmp_path: Path) -> Iterator[Pod]:
    """Both, once the proxy is ready."""
    if shutil.which("haproxy") is None:
        pytest.skip("haproxy is not installed (Debian: apt install haproxy)")
    import onnx

    rendered = render_chart(VALUES)
    folder = tmp_path / "models" / MODEL / "1"
    folder.mkdir(parents=True)
    onnx.save(residual(), folder / "model.onnx")
    config = only(rendered, "ConfigMap", "-model-config")["data"]
    (folder.parent / "config.pbtxt").write_text(config[f"{MODEL}.pbtxt"])
    http, health = free_ports(2)
    with LocalTriton(tmp_path / "models", exit_seconds=0) as triton:
        changes = {
            "127.0.0.1:8080": triton.http, "127.0.0.1:8002": triton.metrics,
            "bind :8000": f"bind 127.0.0.1:{http}", "bind :8003": f"bind 127.0.0.1:{health}",
            "/config": str(tmp_path), "/state": str(tmp_path),
        }  # fmt: skip
        for name, text in only(rendered, "ConfigMap", "-proxy-config")["data"].items():
            for old, new in changes.items():
                text = text.replace(old, new)
            (tmp_path / name).write_text(text)
        url = f"http://127.0.0.1:{health}"
        command = ["haproxy", "-db", "-f", str(tmp_path / "haproxy.cfg")]
        with running(command, answers(f"{url}/proxy"), tmp_path / "log"):
            found = Pod(triton, f"http://127.0.0.1:{http}", url, tmp_path)
            found.until(lambda said: not said, "a proxy that is ready")
            yield found


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    """One to do harm to."""
    with running_pod(tmp_path) as found:
        yield found


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    """One that stays as it is."""
    with running_pod(tmp_path_factory.mktemp("pod")) as found:
        yield found


def test_instances_that_stand_still_are_noticed(pod: Pod) -> None:
    for pid in pod.instances():
        os.kill(pid, signal.SIGSTOP)
    # Triton answers for them that they are not healthy, and is well itself.
    pod.until(lambda said: said.startswith(f"model {MODEL} "), "a model that has stopped")
    assert requests.get(f"http://{pod.triton.http}/v2/health/ready", timeout=5).ok
    assert requests.get(f"{pod.health}/v2/health/live", timeout=5).status_code == 503


def test_a_pod_that_is_asked_for_nothing_stays_ready(shared: Pod) -> None:
    before = shared.count("nv_inference_request_success")
    shared.until(
        lambda said: bool(said) or shared.count("nv_inference_request_success") >= before + 2,
        "looks of its own",
    )
    assert not shared.ready()


def test_a_pod_whose_memory_is_nearly_used_up_sends_its_clients_away_and_answers_them(shared: Pod) -> None:
    why = "Triton has taken 90 % of its memory"
    with requests.Session() as client:
        url = f"{shared.http}/v2/models/{MODEL}"
        assert "Connection" not in client.get(url, timeout=10).headers
        (shared.state / "full").write_text(f"{why}\n")
        shared.until(lambda said: said == why, "a pod that is full")
        assert requests.get(f"{shared.health}/v2/health/live", timeout=5).status_code == 503
        answer = client.get(url, timeout=10)
        assert answer.ok
        assert answer.headers["Connection"] == "close"
        (shared.state / "full").unlink()
        shared.until(lambda said: not said, "a pod that has memory again")
        assert "Connection" not in client.get(url, timeout=10).headers


def test_probers_that_leave_connections_open_keep_nobody_out(shared: Pod) -> None:
    """More than the health port takes at once, as load balancers in several zones may."""
    address = urlsplit(shared.health)
    with ExitStack() as stack:
        for _ in range(150):
            prober = stack.enter_context(closing(HTTPConnection(address.hostname, address.port, timeout=10)))
            prober.request("GET", "/v2/health/ready")
            assert prober.getresponse().read() is not None
            assert prober.sock is None, "the proxy keeps the connection"
        assert not shared.ready()


def test_a_pod_that_answers_is_asked_for_nothing_more(shared: Pod) -> None:
    """However long requests wait, as long as some are answered."""
    stop = threading.Event()
    sent: list[int] = []

    def ask() -> None:
        while not stop.is_set():
            sent.append(shared.infer())

    threads = [threading.Thread(target=ask) for _ in range(4)]
    before = shared.count("nv_inference_request_success")
    for thread in threads:
        thread.start()
    try:
        deadline = time.monotonic() + OBSERVED
        while time.monotonic() < deadline:
            assert not shared.ready()
            time.sleep(0.5)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert shared.count("nv_inference_request_success") - before == sum(status == 200 for status in sent)


def test_an_instance_that_dies_takes_triton_along(pod: Pod) -> None:
    """Whoever runs Triton then starts it anew; without that every other request would fail for ever."""
    os.kill(pod.instances()[0], signal.SIGKILL)
    pod.until(lambda said: said == "503" or "503" in said, "Triton's end")
