"""Simulated GPU nodes on the real control plane: what benchmarks/scale measures, on a small one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ..embedded import EMBEDDED

pytestmark = [pytest.mark.nightly, *EMBEDDED, pytest.mark.timeout(1800)]
NODES = 20


def test_rollout_and_drain_keep_their_promises_on_twenty_nodes(tmp_path: Path) -> None:
    run = [sys.executable, "-m", "benchmarks.scale", "--nodes", str(NODES), "--start", "1", "--drain", "1"]
    done = subprocess.run(
        [*run, "--output", tmp_path], capture_output=True, text=True, timeout=1500, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / f"{NODES}.json").read_text())
    for phase in ("install", "rollout", "drain"):
        assert found[phase]["pods"]["most_on_a_node"] == 1
        assert found[phase]["ended"] == [], "a program of the control plane ended"
    assert found["install"]["nodes used"] == NODES
    rollout, drain = found["rollout"], found["drain"]
    # Two of twenty at a time, and not one more than there are GPUs.
    assert (rollout["promise"]["most_pods"], rollout["promise"]["fewest_serving"]) == (NODES, NODES - 2)
    assert rollout["pods"]["most_pods"] <= rollout["promise"]["most_pods"]
    assert rollout["pods"]["fewest_serving"] >= rollout["promise"]["fewest_serving"]
    assert (drain["nodes"], drain["pods left"], drain["least"]) == (2, 0, NODES - 2)
    assert drain["pods"]["fewest_serving"] == drain["least"]
    assert drain["one more"] == "refused"
    assert found["monitoring"]["targets"] == NODES
    for service in ("service", "headless"):
        assert found["endpoints"][service]["endpoints"] == NODES
    assert found["endpoints"]["DNS over TCP"]["addresses"] == NODES
