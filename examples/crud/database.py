"""The notes and those whose they are, in one SQLite file.

SQLite blocks: what is here is called in threads, by handlers marked ``blocking``. Each request has a
:class:`Transaction` of its own.
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from msgspec import Struct

from forebay.errors import HTTPError

BUSY = 5.0  # seconds that a writer waits for another one, of this process or of others
IDLE = 8  # connections kept open while nobody uses them
VERSION = 1

TABLES = """
CREATE TABLE users (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    name     TEXT NOT NULL UNIQUE COLLATE NOCASE,
    password TEXT NOT NULL
);
CREATE TABLE notes (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    owner    INTEGER NOT NULL REFERENCES users ON DELETE CASCADE,
    title    TEXT NOT NULL COLLATE NOCASE,
    text     TEXT NOT NULL,
    version  INTEGER NOT NULL DEFAULT 1,
    changed  TEXT NOT NULL,
    UNIQUE (owner, title)
);
"""
_NOTE = "id, title, text, version, changed"


class Account(Struct):
    """Somebody who may sign in. ``password`` is a hash."""

    id: int
    name: str
    password: str


class Note(Struct):
    """A note. ``version`` counts its changes, from 1."""

    id: int
    title: str
    text: str
    version: int
    changed: datetime


class Database:
    """Connections to one file, which is made with its tables when it is not there yet.

    There are as many as transactions are under way, and those are at most as many as there are threads for them.

    :raises sqlite3.Error: the file cannot be opened, or is no database of this version.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._idle: list[sqlite3.Connection] = []  # append and pop are atomic
        self._closed = False
        connection = self.take()
        try:
            connection.execute("PRAGMA journal_mode = WAL")  # readers and a writer do not wait for each other
            connection.execute("BEGIN IMMEDIATE")  # of processes that start together, one makes the tables
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in filter(str.strip, TABLES.split(";")):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {VERSION}")
            elif version != VERSION:
                raise sqlite3.DatabaseError(f"{path} has version {version}, this program knows {VERSION}")
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        self.give_back(connection)

    def take(self) -> sqlite3.Connection:
        """A connection that nobody else uses, until it is given back."""
        with suppress(IndexError):
            return self._idle.pop()
        # check_same_thread: it goes from thread to thread, but is never in two of them at once
        connection = sqlite3.connect(self._path, timeout=BUSY, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA foreign_keys = ON")  # off by default, for each connection
        connection.execute("PRAGMA synchronous = NORMAL")  # with WAL: survives the end of the process at any point
        return connection

    def give_back(self, connection: sqlite3.Connection) -> None:
        """Keep it for the next one. It has no transaction any more."""
        if self._closed or len(self._idle) >= IDLE:
            connection.close()
        else:
            self._idle.append(connection)

    def close(self) -> None:
        """Close all connections; those in use when they come back."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()


class Transaction:
    """What one request does with the database: all of it, or nothing.

    It begins with its first statement, so that nobody holds a lock while passwords are hashed, and what is not
    committed when the request ends is rolled back. Its methods block.

    A client that leaves ends its request while the thread is still at work on it. So :meth:`close` may come from the
    loop in the middle of a statement: that is completed then, the next one is refused, and whoever of the two is last
    rolls back.
    """

    def __init__(self, database: Database, mode: Literal["DEFERRED", "IMMEDIATE"]) -> None:
        self._database = database
        self._mode = mode
        self._lock = Lock()
        self._connection: sqlite3.Connection | None = None
        self._over = False

    # Notes

    def notes(self, owner: int, after: int, limit: int) -> list[Note]:
        """Some of a user's notes, by ascending id, from behind ``after`` on."""
        statement = f"SELECT {_NOTE} FROM notes WHERE owner = ? AND id > ? ORDER BY id LIMIT ?"
        return [_note(row) for row in self._execute(statement, owner, after, limit)]

    def note(self, owner: int, note: int) -> Note:
        """One note: 404 when there is none, and when it is another one's, which is nobody's business."""
        rows = self._execute(f"SELECT {_NOTE} FROM notes WHERE owner = ? AND id = ?", owner, note)
        if not rows:
            raise HTTPError(404, f"there is no note {note}")
        return _note(rows[0])

    def add_note(self, owner: int, title: str, text: str) -> Note:
        """A new note: 409 when the user has one of that title."""
        statement = f"INSERT INTO notes (owner, title, text, changed) VALUES (?, ?, ?, ?) RETURNING {_NOTE}"
        return _note(self._execute_unique(statement, owner, title, text, _now())[0])

    def change_note(self, note: int, title: str, text: str) -> Note:
        """Another content for a note: 409 when the user has another one of that title."""
        statement = "UPDATE notes SET title = ?, text = ?, version = version + 1, changed = ? WHERE id = ?"
        return _note(self._execute_unique(f"{statement} RETURNING {_NOTE}", title, text, _now(), note)[0])

    def delete_note(self, note: int) -> None:
        """Remove a note."""
        self._execute("DELETE FROM notes WHERE id = ?", note)

    # Users

    def account(self, name: str) -> Account | None:
        """Who is called ``name``."""
        rows = self._execute("SELECT id, name, password FROM users WHERE name = ?", name)
        return Account(*rows[0]) if rows else None

    def add_account(self, name: str, password: str) -> Account:
        """A new user: 409 when the name is taken. ``password`` is a hash."""
        statement = "INSERT INTO users (name, password) VALUES (?, ?) RETURNING id, name, password"
        try:
            return Account(*self._execute(statement, name, password)[0])
        except sqlite3.IntegrityError:
            raise HTTPError(409, "this name is taken") from None

    # Its life

    def commit(self) -> None:
        """Make it last. A handler does so before it returns: see ``app.py``."""
        with self._lock:
            self._end("COMMIT")

    def close(self) -> None:
        """Roll back what was not committed. It does not wait, and may be called again."""
        self._over = True
        if self._lock.acquire(blocking=False):
            try:
                self._end("ROLLBACK")
            finally:
                self._lock.release()

    def _end(self, how: str) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            connection.execute(how)
        except BaseException:
            connection.close()  # which rolls back, whatever state it is in
            raise
        self._database.give_back(connection)

    def _execute(self, statement: str, *values: Any) -> list[Any]:
        try:
            with self._lock:
                if self._over:
                    raise RuntimeError("the request has ended, its client has left")
                if self._connection is None:
                    connection = self._database.take()
                    try:
                        connection.execute(f"BEGIN {self._mode}")
                    except BaseException:
                        connection.close()
                        raise
                    self._connection = connection
                return self._connection.execute(statement, values).fetchall()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:  # of all its kinds
                raise HTTPError(503, "others are writing", headers=[("retry-after", "1")]) from None
            raise
        finally:
            if self._over:  # it was closed meanwhile, and could not end what was under way here
                self.close()

    def _execute_unique(self, statement: str, *values: Any) -> list[Any]:
        try:
            return self._execute(statement, *values)
        except sqlite3.IntegrityError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:  # the token outlived the account
                challenge = ("www-authenticate", 'Bearer error="invalid_token"')
                raise HTTPError(401, "there is no such account any more", headers=[challenge]) from None
            raise HTTPError(409, "there is a note of this title already") from None


def _note(row: tuple[int, str, str, int, str]) -> Note:
    number, title, text, version, changed = row
    return Note(number, title, text, version, datetime.fromisoformat(changed))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
