"""A key of no real device, and processes that want its engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from model_tools.engine.key import Key

PARTS: dict[str, Any] = {
    "model": "a" * 64,
    "calibration": "",
    "precision": "fp16",
    "runtime": "tensorrt",
    "version": "10.6.0",
    "builder": 1,
    "device": {"gpu": "Tesla T4", "compute_capability": "7.5"},
    "profile": {"min": 1, "opt": 16, "max": 16},
}
# The pod: takes what the test tells it as JSON, builds the engine's bytes by touching `building` and waiting
# for the end of its input, and prints what came of it.
POD = """
import json, sys
from pathlib import Path
from model_tools.engine.cache import obtain
from model_tools.engine.key import Key
told = json.loads(sys.argv[1])
said = []
def say(line):
    print(line, file=sys.stderr, flush=True)
def build(file):
    with Path(told["builds"]).open("a") as log:
        log.write("x")
    file.write_bytes(b"half of an")
    print("building", flush=True)
    sys.stdin.read()
    file.write_bytes(told["engine"].encode())
result = obtain(Path(told["cache"]), Key(**told["key"]), build, Path(told["output"]), told["wait"], say)
print(json.dumps([result.found, result.stored]), flush=True)
"""


@pytest.fixture
def key() -> Key:
    return Key(**PARTS)


class Pod:
    """A process that obtains an engine; it builds until `finish` is called."""

    def __init__(
        self, folder: Path, cache: Path, key: Key, number: int, wait: float, before: list[str]
    ) -> None:
        self.output = folder / f"pod-{number}" / "model.plan"
        self.builds = folder / "builds"
        told = {
            "cache": str(cache), "key": asdict(key), "output": str(self.output), "engine": "engine " * 1000,
            "builds": str(self.builds), "wait": wait,
        }  # fmt: skip
        self.process = subprocess.Popen(
            [*before, sys.executable, "-c", POD, json.dumps(told)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[4])},
        )  # fmt: skip

    def until_it_builds(self) -> None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line == "building\n", line + (self.process.stderr.read() if self.process.stderr else "")

    def until_it_says(self, words: str) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if words in line:
                return
        raise AssertionError(f"it never said {words!r}")

    def finish(self) -> tuple[bool, bool, str]:
        """Lets it build to the end: found, stored, and what it said."""
        out, err = self.process.communicate("", timeout=60)
        assert self.process.returncode == 0, err
        assert self.output.read_text() == "engine " * 1000
        found, stored = json.loads(out.splitlines()[-1])
        return found, stored, err


@pytest.fixture
def pod(tmp_path: Path, key: Key) -> Any:
    """A function that starts a pod on the cache tmp_path/cache. Those that a test leaves are ended."""
    pods: list[Pod] = []

    def start(wait: float = 60.0, before: list[str] | None = None, cache: Path | None = None) -> Pod:
        pods.append(Pod(tmp_path, cache or tmp_path / "cache", key, len(pods), wait, before or []))
        return pods[-1]

    yield start
    for each in pods:
        each.process.kill()
        each.process.wait()


@pytest.fixture
def mounted(tmp_path: Path) -> Callable[[str], list[str]]:
    """A function that gives what to put before a command so that tmp_path/cache is a tmpfs of these options.

    The mount is seen by that command alone and goes with it.
    """
    (tmp_path / "cache").mkdir()

    def before(options: str) -> list[str]:
        namespace = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
        mount = f'mount -t tmpfs -o {options} tmpfs {tmp_path / "cache"} && exec "$@"'
        command = [*namespace, "sh", "-c", mount, "sh"]
        if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
            pytest.skip("this user may not mount anything")
        return command

    return before
