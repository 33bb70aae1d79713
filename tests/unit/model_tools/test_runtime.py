"""A Triton that could not start is refused before it hangs."""

from __future__ import annotations

import pytest

from model_tools import runtime
from model_tools.console import BadInput


def test_a_missing_libpython_is_named_with_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "PYTHON", "3.99")  # no machine has its library
    with pytest.raises(BadInput, match=r"needs libpython3\.99\.so\.1\.0.*apt-get install libpython3\.99"):
        runtime.find_libpython()


def test_the_libpython_of_this_python_is_found() -> None:
    found = runtime.find_libpython()
    assert found.home
