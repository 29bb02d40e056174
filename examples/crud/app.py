"""Notes over HTTP: users sign up and sign in, and each has notes of their own. REST over SQLite, with authentication.

Run it, and open http://127.0.0.1:8000/docs, where requests can be tried; or ask it by hand::

    forebay run examples.crud.app:app

    alias post="curl -s -H 'content-type: application/json' -d"
    post '{"name": "ada", "password": "engines of 1843"}' http://127.0.0.1:8000/users
    post '{"name": "ada", "password": "engines of 1843"}' http://127.0.0.1:8000/tokens
    curl -s -H "authorization: Bearer TOKEN" http://127.0.0.1:8000/notes

``NOTES_DB`` is the database's file, by default ``var/notes.db``. ``NOTES_KEY`` signs the tokens, and has at least 32
bytes; without it a new key is made at each start, so tokens end with their process, and there can be one worker only.
To change the key put the new one first: ``NOTES_KEY=NEW,OLD``. ``NOTES_RATE`` is how often one address may sign in.

When to commit: what follows the ``yield`` of a dependency runs when the response was sent. A commit there could fail
after the client was told 201, and a client that asks again at once could miss what it wrote. So handlers commit
themselves, as their last step, and the dependency rolls back what nobody has committed.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from examples.crud.database import Account, Database, Note, Transaction
from forebay import App
from forebay.engine import Executor
from forebay.errors import HTTPError
from forebay.http import Depends, Header, OpenAPI, Query, Request, blocking
from forebay.http.middleware import BearerAuth, ETag, RateLimit, RequestId, SecurityHeaders
from forebay.http.middleware.basic_auth import Passwords, hash_password
from forebay.http.signing import Signer

LARGEST = 256 * 1024  # bytes of a request; each character of a note may be written as two escapes, of 12 bytes
THREADS = 8  # for SQLite, and for the hashing of new passwords: 16 MiB each while they hash
TOKEN_LIVES = 12 * 3600  # seconds
TOKEN = "notes token"  # what is signed for something else is none

# Patterns are read by Python, and by others in the OpenAPI document. The very end is this in all their dialects: ``$``
# lets a line end pass in Python, and ``\Z`` is nobody else's.
END = r"(?![\s\S])"

Name = Annotated[str, Meta(pattern=rf"^[A-Za-z0-9][A-Za-z0-9_.-]*{END}", min_length=2, max_length=40, examples=["ada"])]
Password = Annotated[str, Meta(min_length=10, max_length=200, examples=["engines of 1843"])]
_EDGE, _INSIDE = r"[^\x00-\x20\x7f-\x9f]", r"[^\x00-\x1f\x7f-\x9f]"  # no control characters, no blank at an end
Title = Annotated[str, Meta(pattern=rf"^{_EDGE}({_INSIDE}*{_EDGE})?{END}", max_length=200, examples=["Engines"])]
Text = Annotated[str, Meta(max_length=20_000)]


class Credentials(Struct, forbid_unknown_fields=True):
    """A user name, whose case does not matter, and a password."""

    name: Name
    password: Password


class User(Struct):
    """Who signed up."""

    id: int
    name: str


class Token(Struct):
    """What to send with each request, in ``authorization: Bearer ...``."""

    token: str
    expires_in: int
    """Seconds."""


class NewNote(Struct, forbid_unknown_fields=True):
    """What a note says. No two notes of a user have the same title."""

    title: Title
    text: Text = ""


class Notes(Struct):
    """A page of notes, by ascending id. ``next`` is what ``after`` has to be for the page behind it; null: there is
    none."""

    notes: list[Note]
    next: int | None


# What handlers depend on


@asynccontextmanager
async def database() -> AsyncIterator[Database]:
    """The database, while the application runs. Opened on the loop: nobody waits yet."""
    with closing(Database(Path(os.environ.get("NOTES_DB", "var/notes.db")))) as opened:
        yield opened


Shared = Annotated[Database, Depends(database, scope="app")]


def reading(shared: Shared) -> Iterator[Transaction]:
    """A transaction of this request that only reads: one state of the database, whatever others write."""
    with closing(Transaction(shared, "DEFERRED")) as transaction:
        yield transaction


def writing(shared: Shared) -> Iterator[Transaction]:
    """A transaction of this request that writes. It takes SQLite's lock before it reads: of two that had read first,
    one could not write any more."""
    with closing(Transaction(shared, "IMMEDIATE")) as transaction:
        yield transaction


Reading = Annotated[Transaction, Depends(reading)]
Writing = Annotated[Transaction, Depends(writing)]


@asynccontextmanager
async def hashing() -> AsyncIterator[Executor]:
    """Threads that check passwords: few, as each check takes a core for a fifth of a second, and 16 MiB."""
    executor = Executor("passwords", concurrency=2, queue=64)
    await executor.start()
    try:
        yield executor
    finally:
        await executor.stop()


Hashing = Annotated[Executor, Depends(hashing, scope="app")]


@blocking
def account_of(credentials: Credentials, shared: Shared) -> Account | None:
    """Who wants to sign in, as far as the name says. A transaction of its own, so that none is open while the password
    is checked."""
    with closing(Transaction(shared, "DEFERRED")) as transaction:
        return transaction.account(credentials.name)


Claimed = Annotated[Account | None, Depends(account_of)]


def me(request: Request) -> int:
    """The id of the user, which ``BearerAuth`` has left there."""
    found: int = request.identity
    return found


Me = Annotated[int, Depends(me)]
IfMatch = Annotated[str | None, Header(description='The `etag` of the note that is meant, such as `"3"`.')]


def check_is_meant(if_match: str | None, note: Note) -> None:
    """412 when the client means another version (RFC 9110 section 13.1.1): somebody has changed it meanwhile."""
    if if_match is None or if_match.strip() == "*":
        return
    if etag(note) not in (tag.strip() for tag in if_match.split(",")):
        raise HTTPError(412, f"the note has changed, it is {etag(note)} by now")


def etag(note: Note) -> str:
    """The tag of one version of a note, by which clients say which one they mean (RFC 9110 section 8.8.3)."""
    return f'"{note.version}"'


def user_of(token: str) -> int | None:
    """Whose token it is; None: nobody's, or it is too old."""
    payload = signer.read(TOKEN, token, max_age=TOKEN_LIVES, at=time.time()).payload
    return None if payload is None else int(payload)


signer = Signer(os.environ.get("NOTES_KEY", secrets.token_urlsafe(32)).split(","))
nobody = hash_password(secrets.token_urlsafe())  # what the passwords of unknown users are compared with

app = App(
    "notes",
    body_limit=LARGEST,
    threads=THREADS,
    middleware=[RequestId(), SecurityHeaders()],
    openapi=OpenAPI("Notes", "1.0.0", description="Sign up, get a token at `/tokens`, and keep notes with it."),
)
users = app.group(tags=["users"], middleware=[RateLimit(os.environ.get("NOTES_RATE", "30/m"), name="sign-in")])
notes = app.group("/notes", tags=["notes"], middleware=[BearerAuth(user_of, realm="notes"), ETag()])

GONE = {404: "There is no such note."}
TAKEN = {409: "There is a note of this title already."}
STALE = {412: "The note is another one by now than `if-match` says."}


@users.post("/users", status=201, responses={409: "The name is taken."})
@blocking
def sign_up(new: Credentials, transaction: Writing) -> User:
    """Become a user."""
    password = hash_password(new.password)  # takes its time; the transaction begins behind it
    account = transaction.add_account(new.name, password)
    transaction.commit()
    return User(account.id, account.name)


@users.post("/tokens", responses={401: "The name or the password is wrong."})
async def sign_in(credentials: Credentials, account: Claimed, hashing: Hashing) -> Token:
    """Get a token, which is good for 12 hours."""
    check = Passwords({credentials.name: account.password if account else nobody}, remember=0, executor=hashing)
    if await check(credentials.name, credentials.password) is None or account is None:
        challenge = ("www-authenticate", 'Bearer realm="notes"')
        raise HTTPError(401, "the name or the password is wrong", headers=[challenge])
    return Token(signer.sign(TOKEN, b"%d" % account.id, time.time()), TOKEN_LIVES)


@notes.get("")
@blocking
def list_notes(
    me: Me,
    transaction: Reading,
    limit: Annotated[int, Meta(ge=1, le=100), Query(description="Notes at most.")] = 20,
    after: Annotated[int, Meta(ge=0), Query(description="The id behind which to begin.")] = 0,
) -> Notes:
    """List your notes, page by page."""
    found = transaction.notes(me, after, limit + 1)  # one more tells whether there is another page
    return Notes(found[:limit], found[limit - 1].id if len(found) > limit else None)


@notes.post("", responses={201: ("The note as it is kept; `location` is where.", Note), **TAKEN})
@blocking
def add_note(new: NewNote, me: Me, transaction: Writing, request: Request) -> tuple[Note, int, dict[str, str]]:
    """Add a note."""
    note = transaction.add_note(me, new.title, new.text)
    transaction.commit()
    return note, 201, {"location": request.url_for("get_note", note_id=note.id), "etag": etag(note)}


@notes.get("/{note_id:int}", responses={200: ("The note; `etag` is its version.", Note), **GONE})
@blocking
def get_note(note_id: int, me: Me, transaction: Reading) -> tuple[Note, int, dict[str, str]]:
    """Get one of your notes."""
    note = transaction.note(me, note_id)
    return note, 200, {"etag": etag(note)}


@notes.put("/{note_id:int}", responses={200: ("The note as it is now.", Note), **GONE, **TAKEN, **STALE})
@blocking
def replace_note(
    note_id: int, new: NewNote, me: Me, transaction: Writing, if_match: IfMatch = None
) -> tuple[Note, int, dict[str, str]]:
    """Write a note anew.

    With `if-match` only if it is still the version that you have read, so that nobody's change is lost.
    """
    check_is_meant(if_match, transaction.note(me, note_id))
    note = transaction.change_note(note_id, new.title, new.text)
    transaction.commit()
    return note, 200, {"etag": etag(note)}


@notes.delete("/{note_id:int}", responses={**GONE, **STALE})
@blocking
def delete_note(note_id: int, me: Me, transaction: Writing, if_match: IfMatch = None) -> None:
    """Remove a note."""
    check_is_meant(if_match, transaction.note(me, note_id))
    transaction.delete_note(note_id)
    transaction.commit()
