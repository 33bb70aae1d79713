"""What a store says of a lock that is there is told from all else that it may refuse."""

from __future__ import annotations

import pytest
from gcsfs.retry import HttpError

from model_tools.engine.bucket import _exists


@pytest.mark.parametrize(
    "error",
    [
        HttpError({"code": 412, "message": "At least one of the pre-conditions did not hold"}),
        OSError("An error occurred (PreconditionFailed) when calling the PutObject operation"),
        OSError("An error occurred (ConditionalRequestConflict) when calling the PutObject operation"),
    ],
)
def test_a_lock_that_is_there_is_known_by_the_stores_own_words(error: Exception) -> None:
    assert _exists(error)


@pytest.mark.parametrize(
    "error",
    [
        PermissionError("Access Denied: engines/4093412f.lock"),
        HttpError({"code": 403, "message": "no access to engines/412.lock"}),
    ],
)
def test_a_number_in_a_key_is_no_status(error: Exception) -> None:
    assert not _exists(error)
