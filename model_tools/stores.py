"""Object stores and web servers, through fsspec."""

from __future__ import annotations

from typing import Any

from model_tools.console import BadInput


def store(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path in it. Raises BadInput for one that nothing here opens."""
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url.rstrip("/"))
    except (ImportError, ValueError) as error:
        raise BadInput(f"{url}: {reason(error)}") from error
    return system, str(path)


def reason(error: BaseException) -> str:
    """The first line that an error says; every store raises its own."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
