"""The bytes of a request and its answer, for people to look at: exact but for secrets, and bounded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from forebay.http.client.secret_fields import SECRETS, Secrets
from forebay.http.client.trace import Leg, Step, Trace

if TYPE_CHECKING:
    from forebay.http.client.request import ClientRequest
    from forebay.http.client.response import ClientResponse

__all__ = ["dump_request", "dump_response", "heads_of", "leg_of", "masked_url", "render"]

_LIMIT = 64 * 1024
_NOTHING = "nothing was kept: make it with Trace(keep_bytes=...)"
_NOTE = re.compile(rb"\n\[[^\n\]]{1,200}\]\n\Z")
_START = re.compile(rb"HTTP/\d\.\d |[!#$%&'*+.^_`|~0-9A-Za-z-]+ \S+ HTTP/\d\.\d\r?\n")
_STRANGE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def dump_request(
    what: ClientResponse | ClientRequest | Trace, *, limit: int = _LIMIT, secrets: Secrets = SECRETS
) -> bytes:
    """What was sent: the exact bytes, chunks and all, with ``***`` for secrets.

    :param what: the response, the request, or their trace. A trace gives everything it has seen, redirects and further
        tries too; a response what led to it alone; a request what was sent last. The trace has to be one that keeps
        bytes, as ``Trace(keep_bytes=65536)``. Of others this is the head, made anew without the fields that the
        connection adds, and a note that says so.
    :param limit: bytes that are returned at most, apart from the note that says how many more there were; at least 1.
    :param secrets: which fields are masked.
    :raises ValueError: ``limit`` is below 1.
    """
    trace = _trace(what)
    if trace is not None and trace.keep_bytes:
        return _bounded(_kept(trace.sent, (leg.sent_range for leg in _legs(what, trace))), limit, secrets)
    if isinstance(what, Trace):
        return _bounded([], limit, secrets, _NOTHING)
    request: ClientRequest = getattr(what, "request", what)  # type: ignore[arg-type]  # of a response; else it is one
    lines = [f"{request.method} {request.url.target} HTTP/1.1"]
    if request.headers.get("host") is None:
        lines.append(f"host: {request.url.authority}")
    lines += [f"{name}: {value}" for name, value in request.headers.pairs()]
    return _bounded([(_head(lines), 0)], limit, secrets, "made from the request: no bytes were kept")


def dump_response(what: ClientResponse | Trace, *, limit: int = _LIMIT, secrets: Secrets = SECRETS) -> bytes:
    """What was received: the exact bytes, answers before the answer (1xx) and chunks and all, with ``***`` for secrets.

    Compressed content is shown compressed: it is what came. The parameters are those of :func:`dump_request`.

    :raises ValueError: ``limit`` is below 1.
    """
    trace = _trace(what)
    if trace is not None and trace.keep_bytes:
        return _bounded(_kept(trace.received, (leg.received_range for leg in _legs(what, trace))), limit, secrets)
    if isinstance(what, Trace):
        return _bounded([], limit, secrets, _NOTHING)
    lines = [f"HTTP/1.1 {what.status} {what.reason}"]
    for name in what.headers:
        lines += [f"{name}: {value}" for value in what.headers.get_all(name)]
    return _bounded([(_head(lines), 0)], limit, secrets, "made from the response: no bytes were kept")


def render(data: bytes) -> str:
    """A dump as text: heads, and content that is text, as they are; any other content as a hexdump.

    What a terminal would obey is shown as ``\\x1b``. Lines end with ``\\n``.
    """
    note = _NOTE.search(data)
    shown, left = (data[: note.start()], data[note.start() :].decode()) if note is not None else (data, "")
    heads = heads_of(shown)
    text = _visible(heads.decode("latin-1").replace("\r\n", "\n"))
    if len(shown) > len(heads):
        text += _text(shown[len(heads) :])
    return text.removesuffix("\n") + left if left else text


def heads_of(data: bytes) -> bytes:
    """What comes before content: the head, and those of answers before it (1xx)."""
    end = 0
    while _START.match(data, end):
        found = data.find(b"\r\n\r\n", end)
        if found < 0:
            return data
        end = found + 4
    return data[:end]


def masked_url(url: str, secrets: Secrets = SECRETS) -> str:
    """A URL without what is secret in it."""
    return secrets.url(url)


def leg_of(trace: Trace, redirects: int) -> int | None:
    """The number of the leg that brought the answer after so many redirects, the last one with a status: behind it may
    be a hedge that was given up. None: there is none, as when it came out of a cache."""
    found: int | None = None
    legs = trace.legs
    for index, leg in enumerate(legs):
        if leg.cause is not None and leg.cause.step is Step.REDIRECT:
            redirects -= 1
        if redirects == 0 and (found is None or leg.status or not legs[found].status):
            found = index
    return found


def _trace(what: ClientResponse | ClientRequest | Trace) -> Trace | None:
    return what if isinstance(what, Trace) else what.trace


def _legs(what: ClientResponse | ClientRequest | Trace, trace: Trace) -> list[Leg]:
    legs = list(trace.legs)
    if isinstance(what, Trace):
        return legs
    redirects: tuple[ClientResponse, ...] | None = getattr(what, "history", None)
    if redirects is None:
        return legs[-1:]
    index = leg_of(trace, len(redirects))
    return [] if index is None else [legs[index]]


def _kept(data: bytearray, ranges: Iterable[tuple[int, int]]) -> list[tuple[bytes, int]]:
    """The bytes of each leg that were kept, and how many were not."""
    found = []
    for start, end in ranges:
        kept = bytes(data[start:end])
        found.append((kept, end - start - len(kept)))
    return found


def _bounded(pieces: list[tuple[bytes, int]], limit: int, secrets: Secrets, remark: str = "") -> bytes:
    """Masked first, and cut then: half a secret is one, too."""
    if limit < 1:
        raise ValueError(f"limit {limit}: must be at least 1 byte")
    data = b"".join(secrets.message(kept) for kept, _ in pieces)
    left = sum(count for _, count in pieces) + max(0, len(data) - limit)
    notes = [note for note in (remark, f"{left} bytes more are left out" if left else "") if note]
    return data[:limit] + "".join(f"\n[{note}]\n" for note in notes[-1:]).encode()


def _head(lines: list[str]) -> bytes:
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


def _visible(text: str) -> str:
    return _STRANGE.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def _text(data: bytes) -> str:
    """Content: as it is, where it is text, else in hexadecimal."""
    for cut in range(min(4, len(data))):  # it may end within a character
        try:
            text = data[: len(data) - cut].decode()
        except UnicodeDecodeError:
            continue
        text = text.replace("\r\n", "\n")
        if not _STRANGE.search(text):
            return text if cut == 0 else f"{text}\ufffd"
        break
    return "".join(_hexdump(data))


def _hexdump(data: bytes) -> Iterator[str]:
    for start in range(0, len(data), 16):
        row = data[start : start + 16]
        digits = row[:8].hex(" ").ljust(24) + row[8:].hex(" ").ljust(24)
        letters = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        yield f"{start:08x}  {digits} |{letters}|\n"
