"""All middleware that ships has one shape: documented parameters, slots, a repr that can be shown to anybody."""

from __future__ import annotations

import importlib.util
import inspect
import re
from typing import Any

import pytest

from forebay.http import middleware

SECRET = "correct-horse-battery-staple-correct"

SAMPLES: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "AccessFields": (({"tenant": "x-tenant"},), {"max_length": 99}),
    "BasicAuth": ((lambda user, password: None,), {"realm": "the office"}),
    "BearerAuth": (({SECRET: "bob"},), {"realm": "the office", "scopes": ["read"]}),
    "BodyLimit": ((4321,), {}),
    "CORS": ((), {"origins": ["https://a.example"], "headers": ["x-a"], "expose": ["X-B"], "max_age": 77}),
    "CSRF": ((SECRET,), {"origins": ["https://a.example"], "exempt": ["/hooks/*"], "header": "x-own", "field": "own"}),
    "Cache": ((), {"ttl": 12.5}),
    "Compression": ((), {"min_size": 4321}),
    "ETag": ((), {"weak": False, "max_size": 4321}),
    "JWTAuth": ((SECRET,), {"algorithms": ["HS256"], "realm": "the office"}),
    "RateLimit": (("17/m",), {}),
    "Recover": ((), {"on_error": print}),
    "RequestId": ((), {"header": "x-own-id", "trust": True, "max_length": 77}),
    "SecurityHeaders": ((), {"hsts": 4321, "csp": "default-src 'none'", "permissions": "camera=()"}),
    "Sessions": ((SECRET,), {"name": "own", "max_age": 4321}),
    "Timeout": ((12.5,), {"streams": True}),
    "TrustedProxies": ((["10.0.0.0/8", "unix"],), {"header": "forwarded"}),
}
"""How each is made, with values other than the defaults, which its repr is to show."""


def exists(name: str) -> bool:
    """Whether the module of an exported name is there."""
    return importlib.util.find_spec(f"forebay.http.middleware.{middleware._HOMES[name]}") is not None


def parameters(kind: type) -> list[str]:
    """What its ``__init__`` takes."""
    return list(inspect.signature(kind).parameters)


CLASSES = [name for name in middleware.__all__ if exists(name)]


@pytest.fixture(params=CLASSES)
def name(request: pytest.FixtureRequest) -> str:
    """Each class that is exported and exists."""
    return str(request.param)


def test_they_are_found() -> None:
    """The others would pass with nothing to look at."""
    assert len(CLASSES) >= 10
    with pytest.raises(AttributeError, match="has no attribute 'Cors'"):
        _ = middleware.Cors


def test_parameters_are_documented(name: str) -> None:
    """Each has its ``:param``, and there is none of a parameter that went away; they are given by name."""
    kind = getattr(middleware, name)
    text = inspect.getdoc(kind) or ""
    assert re.findall(r"^:param (\w+):", text, re.MULTILINE) == parameters(kind)
    positional = [one for one in inspect.signature(kind).parameters.values() if one.kind is not one.KEYWORD_ONLY]
    assert len(positional) <= 1


def test_it_is_called_as_a_middleware(name: str) -> None:
    """``async def __call__(self, request, call_next)``."""
    kind = getattr(middleware, name)
    assert inspect.iscoroutinefunction(kind.__call__)
    assert parameters(kind.__call__) == ["self", "request", "call_next"]


def test_slots(name: str) -> None:
    """No ``__dict__``: a misspelt attribute is an error."""
    arguments, options = SAMPLES[name]
    made = getattr(middleware, name)(*arguments, **options)
    assert not hasattr(made, "__dict__")


def test_repr(name: str) -> None:
    """Like the call that makes it: the class, and what was given, but no secrets and no addresses in memory."""
    arguments, options = SAMPLES[name]
    shown = repr(getattr(middleware, name)(*arguments, **options))
    assert re.fullmatch(rf"{name}\(.*\)", shown)
    assert SECRET not in shown
    assert " at 0x" not in shown
    for option, value in options.items():
        assert f"{option}={value.__name__ if callable(value) else repr(value)}" in shown
    for value in arguments:
        if isinstance(value, int | float) or (isinstance(value, str) and value != SECRET):
            assert str(value) in shown
