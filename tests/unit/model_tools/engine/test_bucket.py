"""What a store says of a lock that is there is told from all else that it may refuse."""

from __future__ import annotations

import pytest

from model_tools.engine.bucket import _exists


def of_gcs(code: int, message: str) -> Exception:
    """An error of Google's store; its library takes a second to import."""
    from gcsfs.retry import HttpError

    return HttpError({"code": code, "message": message})


@pytest.mark.parametrize(
    "error",
    [
        "An error occurred (PreconditionFailed) when calling the PutObject operation",
        "An error occurred (ConditionalRequestConflict) when calling the PutObject operation",
    ],
)
def test_a_lock_that_is_there_is_known_by_the_stores_own_words(error: str) -> None:
    assert _exists(OSError(error))


def test_a_lock_that_is_there_is_known_by_googles_status() -> None:
    assert _exists(of_gcs(412, "At least one of the pre-conditions did not hold"))


def test_a_number_in_a_key_is_no_status() -> None:
    assert not _exists(PermissionError("Access Denied: engines/4093412f.lock"))
    assert not _exists(of_gcs(403, "no access to engines/412.lock"))
