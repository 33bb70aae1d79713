"""One small release for all of these tests, and where their rows go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from model_tools.kube import Release

from ..helm import Helm
from .record import Row
from .service import Service, installed

ROWS = Path(__file__).parents[3] / "build" / "reliability"


@pytest.fixture(scope="session")
def service(
    release: Release, helm: Helm, chart: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    if release.values["model"]["instances"]["kind"] != "cpu":
        pytest.skip("the images of this cluster have no backend for the CPU")
    with installed(release, helm, chart, tmp_path_factory.mktemp("reliability")) as found:
        yield found


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[[Row], None]:
    """Writes a row of docs/reliability.md, whether the test goes on to pass or not."""

    def write(row: Row) -> None:
        print(f"\n{row}")
        row.write(ROWS)

    return write
