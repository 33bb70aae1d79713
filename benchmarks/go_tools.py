"""Programs that benchmarks are made with, built on demand from the Go modules under benchmarks/tools."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from model_tools.console import BadInput
from model_tools.files import cached

TOOLS = Path(__file__).with_name("tools")
# ghz: an independent load generator. answerer: a gRPC server that does nothing but answer.
PACKAGES = {"ghz": "github.com/bojand/ghz/cmd/ghz", "answerer": "."}


def built(name: str) -> Path:
    """The program, from the cache where these sources were built before. Raises BadInput."""
    module = TOOLS / name
    if shutil.which("go") is None:
        raise BadInput(f"go is not installed: {module} is built with it")
    digest = hashlib.sha256()
    for file in sorted(module.iterdir()):
        digest.update(file.read_bytes())

    def build(folder: Path) -> None:
        print(f"building {name}", file=sys.stderr)
        done = subprocess.run(
            ["go", "build", "-ldflags", "-s -w", "-o", str(folder / name), PACKAGES[name]],
            cwd=module,
            env={**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -trimpath", "GOWORK": "off"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise BadInput(f"{module}: {done.stderr.strip().splitlines()[-1]}")

    return cached("benchmarks", f"{name}-{digest.hexdigest()[:16]}", build) / name
