"""Pods that share no volume share engines in a bucket, with the same promises as in a folder.

The store is a server that speaks S3's protocol (moto) on loopback.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from model_tools.engine import bucket
from model_tools.engine.cache import Result, obtain
from model_tools.engine.key import Key

CONTENT = b"compiled " * 1000
BUCKET = "engines"
KEY = Key("0" * 64, "", "fp16", "tensorrt", "10.6.0", 1, {"gpu": "Tesla T4", "compute_capability": "7.5"})


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """URL of an object store, which the environment names to whoever asks for s3://."""
    from moto.server import ThreadedMotoServer

    with pytest.MonkeyPatch.context() as patch:
        started = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        started.start()
        host, port = started.get_host_and_port()
        for name, value in {
            "AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        }.items():  # fmt: skip
            patch.setenv(name, value)
        yield f"http://{host}:{port}"
        started.stop()


@pytest.fixture
def url(server: str, request: pytest.FixtureRequest) -> str:
    """A folder of the bucket that is this test's own."""
    system, _ = bucket.store(f"s3://{BUCKET}")
    if not system.exists(BUCKET):
        system.mkdir(BUCKET)
    return f"s3://{BUCKET}/{request.node.name}"


class Pod:
    """Obtains the engine of one key, and counts what it built."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.output = url, folder / "model.plan"
        self.builds = 0
        self.said: list[str] = []
        self.built = threading.Event()
        self.may_end = threading.Event()
        self.may_end.set()

    def obtain(self, **options: Any) -> Result:
        self.said = []
        result = obtain(self.url, KEY, self.build, self.output, say=self.said.append, **options)
        assert self.output.read_bytes() == CONTENT
        return result

    def build(self, file: Path) -> None:
        self.builds += 1
        self.built.set()
        assert self.may_end.wait(30)
        file.write_bytes(CONTENT)


@pytest.fixture
def pods(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Pod]:
    monkeypatch.setattr(bucket, "POLL", 0.05)
    return [Pod(url, tmp_path / str(number)) for number in range(2)]


def test_what_one_pod_built_the_next_one_finds(pods: list[Pod]) -> None:
    first, second = (pod.obtain() for pod in pods)
    assert (first.found, first.stored) == (False, True)
    assert second.found
    assert [pod.builds for pod in pods] == [1, 0]
    assert [pod.said for pod in pods] == [[], []]


def test_pods_that_start_together_build_once(pods: list[Pod]) -> None:
    first, second = pods
    first.may_end.clear()
    with ThreadPoolExecutor(2) as pool:
        building = pool.submit(first.obtain)
        assert first.built.wait(30)
        waiting = pool.submit(second.obtain)
        while not second.said:
            assert not waiting.done()
        first.may_end.set()
        assert (building.result(30).found, waiting.result(30).found) == (False, True)
    assert second.builds == 0
    assert "builds this engine; waiting for it" in second.said[0]


def test_a_pod_that_builds_for_long_keeps_its_lock(pods: list[Pod], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket, "BEAT", 0.1)
    monkeypatch.setattr(bucket, "STALE", 1.0)
    first, second = pods
    first.may_end.clear()
    with ThreadPoolExecutor(2) as pool:
        building = pool.submit(first.obtain)
        assert first.built.wait(30)
        waiting = pool.submit(second.obtain, wait=3.0)
        result = waiting.result(60)  # it waited three times as long as a silent pod may
        first.may_end.set()
        building.result(30)
    assert not result.found
    assert "no engine after 3 s of waiting" in second.said[-1]
    assert not any("silent" in line for line in second.said)


def test_a_dead_pods_lock_is_taken_over(pods: list[Pod], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket, "STALE", 0.3)
    pod, _ = pods
    system, root = bucket.store(pod.url)
    system.pipe_file(f"{root}/{KEY.name}.lock", b"dead-pod 1")
    result = pod.obtain()
    assert (result.found, result.stored) == (False, True)
    assert pod.said[0] == "dead-pod builds this engine; waiting for it"
    assert "silent" in pod.said[1]
    assert not system.exists(f"{root}/{KEY.name}.lock")


@pytest.mark.parametrize("damage", ["truncated", "gone", "of another GPU", "no record"])
def test_an_engine_that_can_not_be_used_is_built_again(pods: list[Pod], damage: str) -> None:
    first, second = pods
    first.obtain()
    system, root = bucket.store(first.url)
    record = json.loads(system.cat_file(f"{root}/{KEY.name}/engine.json"))
    engine = f"{root}/{KEY.name}/{record['sha256']}"
    if damage == "truncated":
        system.pipe_file(engine, CONTENT[:100])
    elif damage == "gone":
        system.rm_file(engine)
    elif damage == "of another GPU":
        record["key"]["device"] = {"gpu": "NVIDIA L4"}
        system.pipe_file(f"{root}/{KEY.name}/engine.json", json.dumps(record).encode())
    else:
        system.pipe_file(f"{root}/{KEY.name}/engine.json", b"{")
    result = second.obtain()
    assert (result.found, result.stored, second.builds) == (False, True, 1)
    assert "it is discarded" in second.said[0]
    assert first.obtain().found


def test_a_bucket_that_is_not_there_costs_a_build_and_a_line(server: str, tmp_path: Path) -> None:
    pod = Pod("s3://no-such-bucket/engines", tmp_path)
    result = pod.obtain()
    assert (result.found, result.stored) == (False, False)
    assert [
        line for line in pod.said if line.startswith("warning: s3://no-such-bucket/engines: can't be written")
    ]


def test_the_command_takes_a_url(url: str, small: Path, tmp_path: Path) -> None:
    said = []
    for number in range(2):
        done = subprocess.run(
            [sys.executable, "-m", "model_tools", "engine", "build", "--model", small,
             "--runtime", "openvino", "--precision", "fp32", "--max-batch", "4",
             "--cache", url, "--output", tmp_path / str(number), "--json"],
            capture_output=True, text=True, check=False, timeout=120, env=os.environ,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said.append(json.loads(done.stdout))
    assert [each["found"] for each in said] == [False, True]
    assert (tmp_path / "0" / "model.blob").read_bytes() == (tmp_path / "1" / "model.blob").read_bytes()
