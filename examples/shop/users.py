"""A REST service over SQLite: list, get, create, replace and delete users.

Several processes may serve one database file: SQLite's write-ahead log lets them read while one of them writes. The
handlers are plain functions, run inline: a look-up by key takes microseconds, less than handing it to a thread.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from forebay import App
from forebay.errors import HTTPError

Name = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]+\Z", max_length=80)]  # no control characters
Email = Annotated[str, Meta(pattern=r"^[^@\s\0]+@[^@\s\0]+\.[^@\s\0]+\Z", max_length=254)]

TABLE = """
CREATE TABLE users (
    id    INTEGER PRIMARY KEY AUTOINCREMENT,
    name  TEXT NOT NULL,
    email TEXT NOT NULL UNIQUE COLLATE NOCASE
)
"""
SEED = (("Ada Lovelace", "ada@example.com"), ("Alan Turing", "alan@example.com"), ("Grace Hopper", "grace@example.com"))


class NewUser(Struct, forbid_unknown_fields=True):
    """What a client sends."""

    name: Name
    email: Email


class User(Struct):
    """What it gets."""

    id: int
    name: str
    email: str


class Page(Struct):
    """A part of the list, and how long the whole of it is."""

    users: list[User]
    total: int


class Users:
    """The table of users in one database file, which is made and seeded when it is not there yet.

    :raises sqlite3.Error: the file cannot be opened, or is no database.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=5, isolation_level=None)
        with path.with_suffix(".lock").open("w") as lock:  # of processes that start together, one makes the table
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._prepare()

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")  # survives any end of the process; fsync only at checkpoints
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version:
            return
        self._db.execute("BEGIN")  # a process that is killed half-way leaves nothing behind
        self._db.execute(TABLE)
        self._db.executemany("INSERT INTO users (name, email) VALUES (?, ?)", SEED)
        self._db.execute("PRAGMA user_version = 1")
        self._db.execute("COMMIT")

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def page(self, limit: int, offset: int) -> Page:
        """Users by ascending id."""
        rows = self._db.execute("SELECT id, name, email FROM users ORDER BY id LIMIT ? OFFSET ?", (limit, offset))
        users = [User(*row) for row in rows]
        (total,) = self._db.execute("SELECT count(*) FROM users").fetchone()
        return Page(users, total)

    def get(self, user_id: int) -> User:
        """One user, or 404."""
        return self._one("SELECT id, name, email FROM users WHERE id = ?", (user_id,), user_id)

    def add(self, new: NewUser) -> User:
        """A new user, or 409 when the address is taken."""
        statement = "INSERT INTO users (name, email) VALUES (?, ?) RETURNING id, name, email"
        return self._one(statement, (new.name, new.email))

    def replace(self, user_id: int, new: NewUser) -> User:
        """Change a user: 404 when there is none, 409 when the address is another one's."""
        statement = "UPDATE users SET name = ?, email = ? WHERE id = ? RETURNING id, name, email"
        return self._one(statement, (new.name, new.email, user_id), user_id)

    def delete(self, user_id: int) -> None:
        """Remove a user, or 404."""
        self._one("DELETE FROM users WHERE id = ? RETURNING id, name, email", (user_id,), user_id)

    def _one(self, statement: str, values: tuple[Any, ...], user_id: int | None = None) -> User:
        try:
            row = next(iter(self._db.execute(statement, values).fetchall()), None)  # all rows: else it stays open
        except sqlite3.IntegrityError:
            raise HTTPError(409, "another user has this email address") from None
        if row is None:
            raise HTTPError(404, f"there is no user {user_id}")
        return User(*row)


users: Users


@asynccontextmanager
async def lifespan(app: App) -> AsyncIterator[None]:
    """Keep the database open while the service runs."""
    global users
    with closing(Users(Path(os.environ.get("SHOP_DB", "var/shop.db")))) as users:
        yield


app = App("users", body_limit=64 * 1024, lifespan=lifespan)


@app.get("/users")
def list_users(
    limit: Annotated[int, Meta(ge=1, le=100)] = 20, offset: Annotated[int, Meta(ge=0, le=10**9)] = 0
) -> Page:
    """Some users, by ascending id."""
    return users.page(limit, offset)


@app.get("/users/{user_id:int}")
def get_user(user_id: int) -> User:
    """One user."""
    return users.get(user_id)


@app.post("/users")
def create_user(new: NewUser) -> tuple[User, int]:
    """A new user."""
    return users.add(new), 201


@app.put("/users/{user_id:int}")
def replace_user(user_id: int, new: NewUser) -> User:
    """Change a user."""
    return users.replace(user_id, new)


@app.delete("/users/{user_id:int}")
def delete_user(user_id: int) -> None:
    """Remove a user."""
    users.delete(user_id)
