"""Which release the end-to-end tests look at: --release and --namespace, on the cluster of KUBECONFIG."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from model_tools.console import BadInput
from model_tools.kube import Release

if TYPE_CHECKING:
    from model_tools.slo.prometheus import Prometheus

    from .helm import Helm


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("inference-system", "release under test")
    group.addoption("--release", default="inference-system", help="Helm release (default: %(default)s)")
    group.addoption("--namespace", default="inference", help="its namespace (default: %(default)s)")
    group.addoption(
        "--load", type=Path, help="statistics that `loadtest run --json FILE` wrote for this release"
    )
    group.addoption("--report", type=Path, help="folder for the SLO report (index.html, measurement.json)")
    group.addoption("--window", default="5m", help="what to judge without --load: this long until now")
    group.addoption(
        "--rate",
        type=float,
        default=4.0,
        help="requests a second while pods come and go (default: %(default)s, which leaves 2 cores that serve"
        " ResNet-50 the time to start pods)",
    )
    group.addoption(
        "--soak",
        type=float,
        default=150.0,
        help="seconds of the load under which nothing may grow (default: %(default)s)",
    )
    group.addoption(
        "--set-objective",
        action="append",
        default=[],
        metavar="NAME=NUMBER",
        help="judge by this threshold instead of the release's (latency.client.p99=0.2)",
    )


def load_release(config: pytest.Config) -> Release:
    """The release of the command line. Raises BadInput where it, or the cluster, isn't there."""
    return Release.load(config.getoption("release"), config.getoption("namespace"))


@pytest.fixture(scope="session")
def release(pytestconfig: pytest.Config) -> Release:
    """The release under test; without one no test of it can say anything, so the run ends."""
    try:
        return load_release(pytestconfig)
    except BadInput as error:
        pytest.exit(str(error), returncode=2)


@pytest.fixture(scope="session")
def prometheus(release: Release) -> Prometheus:
    """The one that watches the release."""
    from model_tools.kube import service_session
    from model_tools.slo.prometheus import Prometheus

    place = release.values["monitoring"]["prometheus"]
    return Prometheus(*service_session(place["namespace"], place["service"], place["port"]))


@pytest.fixture(scope="session")
def helm(release: Release) -> Helm:
    from .helm import Helm

    return Helm(release.namespace)


@pytest.fixture(scope="session")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart as `make dist` writes it: an archive, away from the checkout."""
    from charts.dist import chart

    return chart(tmp_path_factory.mktemp("chart"))


@pytest.fixture(scope="module")
def kube_config() -> str:
    """Where pytest-helm-charts' cluster is: no option of its own, the same kubeconfig as everything here."""
    import os

    return os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
