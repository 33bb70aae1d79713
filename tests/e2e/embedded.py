"""Marks of tests that reach into the nodes of the embedded cluster, which takes root and no other cluster."""

from __future__ import annotations

import os

import pytest

from cluster import paths

EMBEDDED = (
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(
        os.environ.get("KUBECONFIG", str(paths.kubeconfig())) != str(paths.kubeconfig()),
        reason="KUBECONFIG names another cluster",
    ),
)
