"""The error tree."""

from __future__ import annotations

import pickle

import pytest

from forebay import errors
from forebay.errors import (
    ConfigError,
    FieldError,
    ForebayError,
    HTTPError,
    MissingExtra,
    Overloaded,
    Problem,
    ValidationError,
)


@pytest.mark.parametrize(
    "error",
    [
        ForebayError("plain"),
        Overloaded("queue", "full", retry_after=2.0),
        HTTPError(404, "not here", headers=[("A", "b")]),
        ValidationError([FieldError("query", "limit", "too large")]),
        ConfigError("forebay.toml", [Problem("unknown key", key="a.b", line=3)]),
        MissingExtra("otel", "tracing"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_the_way_to_another_process(error: ForebayError) -> None:
    """Whatever their constructors look like, they arrive as they left."""
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert (again.source, again.retry, again.__dict__) == (error.source, error.retry, error.__dict__)


def test_every_error_is_in_the_drawing() -> None:
    """The module's docstring shows the whole tree."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ForebayError)]
    assert len(kinds) > 20
    assert [kind.__name__ for kind in kinds if kind.__name__ not in (errors.__doc__ or "")] == []
