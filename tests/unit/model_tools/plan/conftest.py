"""Plans in short."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from model_tools.plan import capacity


@pytest.fixture(autouse=True, scope="package")
def _short() -> Iterator[None]:
    """Shorter simulations: what is looked at here is the same for all of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capacity, "_REQUESTS", (20_000, 100_000))
        yield
