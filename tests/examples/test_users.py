"""The shop's users service, over HTTP and straight on its table."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from examples.shop import users as shop
from forebay.errors import HTTPError
from forebay.http import HTTPServer
from tests.support import RawClient, raw_client, running

ADA = {"id": 1, "name": "Ada Lovelace", "email": "ada@example.com"}
BARBARA = {"name": "Barbara Liskov", "email": "barbara@example.com"}


@pytest.fixture
async def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RawClient]:
    """A connection to the service, which has a fresh database."""
    monkeypatch.setenv("SHOP_DB", str(tmp_path / "shop.db"))
    server = HTTPServer(shop.app, bind="http://127.0.0.1:0")
    async with running(server), raw_client(server.addresses[0].port) as connected:
        yield connected


async def call(client: RawClient, method: str, path: str, body: object = None) -> tuple[int, Any]:
    """The status and the decoded body of an answer."""
    content = b"" if body is None else json.dumps(body).encode()
    typed = f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n" if content else ""
    await client.send(f"{method} {path} HTTP/1.1\r\nHost: shop\r\n{typed}\r\n".encode() + content)
    status, headers, answer = await client.response()
    if status >= 400:
        assert headers["content-type"] == "application/problem+json"
    return status, json.loads(answer) if answer else None


async def test_a_new_database_is_seeded(client: RawClient) -> None:
    """The first start leaves a few users, which are listed in pages."""
    status, page = await call(client, "GET", "/users?limit=2&offset=1")
    assert status == 200
    assert [user["id"] for user in page["users"]] == [2, 3]
    assert page["total"] == len(shop.SEED)
    assert await call(client, "GET", "/users/1") == (200, ADA)


async def test_a_user_lives_and_dies(client: RawClient) -> None:
    """Create, get, replace, delete; what is gone is not found, and its id is not used again."""
    assert await call(client, "POST", "/users", BARBARA) == (201, {"id": 4, **BARBARA})
    assert await call(client, "GET", "/users/4") == (200, {"id": 4, **BARBARA})
    changed = {"name": "B. Liskov", "email": "liskov@example.com"}
    assert await call(client, "PUT", "/users/4", changed) == (200, {"id": 4, **changed})
    assert await call(client, "GET", "/users/4") == (200, {"id": 4, **changed})
    assert await call(client, "DELETE", "/users/4") == (204, None)
    for method, body in (("GET", None), ("PUT", changed), ("DELETE", None)):
        status, problem = await call(client, method, "/users/4", body)
        assert (status, problem["detail"]) == (404, "there is no user 4")
    status, created = await call(client, "POST", "/users", BARBARA)
    assert (status, created["id"]) == (201, 5)


async def test_an_address_is_used_once(client: RawClient) -> None:
    """Another user's address, in any case, is a conflict; a user's own is not."""
    taken = {"name": "Nobody", "email": "ADA@example.com"}
    assert (await call(client, "POST", "/users", taken))[0] == 409
    assert (await call(client, "PUT", "/users/2", taken))[0] == 409
    assert (await call(client, "PUT", "/users/1", {"name": "Ada", "email": "ADA@example.com"}))[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/users", {"name": "", "email": "a@example.com"}),
        ("POST", "/users", {"name": "x" * 81, "email": "a@example.com"}),
        ("POST", "/users", {"name": "A", "email": "no address"}),
        ("POST", "/users", {"name": "A", "email": "a@example.com\n"}),
        ("POST", "/users", {"name": "A\0B", "email": "a@example.com"}),
        ("POST", "/users", {"name": "A\n", "email": "a@example.com"}),
        ("POST", "/users", {"name": "A"}),
        ("POST", "/users", {"name": "A", "email": "a@example.com", "admin": True}),
        ("PUT", "/users/1", {"name": 5, "email": "a@example.com"}),
        ("GET", "/users?limit=0", None),
        ("GET", "/users?limit=101", None),
        ("GET", "/users?offset=-1", None),
        ("GET", "/users?limit=many", None),
    ],
)
async def test_input_that_does_not_fit_is_refused(client: RawClient, method: str, path: str, body: object) -> None:
    """Input outside its bounds is answered with 422, and changes nothing."""
    status, _ = await call(client, method, path, body)
    assert status == 422
    assert await call(client, "GET", "/users/1") == (200, ADA)


@pytest.mark.parametrize("user_id", [0, -1, 4, 2**63 - 1, 2**63, 10**30])
async def test_an_id_nobody_has_is_not_found(client: RawClient, user_id: int) -> None:
    """Any number that is no user's is answered with 404, also one that the database could not hold."""
    assert (await call(client, "GET", f"/users/{user_id}"))[0] == 404


@pytest.fixture
def table(tmp_path: Path) -> Iterator[shop.Users]:
    """A fresh table."""
    with closing(shop.Users(tmp_path / "new" / "shop.db")) as opened:
        yield opened


def test_another_start_keeps_what_is_there(table: shop.Users, tmp_path: Path) -> None:
    """Opening the file again neither seeds it again nor loses anything; both see each other's changes."""
    table.delete(1)
    with closing(shop.Users(tmp_path / "new" / "shop.db")) as again:
        assert again.page(10, 0).total == len(shop.SEED) - 1
        created = again.add(shop.NewUser("Barbara", "barbara@example.com"))
        assert table.get(created.id) == created
        with pytest.raises(HTTPError, match="404 there is no user 1"):
            again.get(1)


def test_processes_that_start_together_seed_once(tmp_path: Path) -> None:
    """Several processes open a database that is not there yet; it has every seeded user once."""
    path = tmp_path / "shop.db"
    code = (
        "import sys; from pathlib import Path; from examples.shop.users import Users\n"
        "sys.stdin.read(); Users(Path(sys.argv[1])).close()"
    )
    command = [sys.executable, "-c", code, str(path)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(4)]
    for process in processes:  # end of input is the starting signal
        assert process.stdin is not None
        process.stdin.close()
    assert [process.wait(30) for process in processes] == [0] * 4
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM users").fetchone() == (len(shop.SEED),)
