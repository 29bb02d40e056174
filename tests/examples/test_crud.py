"""The notes over HTTP: accounts, tokens, and what becomes of notes when several people and programs change them."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import validate

from examples.crud import app as crud
from examples.crud.database import Database, Transaction
from forebay.engine import gather, start_task
from forebay.errors import HTTPError
from forebay.http.middleware.basic_auth import hash_password
from forebay.http.signing import Signer
from forebay.testing import TestClient
from tests.examples.processes import forebay_run
from tests.support import eventually, free_port, raw_client

PASSWORD = "engines of 1843"
SignUp = Callable[[str], Awaitable[dict[str, str]]]

_addresses = count(1)  # the rate limit counts by address


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database is."""
    return tmp_path / "notes.db"


@pytest.fixture
async def client(path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TestClient]:
    """The application with a database of its own, and passwords that are hashed in less time."""

    @asynccontextmanager
    async def database() -> AsyncIterator[Database]:
        with closing(Database(path)) as opened:
            yield opened

    monkeypatch.setattr(crud, "hash_password", lambda password: hash_password(password, ln=10, p=1))
    monkeypatch.setattr(crud, "nobody", hash_password("nobody at all", ln=10, p=1))
    address = f"10.0.0.{next(_addresses)}"
    async with TestClient(crud.app, overrides={crud.database: database}, client=address) as client:
        yield client


@pytest.fixture
def sign_up(client: TestClient) -> SignUp:
    """Makes an account; gives the header that its requests have."""

    async def make(name: str) -> dict[str, str]:
        credentials = {"name": name, "password": PASSWORD}
        assert (await client.post("/users", json=credentials)).status == 201
        response = await client.post("/tokens", json=credentials)
        assert response.status == 200
        return {"authorization": f"Bearer {response.json()['token']}"}

    return make


async def test_a_note_from_beginning_to_end(client: TestClient, sign_up: SignUp) -> None:
    """It is added, found where the answer says, listed, written anew, and removed."""
    ada = await sign_up("ada")
    added = await client.post("/notes", json={"title": "Engines", "text": "four"}, headers=ada)
    assert (added.status, added.headers["etag"]) == (201, '"1"')
    where = added.headers["location"]
    note = (await client.get(where, headers=ada)).json()
    assert {**note, "changed": ""} == {"id": 1, "title": "Engines", "text": "four", "version": 1, "changed": ""}
    assert (await client.get("/notes", headers=ada)).json() == {"notes": [note], "next": None}
    changed = await client.put(where, json={"title": "Engines", "text": "five"}, headers=ada)
    assert (changed.status, changed.headers["etag"], changed.json()["text"]) == (200, '"2"', "five")
    removed = await client.delete(where, headers=ada)
    assert (removed.status, removed.body) == (204, b"")
    gone = await client.get(where, headers=ada)
    assert (gone.status, gone.json()["detail"]) == (404, "there is no note 1")


async def test_a_page_says_what_the_next_one_is(client: TestClient, sign_up: SignUp) -> None:
    """Following ``next`` gives every note once, whatever is removed on the way."""
    ada = await sign_up("ada")
    for number in range(5):
        await client.post("/notes", json={"title": f"note {number}"}, headers=ada)
    first = (await client.get("/notes", params={"limit": "2"}, headers=ada)).json()
    assert [note["title"] for note in first["notes"]] == ["note 0", "note 1"]
    await client.delete("/notes/1", headers=ada)
    second = (await client.get("/notes", params={"limit": "2", "after": str(first["next"])}, headers=ada)).json()
    assert [note["title"] for note in second["notes"]] == ["note 2", "note 3"]
    last = (await client.get("/notes", params={"limit": "2", "after": str(second["next"])}, headers=ada)).json()
    assert ([note["title"] for note in last["notes"]], last["next"]) == (["note 4"], None)


async def test_a_note_is_nobody_elses(client: TestClient, sign_up: SignUp) -> None:
    """To others it is as if it were not there, and they may have one of the same title."""
    ada, eve = await sign_up("ada"), await sign_up("eve")
    await client.post("/notes", json={"title": "Secret"}, headers=ada)
    assert (await client.get("/notes/1", headers=eve)).status == 404
    assert (await client.put("/notes/1", json={"title": "Mine"}, headers=eve)).status == 404
    assert (await client.delete("/notes/1", headers=eve)).status == 404
    assert (await client.get("/notes", headers=eve)).json()["notes"] == []
    assert (await client.post("/notes", json={"title": "Secret"}, headers=eve)).status == 201
    assert (await client.get("/notes/1", headers=ada)).json()["title"] == "Secret"


async def test_no_change_is_lost(client: TestClient, sign_up: SignUp) -> None:
    """Of two who have read the same version, the second is told; nothing of what it sent was kept."""
    ada = await sign_up("ada")
    read = await client.post("/notes", json={"title": "Plan", "text": "a"}, headers=ada)
    meant = {**ada, "if-match": read.headers["etag"]}
    assert (await client.put("/notes/1", json={"title": "Plan", "text": "b"}, headers=meant)).status == 200
    late = await client.put("/notes/1", json={"title": "Plan", "text": "c"}, headers=meant)
    assert (late.status, late.headers["content-type"]) == (412, "application/problem+json")
    assert (await client.delete("/notes/1", headers=meant)).status == 412
    assert (await client.get("/notes/1", headers=ada)).json()["text"] == "b"
    either = {**ada, "if-match": '"1", "2"'}
    assert (await client.put("/notes/1", json={"title": "Plan", "text": "d"}, headers=either)).status == 200
    assert (await client.delete("/notes/1", headers={**ada, "if-match": "*"})).status == 204


async def test_what_the_client_has_is_not_sent_again(client: TestClient, sign_up: SignUp) -> None:
    """304 for the version it has, and for the list it has."""
    ada = await sign_up("ada")
    await client.post("/notes", json={"title": "Plan"}, headers=ada)
    for path in ("/notes/1", "/notes"):
        tag = (await client.get(path, headers=ada)).headers["etag"]
        assert (await client.get(path, headers={**ada, "if-none-match": tag})).status == 304


async def test_a_title_is_there_once(client: TestClient, sign_up: SignUp) -> None:
    """409 for a second one, whatever its case, also when another note would get it; nothing has changed then."""
    ada = await sign_up("ada")
    await client.post("/notes", json={"title": "Plan"}, headers=ada)
    await client.post("/notes", json={"title": "Other", "text": "kept"}, headers=ada)
    again = await client.post("/notes", json={"title": "PLAN"}, headers=ada)
    assert (again.status, again.json()["detail"]) == (409, "there is a note of this title already")
    assert (await client.put("/notes/2", json={"title": "Plan"}, headers=ada)).status == 409
    kept = (await client.get("/notes/2", headers=ada)).json()
    assert (kept["title"], kept["text"], kept["version"]) == ("Other", "kept", 1)


@pytest.mark.parametrize(
    ("sent", "wrong"),
    [
        ({}, ["title"]),
        ({"title": ""}, ["title"]),
        ({"title": " blank at its end "}, ["title"]),
        ({"title": "two\nlines"}, ["title"]),
        ({"title": "x" * 201, "text": 5, "colour": "red"}, ["title", "text", "colour"]),
        ({"title": "long", "text": "x" * 20_001}, ["text"]),
    ],
    ids=lambda value: str(value)[:24],
)
async def test_what_does_not_fit_is_listed(
    client: TestClient, sign_up: SignUp, sent: dict[str, Any], wrong: list[str]
) -> None:
    """422, with every field that is wrong."""
    ada = await sign_up("ada")
    response = await client.post("/notes", json=sent, headers=ada)
    assert response.status == 422
    assert sorted(error["name"] for error in response.json()["errors"]) == sorted(wrong)


async def test_who_has_no_token_is_told_what_is_needed(client: TestClient, sign_up: SignUp) -> None:
    """401 without a token, with one of another key, one for another purpose, and one that is too old."""
    await sign_up("ada")
    other = Signer("x" * 32).sign(crud.TOKEN, b"1", time.time())
    purpose = crud.signer.sign("something else", b"1", time.time())
    old = crud.signer.sign(crud.TOKEN, b"1", time.time() - crud.TOKEN_LIVES - 2)
    for token in (None, other, purpose, old, "nonsense"):
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        response = await client.get("/notes", headers=headers)
        assert (response.status, response.headers["www-authenticate"][:20]) == (401, 'Bearer realm="notes"')


async def test_a_wrong_name_and_a_wrong_password_look_alike(client: TestClient, sign_up: SignUp) -> None:
    """Both are 401 with the same words; the right ones are let in, whatever the name's case."""
    await sign_up("ada")
    wrong = await client.post("/tokens", json={"name": "ada", "password": "something else"})
    unknown = await client.post("/tokens", json={"name": "nobody", "password": "something else"})
    assert (wrong.status, wrong.body) == (unknown.status, unknown.body)
    assert wrong.status == 401
    assert (await client.post("/tokens", json={"name": "Ada", "password": PASSWORD})).status == 200


async def test_a_name_is_there_once(client: TestClient, sign_up: SignUp, path: Path) -> None:
    """409 for the second, also of two at the same time; the password is kept as a hash."""
    await sign_up("ada")
    assert (await client.post("/users", json={"name": "ADA", "password": PASSWORD})).status == 409
    bob = {"name": "bob", "password": PASSWORD}
    both = await gather(client.post("/users", json=bob), client.post("/users", json=bob))
    assert sorted(response.status for response in both) == [201, 409]
    with closing(sqlite3.connect(path)) as db:
        assert [row[0][:8] for row in db.execute("SELECT password FROM users")] == ["$scrypt$"] * 2


async def test_guessing_is_slowed_down(client: TestClient) -> None:
    """429, with when to come again, after thirty tries from one address."""
    wrong = {"name": "nobody", "password": "something else"}
    for _ in range(30):
        assert (await client.post("/tokens", json=wrong)).status == 401
    late = await client.post("/tokens", json=wrong)
    assert late.status == 429
    assert int(late.headers["retry-after"]) >= 1


async def test_a_token_that_outlived_its_account(client: TestClient, sign_up: SignUp, path: Path) -> None:
    """401 when it writes; its notes went with the account."""
    ada = await sign_up("ada")
    await client.post("/notes", json={"title": "Plan"}, headers=ada)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("DELETE FROM users")
    assert (await client.get("/notes/1", headers=ada)).status == 404
    assert (await client.post("/notes", json={"title": "Plan"}, headers=ada)).status == 401


async def test_many_write_at_once(client: TestClient, sign_up: SignUp) -> None:
    """Every write that was answered with 201 is there, once."""
    ada = await sign_up("ada")
    answers = await gather(*(client.post("/notes", json={"title": f"note {n}"}, headers=ada) for n in range(50)))
    assert {answer.status for answer in answers} == {201}
    assert len((await client.get("/notes", params={"limit": "100"}, headers=ada)).json()["notes"]) == 50


async def test_what_a_failing_handler_wrote_is_rolled_back(
    client: TestClient, sign_up: SignUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error behind the statement and before the commit leaves nothing, and no lock."""
    ada = await sign_up("ada")

    def fail(self: Transaction) -> None:
        raise HTTPError(507, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(Transaction, "commit", fail)
        assert (await client.post("/notes", json={"title": "Lost"}, headers=ada)).status == 507
    assert (await client.get("/notes", headers=ada)).json()["notes"] == []
    assert (await client.post("/notes", json={"title": "Lost"}, headers=ada)).status == 201


async def test_who_leaves_in_the_middle_leaves_no_transaction(
    client: TestClient, sign_up: SignUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread completes its statement, cannot begin another, and rolls back: nobody else waits for it."""
    ada = await sign_up("ada")
    begun, closed, go_on, ended = (threading.Event() for _ in range(4))
    take, give_back, close = Database.take, Database.give_back, Transaction.close

    def slow(self: Database) -> sqlite3.Connection:
        begun.set()
        assert go_on.wait(10)
        return take(self)

    def ending(self: Database, connection: sqlite3.Connection) -> None:
        give_back(self, connection)
        ended.set()

    def closing_it(self: Transaction) -> None:
        close(self)
        closed.set()

    with monkeypatch.context() as patch:
        patch.setattr(Database, "take", slow)
        patch.setattr(Database, "give_back", ending)
        patch.setattr(Transaction, "close", closing_it)
        leaving = start_task(client.post("/notes", json={"title": "Left"}, headers=ada), "leaves")
        await eventually(begun.is_set)
        leaving.cancel()
        await eventually(closed.is_set)
        assert not ended.is_set()
        go_on.set()
        await eventually(ended.is_set)
    assert (await client.get("/notes", headers=ada)).json()["notes"] == []
    assert (await client.post("/notes", json={"title": "Left"}, headers=ada)).status == 201


def test_a_transaction_that_is_over_does_nothing_more(path: Path) -> None:
    """What was begun is rolled back, at once or by the thread that is in it, and the connection is used again."""
    with closing(Database(path)) as database:
        left = Transaction(database, "IMMEDIATE")
        left.add_account("ada", "hash")
        left.close()
        with pytest.raises(RuntimeError, match="the request has ended"):
            left.account("ada")
        with closing(Transaction(database, "DEFERRED")) as next_one:
            assert next_one.account("ada") is None


async def test_its_document_is_openapi(client: TestClient) -> None:
    """It is valid OpenAPI 3.1, and says what is needed, and which answers there are."""
    document = (await client.get("/openapi.json")).json()
    validate(document)
    change = document["paths"]["/notes/{note_id}"]["put"]
    assert {"200", "401", "404", "409", "412", "422"} <= set(change["responses"])
    assert change["security"] == [{"bearerAuth": []}]
    assert "security" not in document["paths"]["/tokens"]["post"]


async def test_it_runs_as_its_docstring_says(tmp_path: Path) -> None:
    """``forebay run`` serves it, with a database where it was told; it exits with 0 at a SIGTERM."""
    port, path = free_port(), tmp_path / "deeper" / "notes.db"
    bind = f"http://127.0.0.1:{port}"
    async with forebay_run("examples.crud.app:app", tmp_path / "log", "--bind", bind, NOTES_DB=str(path)):
        async with raw_client(port) as asker:
            assert (await asker.get("/notes"))[0] == 401
            status, headers, content = await asker.get("/openapi.json")
        assert (status, headers["content-type"]) == (200, "application/json")
        assert b'"/notes/{note_id}"' in content
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
