"""Registration that is written as in other frameworks, or with something left out: each is an error that says so."""

from __future__ import annotations

from typing import Any

import pytest

from forebay.http import App, Next, Request, Response
from forebay.http.group import Group


def first() -> str:
    """A handler."""
    return "first"


def test_decorators_that_are_misused() -> None:
    """What other frameworks have one do, or what is forgotten easily, does not register nothing, or something else."""
    app: Any = App()
    group: Any = app.group("/users")
    for register in (app.get, app.websocket, group.post):
        with pytest.raises(TypeError, match=r"no pattern of a route: that comes first, as in @app\.get"):
            register(first)
    with pytest.raises(ValueError, match="route 'list' must begin with a slash"):
        group.get("list")
    with pytest.raises(ValueError, match="route 'list' must begin with a slash"):
        group.websocket("list")
    for methods in (["GET,POST"], ["G ET"], [""], ["GET\n"]):
        with pytest.raises(ValueError, match="must be a method, such as GET"):
            app.route("/", methods)
    assert app.routes == ()
    app.route("/", ["GET", "get", "Purge"])(first)
    assert app.routes[0].methods == ("GET", "PURGE")


class Layer:
    """A middleware with parameters."""

    async def __call__(self, request: Request, call_next: Next) -> Response:
        return await call_next(request)


def test_middleware_that_cannot_be() -> None:
    """A class, where an instance is wanted, and what cannot be called; wherever middleware is given."""
    app: Any = App()
    for wrong, said in (
        (Layer, r"middleware Layer is a class: .* as in Layer\(\.\.\.\)"),
        ("http", "must be callable"),
    ):
        given: list[Any] = [Layer(), wrong]
        for register in (
            lambda given: App(middleware=given),
            lambda given: Group(middleware=given),
            lambda given: app.group(middleware=given),
            lambda given: app.get("/", middleware=given),
            lambda given: app.middleware(given[1]),
        ):
            with pytest.raises(TypeError, match=said):
                register(given)
    assert app.layers == []


def test_tags_that_are_one_word() -> None:
    """Which would be a tag for each of its letters."""
    tags: Any = "users"
    for register in (lambda: Group(tags=tags), lambda: App().get("/", tags=tags)):
        with pytest.raises(TypeError, match=r"tags 'users': must be a list, such as \['users'\]"):
            register()
