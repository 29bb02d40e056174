"""Whether work that failed may be tried again."""

from __future__ import annotations

import pytest

from forebay.errors import ConnectFailed, ForebayError, RetryClass, UpstreamClosed, UpstreamProtocolError
from forebay.policy.retry import Retry


@pytest.mark.parametrize(
    ("error", "method", "again"),
    [
        (ConnectFailed("refused"), "POST", True),
        (ConnectFailed("refused"), "GET", True),
        (UpstreamClosed("ended"), "GET", True),
        (UpstreamClosed("ended"), "PUT", True),
        (UpstreamClosed("ended"), "POST", False),
        (UpstreamClosed("ended"), "PATCH", False),
        (UpstreamClosed("ended before it was sent", retry=RetryClass.SAFE), "POST", True),
        (UpstreamProtocolError("garbage"), "GET", False),
    ],
)
def test_the_class_of_the_error_and_the_method_decide(error: ForebayError, method: str, again: bool) -> None:
    """Safe: any method. Maybe: idempotent ones. Never: none."""
    assert Retry(attempts=2).again(error, method=method, attempt=1) is again


def test_attempts_are_counted_with_the_first() -> None:
    """Three attempts are two retries; one is none."""
    error = ConnectFailed("refused")
    assert [Retry(3).again(error, method="GET", attempt=n) for n in (1, 2, 3)] == [True, True, False]
    assert not Retry(1).again(error, method="GET", attempt=1)


def test_no_attempts_are_refused() -> None:
    """Zero tries would be no service at all."""
    with pytest.raises(ValueError, match="attempts 0"):
        Retry(0)
