"""User names and passwords, over a real server."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from base64 import b64encode
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest
from structlog.testing import capture_logs

from forebay.errors import Overloaded
from forebay.http import App, HTTPServer, Request
from forebay.http.middleware import BasicAuth, basic_auth
from forebay.http.middleware.basic_auth import Passwords, check_password, hash_password
from tests.http.middleware.served import serving
from tests.support import eventually, raw_client, running

CHEAP = {"ln": 10, "r": 1, "p": 1}


def sent(user: str, password: str) -> tuple[str, str]:
    """The header of a client."""
    return "Authorization", "Basic " + b64encode(f"{user}:{password}".encode()).decode()


def guarded(auth: BasicAuth) -> App[Any]:
    """An application that says who asks."""
    app: App[Any] = App()
    app.middleware(auth)

    @app.get("/")
    async def who(request: Request) -> str:
        return str(request.identity)

    return app


def plain(user: str, password: str) -> Any:
    """A check."""
    return True if (user, password) == ("ann", "pä:ss") else None


async def coroutine(user: str, password: str) -> Any:
    """A check that waits."""
    await asyncio.sleep(0)
    return {"name": user} if plain(user, password) else False


@pytest.mark.parametrize(("check", "identity"), [(plain, "ann"), (coroutine, "{'name': 'ann'}")])
async def test_who_is_let_in(check: Any, identity: str) -> None:
    """The identity is what the check says; colons and letters beyond ASCII may be in the password."""
    auth = BasicAuth(check, realm="shop")
    async with serving(guarded(auth)) as asker:
        answer = await asker.ask("/", sent("ann", "pä:ss"))
        assert (answer.status, answer.body.decode()) == (200, identity)
        with capture_logs() as logs:
            refused = await asker.ask("/", sent("ann", "secret"))
        assert refused.status == 401
        assert refused.headers["www-authenticate"] == 'Basic realm="shop", charset="UTF-8"'
        assert refused.detail == "the user name or the password is wrong"
        assert [entry["reason"] for entry in logs] == ["wrong"]
        assert "secret" not in str(logs)
    assert auth.statistics() == {"accepted": 1, "missing": 0, "malformed": 0, "wrong": 1}


@pytest.mark.parametrize(
    "value",
    ["Basic", "Basic !!!", "Basic " + b64encode(b"nocolon").decode(), "Basic " + b64encode(b"\xff:x").decode(),
     "Basic " + b64encode(b"a\x00:b").decode(), "Basic " + b64encode(b"a:" + b"b" * 1024).decode()],
)  # fmt: skip
async def test_what_is_malformed(value: str) -> None:
    """It is refused before anybody is asked."""

    def never(user: str, password: str) -> Any:
        raise AssertionError

    auth = BasicAuth(never)
    async with serving(guarded(auth)) as asker:
        assert (await asker.ask("/", ("authorization", value))).status == 401
    assert auth.statistics()["malformed"] == 1


async def test_without_credentials() -> None:
    """401, also with another scheme; where it is optional, nobody; a wrong password is refused even then."""
    async with serving(guarded(BasicAuth(plain))) as asker:
        assert (await asker.ask("/")).status == 401
        assert (await asker.ask("/", ("authorization", "Bearer abc"))).status == 401
    async with serving(guarded(BasicAuth(plain, optional=True))) as asker:
        assert (await asker.ask("/")).body == b"None"
        assert (await asker.ask("/", sent("ann", "no"))).status == 401
        assert (await asker.ask("/", sent("ann", "a"), sent("ann", "b"))).status == 400


async def test_hashed_passwords_are_checked_off_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Right ones are remembered for a while, wrong ones and unknown users are not let in; each of these is hashed, and
    no thread is left behind."""
    time, hashed = [100.0], []
    hashes = {"ann": hash_password("right", **CHEAP), "bob": hash_password("other", **CHEAP)}
    passwords = Passwords(hashes, remember=60, clock=lambda: time[0])

    def counted(password: bytes, **options: Any) -> bytes:
        hashed.append((password, threading.current_thread().name.partition("-")[0]))
        return hashlib.scrypt(password, **options)

    monkeypatch.setattr(basic_auth, "scrypt", counted)
    assert await asyncio.gather(*(passwords("ann", "right") for _ in range(5))) == ["ann"] * 5
    assert await passwords("ann", "right") == "ann"
    assert hashed == [(b"right", "passwords")]
    assert [await passwords("ann", "wrong"), await passwords("eve", "right"), await passwords("bob", "right")] == [
        None
    ] * 3
    assert len(hashed) == 4
    time[0] += 60
    assert await passwords("ann", "right") == "ann"
    assert len(hashed) == 5
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("passwords")]
    assert "right" not in repr(passwords)


async def test_too_many_checks_are_refused() -> None:
    """Two run, one waits, the others are answered 503 and may come again."""
    auth = BasicAuth(Passwords({"ann": hash_password("right")}, queue=1))
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(running(HTTPServer(guarded(auth), bind="http://127.0.0.1:0")))
        clients = [await stack.enter_async_context(raw_client(server.addresses[0].port)) for _ in range(6)]
        for place, client in enumerate(clients):
            name, value = sent("ann", f"wrong{place}")
            await client.send(f"GET / HTTP/1.1\r\nhost: test\r\n{name}: {value}\r\n\r\n".encode())
        found = sorted([(await client.response())[0] for client in clients])
    assert found == [401, 401, 401, 503, 503, 503]


async def test_clients_that_leave_make_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that hashes cannot be stopped: while two do, no others are begun, though nobody waits for them."""
    go, begun = threading.Event(), []

    def held(password: bytes, **options: Any) -> bytes:
        begun.append(password)
        go.wait(10)
        return hashlib.scrypt(password, **options)

    passwords = Passwords({"ann": hash_password("right", **CHEAP)}, queue=1)
    monkeypatch.setattr(basic_auth, "scrypt", held)
    left = []
    try:
        for number in range(3):  # two are hashed, one waits
            left.append(asyncio.create_task(passwords("ann", f"wrong{number}")))
            await eventually(partial(_has, begun, min(number + 1, 2)))
            await asyncio.gather(*(asyncio.sleep(0) for _ in range(10)))
            left[-1].cancel()
        async with asyncio.timeout(5):
            with pytest.raises(Overloaded):
                await passwords("ann", "right")
        assert len(begun) == 2
    finally:
        go.set()
        await asyncio.gather(*left, return_exceptions=True)
    await eventually(lambda: not [one for one in threading.enumerate() if one.name.startswith("passwords")])
    assert len(begun) == 3
    assert await passwords("ann", "right") == "ann"


async def test_a_check_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is 503, as any that there is no time for: it is no fault of the application."""
    go = threading.Event()
    auth = BasicAuth(Passwords({"ann": hash_password("right", **CHEAP)}))

    def held(password: bytes, **options: Any) -> bytes:
        go.wait(10)
        return hashlib.scrypt(password, **options)

    monkeypatch.setattr(basic_auth, "scrypt", held)
    monkeypatch.setattr(basic_auth, "_DEADLINE", 0.01)
    async with serving(guarded(auth)) as asker:
        with capture_logs() as logs:
            asked = asyncio.create_task(asker.ask("/", sent("ann", "right")))
            await eventually(lambda: [entry for entry in logs if entry["event"] == "thread abandoned"])
            go.set()
            assert (await asked).status == 503
        assert "handler failed" not in [entry["event"] for entry in logs]


async def test_passwords_over_a_server() -> None:
    """The identity is the user's name."""
    auth = BasicAuth(Passwords({"ann": hash_password("right", **CHEAP)}))
    async with serving(guarded(auth)) as asker:
        assert (await asker.ask("/", sent("ann", "right"))).body == b"ann"
        assert (await asker.ask("/", sent("ann", "wrong"))).status == 401
    assert auth.security() == ("basicAuth", {"type": "http", "scheme": "basic"})


def test_one_password_is_checked() -> None:
    """Without a table of users; however its letters are composed."""
    hashed = hash_password("pä:ss", **CHEAP)
    assert check_password("pä:ss", hashed)
    assert check_password("pa\u0308:ss", hashed)
    assert not check_password("pass", hashed)
    assert not check_password("", hashed)
    with pytest.raises(ValueError, match=r"not as hash_password makes it") as caught:
        check_password("x", "plain text")
    assert "plain text" not in str(caught.value)


def test_hashes_are_salted_and_checked() -> None:
    """Two of one password differ; what is none, or costs too much, is refused."""
    assert hash_password("x", **CHEAP) != hash_password("x", **CHEAP)
    for text in ("plain", "$scrypt$ln=30,r=8,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA"):
        with pytest.raises(ValueError, match=r"hash_password|must be 10 to 20"):
            Passwords({"ann": text})
    with pytest.raises(ValueError, match="at least one user"):
        Passwords({})
    with pytest.raises(ValueError, match="realm"):
        BasicAuth(plain, realm='a"b')


def _has(begun: list[Any], count: int) -> bool:
    return len(begun) >= count
