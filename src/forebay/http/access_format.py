"""The lines of an access log: what they say of an exchange, and how a client is kept from writing in them.

Whatever a client has sent appears escaped, so that a line is printable ASCII: no client can end a line, forge another,
leave a quoted field, or send a command to the terminal on which the log is read. Of a value of more than 4 KiB the
beginning is shown, and an ellipsis.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import lru_cache
from string import Formatter
from typing import TYPE_CHECKING, Any

import msgspec

from forebay.engine.loop import now

if TYPE_CHECKING:
    from forebay.http.exchange import Exchange

__all__ = ["FIELDS", "FORMATS", "Clock", "LineFormat", "compile_format", "escape"]

LineFormat = Callable[["Exchange", float], str]
"""Makes the line, without its end, about an exchange that has finished at a loop time."""

NOT_ANSWERED = 499
"""The status that is logged when the client left before an answer was begun."""

_ODD = re.compile(rb"[^ !#-\[\]-~]")  # anything but printable ASCII, and the two that have a meaning within quotes
_PLAIN = bytes(code for code in range(0x20, 0x7F) if code not in b'"\\')
_ESCAPES = {code: f"\\x{code:02x}".encode() for code in range(256)}
_ESCAPES |= {ord(char): f"\\{name}".encode() for char, name in zip('\b\n\r\t\v"\\', 'bnrtv"\\', strict=True)}
_CONTROLS = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")  # str.splitlines takes some of them for line ends
_NOT_ASCII = re.compile("[^\x00-\x7e]")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_LONGEST = 4096  # bytes of a value; escaped they may be six times as many
_CACHED = 256  # blocks of headers whose part of the line is kept


def escape(data: bytes) -> str:
    r"""``data`` as it stands within quotes: as Apache has it, ``\"``, ``\\``, ``\n`` and the like, else ``\xhh``."""
    if len(data) > _LONGEST:
        data = data[:_LONGEST] + b"..."
    if not data.translate(None, _PLAIN):
        return data.decode()
    return _ODD.sub(lambda match: _ESCAPES[match[0][0]], data).decode()


_target = lru_cache(256)(escape)  # many come again and again


class Clock:
    """What time it is, as text that is made once a second.

    :param offset: seconds from loop time to UNIX time. Looked at once a second: the wall clock may be set.
    """

    __slots__ = ("_offset", "_utc", "began", "clf", "unix", "until")

    def __init__(self, offset: Callable[[], float] = lambda: time.time() - now()) -> None:
        self._offset = offset
        self.began = 0.0  # the loop time at which this second began
        self.until = 0.0  # and at which it ends
        self.unix = 0
        self.clf = ""  # "[10/Oct/2000:13:55:36 -0700]", local time
        self._utc = ""

    def renew(self, at: float) -> None:
        """Go to the second of loop time ``at``."""
        wall = at + self._offset()
        self.unix = second = int(wall)
        self.began = at - (wall - second)
        self.until = self.began + 1
        utc, local = time.gmtime(second), time.localtime(second)
        self._utc = time.strftime("%Y-%m-%dT%H:%M:%S", utc)
        sign, minutes = "-" if local.tm_gmtoff < 0 else "+", abs(local.tm_gmtoff) // 60
        day = f"{local.tm_mday:02d}/{_MONTHS[local.tm_mon - 1]}/{local.tm_year}"  # strftime follows the locale
        clock = time.strftime("%H:%M:%S", local)
        self.clf = f"[{day}:{clock} {sign}{minutes // 60:02d}{minutes % 60:02d}]"

    def rfc3339(self, at: float) -> str:
        """UTC with milliseconds (RFC 3339)."""
        if at >= self.until:
            self.renew(at)
        milliseconds = int((at - self.began) * 1000)
        if not 0 <= milliseconds < 1000:
            milliseconds = 0 if milliseconds < 0 else 999
        return f"{self._utc}.{milliseconds:03d}Z"


# -- common and combined


def _common(clock: Clock) -> LineFormat:
    """``%h %l %u %t "%r" %>s %b``"""
    return _apache(clock, lambda exchange: "")


def _combined(clock: Clock) -> LineFormat:
    """Common, and ``"%{Referer}i" "%{User-agent}i"``"""
    return _apache(clock, _per_block(lambda agent, referer, request_id: f' "{_text(referer)}" "{_text(agent)}"'))


def _apache(clock: Clock, tail: Callable[[Exchange], str]) -> LineFormat:
    def line(exchange: Exchange, at: float) -> str:
        if at >= clock.until:
            clock.renew(at)
        notes = exchange.notes
        user = "-" if notes is None or "user" not in notes else _note(exchange, "user").replace(" ", "\\x20")
        return (
            f'{_client(exchange.client)} - {user} {clock.clf} "{exchange.method} {_target(exchange.target)} '
            f'{"HTTP/1.1" if exchange.fields.http11 else "HTTP/1.0"}" '
            f"{exchange.status or NOT_ANSWERED} {exchange.body_sent or '-'}{tail(exchange)}"
        )

    return line


@lru_cache(1024)
def _client(host: str) -> str:
    """A proxy may say that its client has a UNIX socket, of any name."""
    return escape(host.encode("utf-8", "surrogateescape")).replace(" ", "\\x20")


def _per_block(part: Callable[[bytes | None, bytes | None, bytes | None], str]) -> Callable[[Exchange], str]:
    """``part`` of a line, made of user agent, referer and request id. It is kept for headers that come again and again:
    the reader gives out the same tuple then."""
    kept: dict[int, tuple[Any, str]] = {}  # by identity: what is kept is alive, so it is nobody else's

    def text(exchange: Exchange) -> str:
        headers = exchange.headers
        found = kept.get(id(headers))
        if found is not None:
            return found[1]
        agent = referer = request_id = None
        for name, value in headers:
            size = len(name)
            if size == 7 and referer is None and name.lower() == b"referer":
                referer = value.strip(b" \t")
            elif size == 10 and agent is None and name.lower() == b"user-agent":
                agent = value.strip(b" \t")
            elif size == 12 and request_id is None and name.lower() == b"x-request-id":
                request_id = value.strip(b" \t")
        made = part(agent, referer, request_id)
        if type(headers) is tuple:
            if len(kept) >= _CACHED:
                kept.clear()
            kept[id(headers)] = (headers, made)
        return made

    return text


# -- JSON


def _json(clock: Clock) -> LineFormat:
    """One object; every field is always there, null where there is nothing to say."""
    of_headers = _per_block(
        lambda agent, referer, request_id: (
            f'"user_agent":{_json_text(agent)},"referer":{_json_text(referer)},"request_id":{_json_text(request_id)}'
        )
    )

    def line(exchange: Exchange, at: float) -> str:
        scheme, notes, body_sent = exchange.scheme, exchange.notes, exchange.body_sent
        tls = None if scheme == "http" else _tls_version(exchange)
        return (
            f'{{"time":"{clock.rfc3339(at)}","client":{_json_client(exchange.client)},"method":"{exchange.method}",'
            f'"path":{_json_text(exchange.raw_path)},"query":{_json_text(exchange.query)},'
            f'"protocol":"{"HTTP/1.1" if exchange.http11 else "HTTP/1.0"}",'
            f'"status":{exchange.status or NOT_ANSWERED},"request_bytes":{exchange.body_received},'
            f'"response_bytes":{body_sent},"duration":{at - exchange.received_at:.6f},"scheme":"{scheme}",'
            f'"tls_version":{"null" if tls is None else _json_value(tls)},"host":{_json_text(exchange.host)},'
            f'{of_headers(exchange)},"notes":{_json_notes(notes) if notes else "{}"}}}'
        )

    return line


@lru_cache(1024)
def _json_client(host: str) -> str:
    return _json_text(host.encode("utf-8", "surrogateescape"))


def _json_text(data: bytes | None) -> str:
    if not data:
        return "null"
    if len(data) > _LONGEST:
        data = data[:_LONGEST] + b"..."
    if not data.translate(None, _PLAIN):
        return f'"{data.decode()}"'
    return _json_value(str(data, "utf-8", "backslashreplace"))


def _json_notes(notes: dict[str, Any]) -> str:
    try:
        return _json_value(notes)
    except Exception:  # a note that JSON does not have; the others stay as they are
        return _json_value({_in_json(str(name)): _in_json(value) for name, value in notes.items()})


def _in_json(value: Any) -> Any:
    try:
        msgspec.json.encode(value, enc_hook=str)
    except Exception:  # whatever its own __str__ raises, too: a note must not cost the line
        return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else ascii(value)
    return value


def _json_value(value: Any) -> str:
    text = msgspec.json.encode(value, enc_hook=str).decode()
    return text if text.isascii() and "\x7f" not in text else _NOT_ASCII.sub(_json_escape, text)


def _json_escape(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


# -- own fields


def _text(value: bytes | None) -> str:
    return escape(value) if value else "-"


def _header(exchange: Exchange, name: bytes) -> str:
    return _text(exchange.header(name))


def _note(exchange: Exchange, name: str) -> str:
    value = exchange.notes.get(name) if exchange.notes else None
    return "-" if value is None or value == "" else escape(str(value).encode("utf-8", "backslashreplace"))


def _tls_version(exchange: Exchange) -> str | None:
    tls = exchange.conn.tls
    return None if tls is None else tls.version


def _unix_time(clock: Clock, at: float) -> float:
    if at >= clock.until:
        clock.renew(at)
    return clock.unix + max(at - clock.began, 0.0)


def _clf_time(clock: Clock, at: float) -> str:
    if at >= clock.until:
        clock.renew(at)
    return clock.clf


_Getter = Callable[["Exchange", float, Clock], Any]


def _fields() -> dict[str, tuple[str | int | float, _Getter]]:
    return {
        "time": ("", lambda x, at, clock: clock.rfc3339(at)),
        "time_clf": ("", lambda x, at, clock: _clf_time(clock, at)),
        "time_unix": (0.5, lambda x, at, clock: _unix_time(clock, at)),
        "client": ("", lambda x, at, clock: _client(x.client)),
        "method": ("", lambda x, at, clock: x.method),
        "target": ("", lambda x, at, clock: escape(x.target)),
        "path": ("", lambda x, at, clock: escape(x.raw_path)),
        "query": ("", lambda x, at, clock: escape(x.query) or "-"),
        "protocol": ("", lambda x, at, clock: "HTTP/1.1" if x.http11 else "HTTP/1.0"),
        "status": (1, lambda x, at, clock: x.status or NOT_ANSWERED),
        "request_bytes": (1, lambda x, at, clock: x.body_received),
        "response_bytes": (1, lambda x, at, clock: x.body_sent),
        "duration": (0.5, lambda x, at, clock: at - x.received_at),
        "duration_ms": (0.5, lambda x, at, clock: (at - x.received_at) * 1000),
        "scheme": ("", lambda x, at, clock: x.scheme),
        "tls_version": ("", lambda x, at, clock: _tls_version(x) or "-"),
        "host": ("", lambda x, at, clock: escape(x.host) or "-"),
        "user_agent": ("", lambda x, at, clock: _header(x, b"user-agent")),
        "referer": ("", lambda x, at, clock: _header(x, b"referer")),
        "request_id": ("", lambda x, at, clock: _header(x, b"x-request-id")),
    }


FIELDS = _fields()
"""The fields of a format, each with an example of its kind and the way to it."""

FORMATS: dict[str, Callable[[Clock], LineFormat]] = {"common": _common, "combined": _combined, "json": _json}
"""The formats that have a name."""

_ITEM = re.compile(r"(header|note)\[([^\[\]]+)\]")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def compile_format(form: str | LineFormat, clock: Clock | None = None) -> LineFormat:
    """Make of ``form`` what makes the lines.

    :param form: the name of one of :data:`FORMATS`; a format string as for :meth:`str.format`, whose fields are those
        of :data:`FIELDS`, ``header[NAME]`` and ``note[NAME]``; or a function, of whose lines only control characters
        are escaped.
    :raises ValueError: it is no format; names what is wrong in it, and what would be right.
    """
    if not isinstance(form, str):
        return _of_function(form)
    clock = clock or Clock()
    if form in FORMATS:
        return FORMATS[form](clock)
    if "{" not in form:
        raise ValueError(
            f"access log format {form!r} has no {{fields}}, nor is it one with a name: {_nearest(form, FORMATS)}"
        )
    if _CONTROLS.search(form):
        raise ValueError(f"access log format {form!r}: a line has no line end or control character but the tab")
    return _of_template(form, clock)


def _of_function(function: LineFormat) -> LineFormat:
    def line(exchange: Exchange, at: float) -> str:
        return _CONTROLS.sub(lambda match: ascii(match[0])[1:-1], function(exchange, at))

    return line


def _of_template(form: str, clock: Clock) -> LineFormat:
    try:
        parts = list(Formatter().parse(form))
    except ValueError as error:
        raise ValueError(f"access log format {form!r}: {error}") from None
    template = ""
    getters: list[_Getter] = []
    for literal, name, spec, conversion in parts:
        template += literal.replace("{", "{{").replace("}", "}}")
        if name is None:
            continue
        example, getter = _field(form, name)
        if conversion:
            raise ValueError(f"access log format {form!r}: {{{name}}} has a conversion, !{conversion}; leave it out")
        try:
            format(example, spec or "")
            if "{" in (spec or "") or (spec or "").endswith("c"):  # as a character, a number could be a line end
                raise ValueError("a specification has no fields of its own, and is not of type c")
        except ValueError as error:
            raise ValueError(f"access log format {form!r}: {{{name}:{spec}}}: {error}") from None
        template += f"{{:{spec}}}"
        getters.append(getter)
    render = template.format
    return lambda exchange, at: render(*[getter(exchange, at, clock) for getter in getters])


def _field(form: str, name: str) -> tuple[str | int | float, _Getter]:
    if name in FIELDS:
        return FIELDS[name]
    match = _ITEM.fullmatch(name)
    if match is None:
        names = [*FIELDS, "header[NAME]", "note[NAME]"]
        raise ValueError(f"access log format {form!r}: unknown field {{{name}}}: {_nearest(name, names)}")
    kind, item = match.groups()
    if kind == "note":
        return "", lambda x, at, clock: _note(x, item)
    if not _TOKEN.fullmatch(item):
        raise ValueError(f"access log format {form!r}: {item!r} is not the name of a header (RFC 9110 section 5.1)")
    header = item.lower().encode()
    return "", lambda x, at, clock: _header(x, header)


def _nearest(name: str, valid: Iterable[str]) -> str:
    near = get_close_matches(name, valid, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there is {', '.join(valid)}"
