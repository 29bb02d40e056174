"""What a recorder keeps: requests and their answers, one to a line of a file, without secrets."""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Sequence
from difflib import SequenceMatcher
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote, quote_plus

import msgspec

from forebay.http.client.secret_fields import MASK, SECRETS, Secrets

__all__ = ["Answered", "Cassette", "CassetteError", "Entry", "Masking", "Wanted"]

_VERSION = 1
_LARGEST = 256 * 1024 * 1024  # bytes of a cassette
_BOUNDARY = re.compile(r"""multipart/.*;\s*boundary=["']?([^\s"';]+)""", re.IGNORECASE)
_TEXT = re.compile(r"[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*")  # what a line of JSON shows as somebody wrote it


class CassetteError(AssertionError):
    """A request that is not on the cassette, or a cassette that cannot be read: a test fails, and no code of a program
    takes it for a server that is down."""


class Wanted(msgspec.Struct, frozen=True):
    """What is looked for: a request, masked."""

    method: str
    url: str
    content: str  # sha256 of it; "" for none

    def __str__(self) -> str:
        with_content = f" with content of sha256 {self.content[:12]}" if self.content else ""
        return f"{self.method} {self.url}{with_content}"


class Answered(msgspec.Struct, frozen=True, omit_defaults=True):
    """What it was answered with, masked and decompressed."""

    status: int
    headers: list[tuple[str, str]]
    text: str = ""
    base64: str = ""  # in place of text, for what is none

    @property
    def content(self) -> bytes:
        """The content."""
        return b64decode(self.base64) if self.base64 else self.text.encode()

    def check(self) -> None:
        """See that a response can be made of it.

        :raises ValueError: none can.
        """
        if not 200 <= self.status <= 599:
            raise ValueError(f"status {self.status}: must be 200 to 599")
        for name, value in self.headers:
            f"{name}: {value}".encode("latin-1")
        b64decode(self.base64, validate=True)


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line."""

    request: Wanted
    response: Answered
    sent: str = ""  # the content of the request, where it is text, for whoever reads the file
    headers: list[tuple[str, str]] = []
    version: int = _VERSION


class Masking:
    """What is not written into files.

    :param secrets: fields that are masked, by name.
    :param values: text that is masked wherever it is, as it is written in URLs, forms and JSON too.
    :raises ValueError: a value is empty.
    """

    __slots__ = ("_secrets", "_values")

    def __init__(self, secrets: Secrets = SECRETS, values: Sequence[str] = ()) -> None:
        if isinstance(values, str) or not all(values):
            raise ValueError("Recorder secrets: must be a list of texts that are not empty")
        self._secrets = secrets
        written = {form for value in values for form in _forms(value)}
        self._values = sorted(written, key=len, reverse=True)  # one may be a part of another

    def text(self, text: str) -> str:
        """Text without the values."""
        for value in self._values:
            text = text.replace(value, MASK)
        return text

    def url(self, url: str) -> str:
        """A URL, as it may be seen."""
        return self.text(self._secrets.url(url))

    def headers(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """Header fields, as they may be seen."""
        return [(name, self.text(self._secrets.header(name, value))) for name, value in pairs]

    def content(self, data: bytes, kind: str) -> bytes:
        """Content, as it may be seen."""
        masked = self._secrets.content(data, kind)
        for value in self._values:
            masked = masked.replace(value.encode(), MASK.encode())
        return masked


def _forms(value: str) -> tuple[str, ...]:
    """How a text is written in places where not all characters may be."""
    short = msgspec.json.encode(value).decode()[1:-1]
    return value, quote(value), quote(value, safe=""), quote_plus(value), short, json.dumps(value)[1:-1]


def wanted(masking: Masking, method: str, url: str, content: bytes, kind: str) -> Wanted:
    """What is looked for, for a request. The boundaries of multipart content, which are others each time, are not."""
    masked = masking.content(content, kind)
    if boundary := _BOUNDARY.match(kind):
        masked = masked.replace(boundary[1].encode("latin-1", "replace"), b"boundary")
    return Wanted(method, masking.url(url), sha256(masked).hexdigest() if masked else "")


def answered(status: int, headers: list[tuple[str, str]], content: bytes) -> Answered:
    """What is kept of an answer, which is masked already."""
    text = as_text(content)
    if text is not None:
        return Answered(status, headers, text)
    return Answered(status, headers, base64=b64encode(content).decode())


def as_text(content: bytes) -> str | None:
    """Content as text that a file can show; None: it is none."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    return text if _TEXT.fullmatch(text) else None


class Cassette:
    """The lines of a file. Each is given once, in their order among those that are the same request.

    :raises CassetteError: the file cannot be read; says which line, and why.
    """

    __slots__ = ("_answers", "_given", "entries", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[Entry] = []
        self._answers: dict[Wanted, list[Answered]] = {}
        self._given: dict[Wanted, int] = {}

    def load(self) -> None:
        """Read the file.

        :raises CassetteError: it is not there, or none that a recorder wrote.
        """
        try:
            if self.path.stat().st_size > _LARGEST:
                raise CassetteError(f"cassette {self.path}: is larger than {_LARGEST} bytes")
            data = self.path.read_bytes()
        except OSError as error:
            raise CassetteError(
                f"cassette {self.path}: cannot be read ({error.strerror}); record it with mode='record' or 'auto'"
            ) from None
        self._forget()
        for number, line in enumerate(data.splitlines(), 1):
            if not line.strip():
                continue
            try:
                entry = msgspec.json.decode(line, type=Entry)
                entry.response.check()
            except ValueError as error:  # of msgspec, and of what was changed by hand
                raise CassetteError(f"cassette {self.path}, line {number}: is no recording: {error}") from None
            if entry.version != _VERSION:
                raise CassetteError(
                    f"cassette {self.path}, line {number}: is of version {entry.version}, not {_VERSION}"
                )
            self._keep(entry)

    def clear(self) -> None:
        """Begin the file anew."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(b"")
        self._forget()

    def add(self, entry: Entry) -> None:
        """Write one more line: what was recorded stays, whatever becomes of the program."""
        with self.path.open("ab") as file:
            file.write(msgspec.json.encode(entry) + b"\n")
        self._keep(entry)
        self._given[entry.request] = self._given.get(entry.request, 0) + 1

    def _keep(self, entry: Entry) -> None:
        self.entries.append(entry)
        self._answers.setdefault(entry.request, []).append(entry.response)

    def _forget(self) -> None:
        self.entries.clear()
        self._answers.clear()
        self._given.clear()

    def next(self, request: Wanted) -> Answered | None:
        """The answer that comes next for ``request``; None: there is none."""
        same = self._answers.get(request, ())
        given = self._given.get(request, 0)
        if given >= len(same):
            return None
        self._given[request] = given + 1
        return same[given]

    @property
    def left(self) -> list[Wanted]:
        """What was recorded, and not asked for."""
        seen: dict[Wanted, int] = {}
        found = []
        for entry in self.entries:
            seen[entry.request] = seen.get(entry.request, 0) + 1
            if seen[entry.request] > self._given.get(entry.request, 0):
                found.append(entry.request)
        return found

    def missing(self, request: Wanted) -> CassetteError:
        """The error of a request that is not there: with the nearest that is."""
        times = len(self._answers.get(request, ()))
        if times:
            return CassetteError(f"{request} was recorded {times} times, and is asked for once more: {self.path}")
        said = f"{request} is not on the cassette {self.path} of {len(self.entries)} requests"
        if not self.entries:
            return CassetteError(said)
        name = f"{request.method} {request.url}"
        matcher = SequenceMatcher(b=name, autojunk=False)
        best, best_ratio = self.entries[0].request, -1.0
        for one in dict.fromkeys(entry.request for entry in self.entries):
            matcher.set_seq1(f"{one.method} {one.url}")
            ratio = matcher.ratio()
            if ratio > best_ratio:
                best, best_ratio = one, ratio
        parts = [part for part in ("method", "url", "content") if getattr(best, part) != getattr(request, part)]
        return CassetteError(f"{said}; the nearest is {best}, which differs in its {' and '.join(parts)}")
