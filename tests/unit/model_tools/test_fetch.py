"""`model-tools fetch` copies a model directory whole and checked, or not at all."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

NAMES = {"model.onnx", "model.json", "reference.npz", "warmup", "SHA256SUMS"}


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files, but a path that begins with /cut ends in the middle of the body."""

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/cut/model/model.onnx":
            self.send_response(200)
            self.send_header("Content-Length", "1280000")
            self.end_headers()
            self.wfile.write(b"x" * 1000)
            self.close_connection = True
            return
        self.path = self.path.removeprefix("/cut")
        super().do_GET()


@pytest.fixture
def web(tmp_path: Path, model: Path) -> Iterator[str]:
    """A web server over the folder that holds the model directory."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_a_model_comes_from_a_web_server(run: Any, web: str, model: Path, tmp_path: Path) -> None:
    result = run("fetch", f"{web}/model", tmp_path / "copy")
    assert result.returncode == 0, result.stderr
    assert names(tmp_path / "copy") == NAMES
    for name in ("model.onnx", "warmup/sample"):
        assert (tmp_path / "copy" / name).read_bytes() == (model / name).read_bytes()


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_model_comes_from_a_folder_and_replaces_one(
    run: Any, model: Path, tmp_path: Path, scheme: str
) -> None:
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "old").write_text("")
    result = run("fetch", f"{scheme}{model}/", tmp_path / "copy")
    assert result.returncode == 0, result.stderr
    assert names(tmp_path / "copy") == NAMES


@pytest.mark.parametrize("content", [b"", b"other"], ids=["empty", "corrupt"])
def test_a_broken_file_is_named_and_the_copy_before_stays(
    refusal: Callable[..., str], run: Any, web: str, model: Path, tmp_path: Path, content: bytes
) -> None:
    assert run("fetch", model, tmp_path / "copy").returncode == 0
    good = (tmp_path / "copy" / "model.onnx").read_bytes()
    (model / "model.onnx").write_bytes(content)
    before = names(tmp_path)
    line = refusal("fetch", f"{web}/model", tmp_path / "copy")
    assert line.startswith(f"{web}/model/model.onnx: is {'empty' if not content else 'corrupt'}")
    assert (tmp_path / "copy" / "model.onnx").read_bytes() == good
    assert names(tmp_path) == before


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{web}/cut/model", "{web}/cut/model/model.onnx: broke off"),
        ("{web}/nothing", "{web}/nothing/SHA256SUMS: "),
        ("http://127.0.0.1:9/model", "http://127.0.0.1:9/model/SHA256SUMS: "),
        ("nope://bucket/model", "nope://bucket/model/SHA256SUMS: can't be opened (Protocol not known"),
    ],
)
def test_a_source_that_can_not_be_read_is_named_and_nothing_is_left(
    refusal: Callable[..., str], web: str, tmp_path: Path, source: str, message: str
) -> None:
    before = names(tmp_path)
    assert refusal("fetch", source.format(web=web), tmp_path / "copy").startswith(message.format(web=web))
    assert names(tmp_path) == before


def test_checksums_can_not_name_a_file_outside(
    refusal: Callable[..., str], model: Path, tmp_path: Path
) -> None:
    sums = model / "SHA256SUMS"
    sums.write_text(sums.read_text() + "0" * 64 + "  ../outside\n")
    assert "line 5 is not a checksum and a file name" in refusal("fetch", model, tmp_path / "copy")
