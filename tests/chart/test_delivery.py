"""The script that the init container runs: a good model is put in place, a bad one is named."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from .render import only, render_chart

SHELLS = [shell for shell in ("dash", "bash", "busybox") if shutil.which(shell)]


class Delivery:
    """A model folder, an empty repository, and the script between them."""

    def __init__(self, folder: Path, shell: str) -> None:
        self.source, self.repository, config = folder / "source", folder / "repository", folder / "config"
        self.shell = [shell, "sh"] if shell == "busybox" else [shell]
        for directory in (self.source, self.repository, config):
            directory.mkdir()
        for name, text in only(render_chart(), "ConfigMap", "-model-config")["data"].items():
            (config / name).write_text(text)
        self.script = config / "deliver-model.sh"
        self.write(self.source)

    def write(self, folder: Path, content: bytes = b"onnx") -> None:
        """A model in a folder."""
        folder.mkdir(exist_ok=True)
        (folder / "model.onnx").write_bytes(content * 1000)
        (folder / "model.json").write_text("{}")
        (folder / "warmup").mkdir(exist_ok=True)
        (folder / "warmup" / "sample").write_bytes(content * 10)
        self.sum("model.onnx", "model.json", "warmup/sample", folder=folder)

    def write_versions(self, *numbers: int) -> None:
        """The source holds versions instead of one model; each has its number as content."""
        shutil.rmtree(self.source)
        self.source.mkdir()
        for number in numbers:
            self.write(self.source / str(number), str(number).encode())

    def sum(self, *names: str, folder: Path | None = None) -> None:
        folder = folder or self.source
        lines = (f"{hashlib.sha256((folder / n).read_bytes()).hexdigest()}  {n}\n" for n in names)
        (folder / "SHA256SUMS").write_text("".join(lines))

    def delivered(self) -> dict[str, bytes]:
        """The first byte of each version's model in the repository."""
        models = (self.repository / "resnet50").glob("*/model.onnx")
        return {model.parent.name: model.read_bytes()[:1] for model in models}

    def run(
        self, model_file: str = "model.onnx", policy: str = "specific", count: int = 1, warmup: bool = False
    ) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": os.environ["PATH"],
            "SOURCE": "image models:1",
            "SOURCE_DIRECTORY": str(self.source),
            "REPOSITORY": str(self.repository),
            "MODEL_NAME": "resnet50",
            "MODEL_VERSION": "3",
            "MODEL_FILE": model_file,
            "VERSION_POLICY": policy,
            "VERSION_COUNT": str(count),
            "WARMUP_FILE": "warmup/sample" if warmup else "",
        }
        command = [*self.shell, str(self.script)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)

    def refusal(self, model_file: str = "model.onnx", policy: str = "specific", warmup: bool = False) -> str:
        """The error line of a run that has to fail."""
        result = self.run(model_file, policy, warmup=warmup)
        assert result.returncode == 1
        assert not (self.repository / "resnet50" / "config.pbtxt").exists(), "Triton could load this"
        (line,) = result.stderr.splitlines()
        return line


@pytest.fixture(params=SHELLS)
def delivery(tmp_path: Path, request: pytest.FixtureRequest) -> Delivery:
    return Delivery(tmp_path, request.param)


def test_a_good_model_becomes_a_repository(delivery: Delivery) -> None:
    result = delivery.run()
    assert result.returncode == 0, result.stderr
    model = delivery.repository / "resnet50"
    assert (model / "config.pbtxt").read_text() == delivery.script.with_name("resnet50.pbtxt").read_text()
    assert (model / "3" / "model.onnx").read_bytes() == (delivery.source / "model.onnx").read_bytes()


def test_a_restart_leaves_nothing_of_the_run_before(delivery: Delivery) -> None:
    stale = delivery.repository / "resnet50" / "2" / "model.onnx"
    stale.parent.mkdir(parents=True)
    stale.write_text("half of a model")
    assert delivery.run().returncode == 0
    assert not stale.exists()


def test_a_saved_model_is_a_folder(delivery: Delivery) -> None:
    folder = delivery.source / "model.savedmodel" / "variables"
    folder.mkdir(parents=True)
    for name in ("model.savedmodel/saved_model.pb", "model.savedmodel/variables/variables.index"):
        (delivery.source / name).write_text(name)
    delivery.sum("model.savedmodel/saved_model.pb", "model.savedmodel/variables/variables.index")
    assert delivery.run("model.savedmodel/saved_model.pb").returncode == 0
    assert (delivery.repository / "resnet50/3/model.savedmodel/variables/variables.index").is_file()


@pytest.mark.parametrize(
    ("policy", "count", "versions"),
    [
        ("specific", 1, {"3"}),
        ("latest", 1, {"10"}),
        ("latest", 2, {"3", "10"}),
        ("latest", 9, {"1", "3", "10"}),
        ("all", 1, {"1", "3", "10"}),
    ],
)
def test_the_version_policy_chooses_among_numbered_folders(
    delivery: Delivery, policy: str, count: int, versions: set[str]
) -> None:
    delivery.write_versions(1, 3, 10)
    (delivery.source / "notes").mkdir()
    result = delivery.run(policy=policy, count=count)
    assert result.returncode == 0, result.stderr
    assert delivery.delivered() == {version: version[:1].encode() for version in versions}


@pytest.mark.parametrize("policy", ["specific", "latest", "all"])
def test_a_source_without_numbered_folders_is_one_version(delivery: Delivery, policy: str) -> None:
    assert delivery.run(policy=policy).returncode == 0
    assert delivery.delivered() == {"3": b"o"}


def test_a_version_that_is_not_there_is_named_with_those_that_are(delivery: Delivery) -> None:
    delivery.write_versions(1, 2, 33)
    refusal = delivery.refusal()
    assert refusal == f"deliver-model: image models:1 has no version 3 in {delivery.source}, only 1 2 33"


@pytest.mark.parametrize("policy", ["latest", "all"])
def test_a_corrupt_version_is_named_with_its_folder(delivery: Delivery, policy: str) -> None:
    delivery.write_versions(1, 3)
    (delivery.source / "3" / "model.onnx").write_bytes(b"changed")
    refusal = delivery.refusal(policy=policy)
    assert refusal == f"deliver-model: corrupt in {delivery.source}/3 of image models:1: model.onnx"


def test_the_sample_for_the_warm_up_is_where_triton_looks(delivery: Delivery) -> None:
    assert delivery.run(warmup=True).returncode == 0
    assert (delivery.repository / "resnet50/warmup/sample").read_bytes() == b"onnx" * 10


def test_a_missing_sample_is_named_with_the_way_out(delivery: Delivery) -> None:
    shutil.rmtree(delivery.source / "warmup")
    delivery.sum("model.onnx", "model.json")
    assert delivery.run().returncode == 0, "nothing is missing without a warm-up from it"
    shutil.rmtree(delivery.repository / "resnet50")
    assert delivery.refusal(warmup=True) == (
        f"deliver-model: image models:1 has no warmup/sample in {delivery.source};"
        " model.warmup.data random needs none"
    )


def test_a_sample_that_no_digest_covers_is_refused(delivery: Delivery) -> None:
    delivery.sum("model.onnx")
    refusal = delivery.refusal(warmup=True)
    assert refusal.endswith("does not list warmup/sample")


def test_an_empty_model_is_named(delivery: Delivery) -> None:
    (delivery.source / "model.onnx").write_bytes(b"")
    delivery.sum("model.onnx")
    assert delivery.refusal() == f"deliver-model: model.onnx in {delivery.source} of image models:1 is empty"


def test_a_corrupt_model_is_named(delivery: Delivery) -> None:
    with (delivery.source / "model.onnx").open("r+b") as file:
        file.seek(100)
        file.write(b"\0")
    assert delivery.refusal() == f"deliver-model: corrupt in {delivery.source} of image models:1: model.onnx"


def test_every_corrupt_file_is_named_and_no_other(delivery: Delivery) -> None:
    (delivery.source / "whole").write_text("whole")
    delivery.sum("model.onnx", "whole", "model.json")
    for name in ("model.onnx", "model.json"):
        (delivery.source / name).write_text("changed")
    assert (
        delivery.refusal()
        == f"deliver-model: corrupt in {delivery.source} of image models:1: model.onnx model.json"
    )


def test_a_listed_file_that_is_missing_is_named(delivery: Delivery) -> None:
    (delivery.source / "model.json").unlink()
    assert delivery.refusal() == f"deliver-model: corrupt in {delivery.source} of image models:1: model.json"


def test_a_model_for_another_runtime_is_named(delivery: Delivery) -> None:
    refusal = delivery.refusal("model.plan")
    assert refusal == f"deliver-model: image models:1 has no model.plan in {delivery.source}"


def test_a_missing_folder_is_named(delivery: Delivery) -> None:
    shutil.rmtree(delivery.source)
    assert delivery.refusal() == f"deliver-model: image models:1 has no folder {delivery.source}"


def test_a_model_without_digests_is_refused(delivery: Delivery) -> None:
    (delivery.source / "SHA256SUMS").unlink()
    assert delivery.refusal() == f"deliver-model: image models:1 has no SHA256SUMS in {delivery.source}"


def test_a_model_that_its_digests_leave_out_is_refused(delivery: Delivery) -> None:
    delivery.sum("model.json")
    assert delivery.refusal() == (
        f"deliver-model: SHA256SUMS in {delivery.source} of image models:1 does not list model.onnx"
    )


def test_the_cache_of_responses_has_the_models_size() -> None:
    def arguments(size: int) -> list[str]:
        pod = only(render_chart({"model": {"responseCache": size}}), "Deployment", "-triton")
        containers = pod["spec"]["template"]["spec"]["containers"]
        return [argument for argument in containers[0]["args"] if "cache" in argument]

    assert arguments(0) == []
    assert arguments(2_000_000_000) == ["--cache-config=local,size=2000000000"]


@pytest.mark.parametrize(
    ("runtime", "precision", "kind", "file"),
    [
        ("tensorrt", "fp16", "gpu", "model.plan"),
        ("openvino", "fp32", "cpu", "model.onnx"),
        ("onnxruntime", "fp32", "gpu", "model.onnx"),
        ("tensorflow", "savedmodel", "gpu", "model.savedmodel/saved_model.pb"),
    ],
)
def test_the_pod_asks_for_the_file_that_triton_will_load(
    runtime: str, precision: str, kind: str, file: str
) -> None:
    model = {"runtime": runtime, "precision": precision, "instances": {"kind": kind}}
    manifests = render_chart({"model": model, "engine": {"enabled": False}})
    pod = only(manifests, "Deployment", "-triton")["spec"]["template"]["spec"]
    environment = {entry["name"]: entry["value"] for entry in pod["initContainers"][-1]["env"]}
    assert environment["MODEL_FILE"] == file
    config = only(manifests, "ConfigMap", "-model-config")["data"]["resnet50.pbtxt"]
    assert f'default_model_filename: "{file.partition("/")[0]}"' in config


def test_a_claim_is_mounted_read_only() -> None:
    values = {"model": {"source": {"type": "pvc", "pvc": {"claimName": "models"}, "path": "/resnet/50"}}}
    pod = only(render_chart(values), "Deployment", "-triton")["spec"]["template"]["spec"]
    deliver, _ = pod["initContainers"]
    assert {"name": "source", "mountPath": "/source", "readOnly": True} in deliver["volumeMounts"]
    assert {"name": "SOURCE_DIRECTORY", "value": "/source/resnet/50"} in deliver["env"]


def test_a_url_is_fetched_before_it_is_delivered() -> None:
    values = {"model": {"source": {"type": "url", "url": "gs://bucket/resnet50"}}}
    pod = only(render_chart(values), "Deployment", "-triton")["spec"]["template"]["spec"]
    fetch, deliver, _ = pod["initContainers"]
    assert fetch["command"] == ["model-tools", "fetch", "gs://bucket/resnet50", "/source"]
    assert {"name": "SOURCE", "value": "gs://bucket/resnet50"} in deliver["env"]
