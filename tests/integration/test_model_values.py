"""What a release's model values say is what a real Triton does.

The chart is rendered, its delivery script runs with the environment of its init containers, and Triton starts
on what they leave, with the pod's own cache option.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import helm_python
import numpy as np
import pytest
import requests
import tritonclient.grpc as triton_grpc
import yaml
from colours import MODEL, PICTURE, write_model
from tritonclient.utils import InferenceServerException

from charts.package import CHART
from model_tools import bundle
from model_tools.console import BadInput
from model_tools.serve import LocalTriton
from model_tools.values import Values, load_values, merge

ROOT = Path(__file__).parents[2]
VALUES: Values = {
    "tools": {"image": {"repository": "tools", "tag": "1"}},
    "model": {
        "name": MODEL,
        "input": {"name": "image", "dataType": "UINT8", "shape": list(PICTURE)},
        "output": {"name": "probabilities", "dataType": "FP32", "shape": [10]},
        "source": {"image": {"repository": "model", "tag": "1"}},
    },
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_model(tmp_path / "source")


@pytest.fixture
def release(tmp_path: Path) -> Callable[..., LocalTriton]:
    """A function that delivers the models of a release, and gives the Triton that would serve them."""

    def release(
        sources: dict[str, Path], values: Values, *options: str, log: Callable[[str], None] = print
    ) -> LocalTriton:
        pod, config = rendered(merge(merge(load_values([ROOT / "values" / "local.yaml"]), VALUES), values))
        folder, repository = tmp_path / "config", tmp_path / "repository"
        folder.mkdir()
        for name, text in config.items():
            (folder / name).write_text(text)
        for container in pod["initContainers"]:
            if container["name"].startswith("build-engine"):
                continue  # Triton takes the portable model as well
            environment = {entry["name"]: entry["value"] for entry in container["env"]}
            environment |= {
                "PATH": os.environ["PATH"],
                "REPOSITORY": str(repository),
                "SOURCE_DIRECTORY": str(sources[environment["MODEL_NAME"]]),
            }
            script = str(folder / Path(container["command"][1]).name)
            done = subprocess.run(
                ["sh", script], env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
        caching = [argument for argument in pod["containers"][0]["args"] if "cache-config" in argument]
        return LocalTriton(repository, options=[*caching, *options], log=log, exit_seconds=0)

    return release


def rendered(values: Values) -> tuple[dict[str, Any], dict[str, str]]:
    """The pod that serves, and the data of its models' ConfigMap."""
    with helm_python.Chart.load(CHART) as chart:
        files = chart.render(values, name="inference-system", namespace="inference")
    deployment, configuration = (
        yaml.safe_load(files[f"{CHART.name}/templates/triton/{name}.yaml"])
        for name in ("deployment", "config")
    )
    return deployment["spec"]["template"]["spec"], configuration["data"]


class Client:
    """A gRPC client of a Triton, for pictures of one colour."""

    def __init__(self, triton: LocalTriton) -> None:
        self._triton = triton
        self.grpc = triton_grpc.InferenceServerClient(triton.grpc)

    def infer(self, colour: int, model: str = MODEL, version: str = "") -> Any:
        return self.grpc.infer(model, [request(colour)], version).as_numpy("probabilities")

    def metric(self, name: str) -> float:
        text = requests.get(f"http://{self._triton.metrics}/metrics", timeout=5).text
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"{name}{{"))


def request(colour: int) -> Any:
    tensor = triton_grpc.InferInput("image", [1, *PICTURE], "UINT8")
    return tensor.set_data_from_numpy(np.full((1, *PICTURE), colour, np.uint8))


@pytest.mark.parametrize("data", ["sample", "random"])
def test_every_instance_is_warmed_up_with_one_picture_and_with_the_largest_batch(
    release: Callable[..., LocalTriton], source: Path, data: str
) -> None:
    log: list[str] = []
    values = {"model": {"warmup": {"data": data}, "instances": {"count": 2}}}
    with release({MODEL: source}, values, "--log-verbose=1", log=log.append) as triton:
        assert Client(triton).infer(0).shape == (1, 10)
    runs = [line.partition("running warmup sample ")[2] for line in log]
    for batch in ("'batch of 1' ", "'batch of 16' "):
        assert len([run for run in runs if run.startswith(batch)]) == 2, "once on each instance"


def test_no_warm_up_is_a_value_away(release: Callable[..., LocalTriton], source: Path) -> None:
    log: list[str] = []
    values = {"model": {"warmup": {"enabled": False}}}
    with release({MODEL: source}, values, "--log-verbose=1", log=log.append):
        assert not [line for line in log if "running warmup sample" in line]


def test_a_sample_that_is_no_picture_of_the_model_stops_the_pod_before_it_is_ready(
    release: Callable[..., LocalTriton], source: Path
) -> None:
    """So what Triton computes with is the file, not something it made up."""
    (source / "warmup" / "sample").write_bytes(b"short")
    sums = (source / "SHA256SUMS").read_text().splitlines()
    sums = [line for line in sums if "warmup" not in line]
    sums.append(f"{bundle.digest(source / 'warmup' / 'sample')}  warmup/sample")
    (source / "SHA256SUMS").write_text("\n".join(sums) + "\n")
    with pytest.raises(BadInput, match="warmup"), release({MODEL: source}, {}):
        pass


def test_a_picture_that_comes_again_is_answered_from_the_cache(
    release: Callable[..., LocalTriton], source: Path
) -> None:
    with release({MODEL: source}, {"model": {"responseCache": 10_000_000}}) as triton:
        client = Client(triton)
        first, again, other = client.infer(10), client.infer(10), client.infer(200)
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)
        assert client.metric("nv_cache_num_hits_per_model") == 1
        assert client.metric("nv_cache_num_misses_per_model") == 2


def test_without_a_cache_every_picture_is_computed(release: Callable[..., LocalTriton], source: Path) -> None:
    with release({MODEL: source}, {}) as triton:
        client = Client(triton)
        before = client.metric("nv_inference_exec_count")  # those of the warm-up
        client.infer(10)
        client.infer(10)
        assert client.metric("nv_inference_exec_count") - before == 2


def test_a_full_level_refuses_its_own_requests_and_not_those_above(
    release: Callable[..., LocalTriton], source: Path
) -> None:
    """Requests wait for a batch that can't fill up, so what is in the queue is known."""
    seconds = 3
    batching = {
        "preferredSizes": [16],
        "maxQueueDelayMicroseconds": seconds * 1_000_000,
        "priorities": [{}, {"maxSize": 2}],
    }
    with release({MODEL: source}, {"model": {"batching": batching}}) as triton:
        client = Client(triton)
        outcomes: dict[int, list[Any]] = {1: [], 2: []}
        for priority in (2, 2, 2, 1, 1, 1):
            client.grpc.async_infer(
                MODEL,
                [request(0)],
                callback=lambda result, error, level=priority: outcomes[level].append(error),
                priority=0 if priority == 2 else priority,  # unnamed is the lowest
            )
        client.grpc.infer(MODEL, [request(0)], priority=1)  # in the same batch, so all are answered with it
        refused = {level: [error for error in errors if error] for level, errors in outcomes.items()}
        assert len(refused[1]) == 0
        assert len(refused[2]) == 1
        assert isinstance(refused[2][0], InferenceServerException)
        assert refused[2][0].status() == "StatusCode.UNAVAILABLE"


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ({"kind": "specific"}, {"2"}),
        ({"kind": "latest", "count": 2}, {"2", "10"}),
        ({"kind": "all"}, {"1", "2", "10"}),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)
def test_the_version_policy_serves_these_versions_of_a_source(
    release: Callable[..., LocalTriton], tmp_path: Path, policy: Values, served: set[str]
) -> None:
    for version in (1, 2, 10):
        write_model(tmp_path / "versions" / str(version), seed=version)
    values = {"model": {"version": 2, "versionPolicy": policy}}
    with release({MODEL: tmp_path / "versions"}, values) as triton:
        client = Client(triton)
        index = client.grpc.get_model_repository_index().models
        assert {model.version for model in index if model.state == "READY"} == served
        newest = max(served, key=int)
        assert np.array_equal(client.infer(9), client.infer(9, version=newest)), "the default is the highest"
        others = [client.infer(9, version=version) for version in served - {newest}]
        assert not any(np.array_equal(client.infer(9), other) for other in others)


def test_models_of_one_release_are_served_side_by_side(
    release: Callable[..., LocalTriton], source: Path, tmp_path: Path
) -> None:
    other = write_model(tmp_path / "other", seed=1)
    extra = {"small.fast": {"version": 7, "batching": {"maxSize": 4, "preferredSizes": []}}}
    with release({MODEL: source, "small.fast": other}, {"extraModels": extra}) as triton:
        client = Client(triton)
        assert client.infer(9, "small.fast").shape == client.infer(9).shape
        assert not np.array_equal(client.infer(9, "small.fast"), client.infer(9))
        config = client.grpc.get_model_config("small.fast").config
        assert (config.max_batch_size, list(config.version_policy.specific.versions)) == (4, [7])
        assert client.grpc.get_model_config(MODEL).config.max_batch_size == 16
