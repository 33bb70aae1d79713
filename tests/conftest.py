"""For all tests: no example of a property fails for being slow, for machines are slow at times."""

from __future__ import annotations

from contextlib import suppress

with suppress(ImportError):  # a GPU host may do without
    from hypothesis import HealthCheck, settings

    settings.register_profile(
        "any-machine", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("any-machine")
