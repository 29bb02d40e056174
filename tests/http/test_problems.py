"""What errors leave as: problem documents that tell the client what is its business, and nothing else."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from forebay.errors import (
    CircuitOpen,
    ConnectFailed,
    ConnectTimeout,
    DeadlineExceeded,
    FieldError,
    HTTPError,
    NoTarget,
    Overloaded,
    ProtocolError,
    UpstreamProtocolError,
    ValidationError,
)
from forebay.http.problems import is_expected, problem, problem_of


def document(answer: tuple[int, bytes, bytes]) -> dict[str, Any]:
    """The problem document of an answer, whose head is checked on the way."""
    status, headers, body = answer
    assert headers.startswith(b"content-type: application/problem+json\r\n")
    decoded: dict[str, Any] = msgspec.json.decode(body)
    assert decoded["status"] == status
    return decoded


def test_an_http_error_says_what_its_author_wrote() -> None:
    """Detail, title and headers of an HTTPError reach the client."""
    answer = problem_of(HTTPError(409, "name is taken", title="Taken", headers=[("retry-after", "5")]))
    assert document(answer) == {"type": "about:blank", "title": "Taken", "status": 409, "detail": "name is taken"}
    assert answer[1].endswith(b"retry-after: 5\r\n")


def test_headers_that_frame_the_message_are_left_out() -> None:
    """They are the server's: two lengths, and client and proxy would read two messages."""
    own = [("Content-Length", "3"), ("connection", "close"), ("transfer-encoding", "chunked"), ("content-type", "a/b")]
    answer = problem_of(HTTPError(401, headers=[*own, ("x-own", "1")]))
    assert answer[1] == b"content-type: application/problem+json\r\nx-own: 1\r\n"


def test_a_title_is_the_phrase_of_the_status() -> None:
    """Without a title of its own, a problem has its status's (RFC 9457 section 4.2.1)."""
    assert document(problem_of(HTTPError(404)))["title"] == "Not Found"
    assert document(problem(499))["title"] == "Error"


def test_a_validation_error_lists_every_field() -> None:
    """Each field is listed with place, name and message."""
    errors = [FieldError("query", "page", "Expected `int`, got `str`"), FieldError("body", "user.age", "is required")]
    shown = document(problem_of(ValidationError(errors)))
    assert shown["status"] == 422
    assert shown["errors"] == [
        {"place": "query", "name": "page", "message": "Expected `int`, got `str`"},
        {"place": "body", "name": "user.age", "message": "is required"},
    ]


@pytest.mark.parametrize(
    ("error", "status", "expected"),
    [
        (ValueError("secret"), 500, False),
        (ConnectFailed("secret", target="http://10.0.0.7:1"), 502, False),
        (UpstreamProtocolError("secret"), 502, False),
        (ConnectTimeout("secret"), 504, False),
        (NoTarget("secret"), 503, False),
        (DeadlineExceeded("secret"), 504, False),
        (Overloaded("secret", "secret"), 503, True),
        (CircuitOpen("secret", target="http://10.0.0.7:1"), 503, True),
    ],
)
def test_texts_that_are_not_the_clients_business(error: Exception, status: int, expected: bool) -> None:
    """Foreign exceptions and upstream errors show their status only; who must be told of them is told elsewhere."""
    answer = problem_of(error)
    assert document(answer)["status"] == status
    assert b"secret" not in answer[1] + answer[2]
    assert b"10.0.0.7" not in answer[2]
    assert is_expected(error) is expected


def test_an_overload_says_when_to_come_again() -> None:
    """Seconds to wait are rounded up to whole ones (RFC 9110 section 10.2.3)."""
    assert problem_of(Overloaded("rate", "", retry_after=1.2))[1].endswith(b"retry-after: 2\r\n")
    assert b"retry-after" not in problem_of(Overloaded("rate", ""))[1]
    assert problem_of(CircuitOpen("", retry_after=29.3))[1].endswith(b"retry-after: 30\r\n")


def test_a_protocol_error_keeps_its_status() -> None:
    """What broke the protocol is told with the status that was chosen for it."""
    assert document(problem_of(ProtocolError("too long", status=414)))["detail"] == "too long"


def test_a_header_that_would_split_the_answer() -> None:
    """A line break in a problem's header is refused."""
    with pytest.raises(ValueError, match="control character"):
        problem(400, headers=(("x", "a\r\nset-cookie: b"),))
