"""For all tests: no example of a property fails for being slow, and what takes longest begins first."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

with suppress(ImportError):  # a GPU host may do without
    from hypothesis import HealthCheck, settings

    # Each run draws other examples; make test-nightly draws more of them at once.
    for profile, examples in (("any-machine", 40), ("thorough", 200)):
        settings.register_profile(
            profile,
            max_examples=examples,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow],
        )
    settings.load_profile("any-machine")

# Files of more than some ten seconds: processes take them in this order, and then the others. One that waits
# for servers is followed by one that computes, so that neither all wait nor all want a processor.
LONGEST = (
    "integration/test_loadtest.py",
    "chart/test_alerts.py",
    "integration/test_latency_exporter.py",
    "integration/test_quantize.py",
    "integration/test_watch_models.py",
    "plan/test_planning.py",
    "integration/test_dashboards.py",
    "integration/test_export.py",
    "integration/test_ladder.py",
    "model_tools/test_cli.py",
    "integration/test_serving.py",
    "ladder/test_ladder_command.py",
    "integration/test_serve_command.py",
    "chart/test_model_config.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        path = item.path.as_posix()
        return next((at for at, end in enumerate(LONGEST) if path.endswith(end)), len(LONGEST))

    items.sort(key=place)
