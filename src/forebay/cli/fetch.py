"""``forebay fetch``: one request, its answer, and a picture of what took how long."""

from __future__ import annotations

import os
import re
import sys
from codecs import IncrementalDecoder, getincrementaldecoder
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click
import msgspec
from rich.console import Console
from rich.text import Text

from forebay.config.units import parse_duration
from forebay.engine.loop import Cancelled, run
from forebay.errors import ForebayError, TLSFailed
from forebay.runtime.logs import LogSettings, configure_logging

if TYPE_CHECKING:
    from forebay.http.client.response import ClientResponse
    from forebay.http.client.trace import Trace

__all__ = ["fetch_command"]

# The client is imported where it is needed: no other command has a use for it.

_FAILED = 1
_INTERRUPTED = 130  # as shells say it
_KEPT = 1024 * 1024  # bytes of each direction, for --verbose and --har
_SHORT = ("content-type", "content-length", "content-encoding", "location", "retry-after", "www-authenticate")
_OBEYED = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_CHARSET = re.compile(r"""charset=["']?([^\s"';]+)""", re.IGNORECASE)
_METHODS = frozenset(("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"))
_DIM = "bright_black"
_LEAST_WIDTH = 50
_MOST_WIDTH = 120


def _url(_: click.Context, __: click.Parameter, text: str) -> str:
    from forebay.http.client.url import parse_url, split_userinfo

    whole = text if "://" in text.partition("?")[0] else f"http://{text}"
    if whole.partition("://")[2][:1] in ("", "/", "?", "#"):
        raise click.BadParameter(f"'{text}' names no host: it must be like example.org/path, or https://example.org/")
    try:
        parse_url(split_userinfo(whole)[0])
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    return whole


def _method(_: click.Context, __: click.Parameter, method: str | None) -> str | None:
    from forebay.http.client.request import check_method

    if method is not None:
        if method.upper() in _METHODS:
            method = method.upper()  # they are case-sensitive, and nobody means "post"
        try:
            check_method(method)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None
    return method


def _headers(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> list[tuple[str, str]]:
    found = []
    for text in texts:
        name, colon, value = text.partition(":")
        if not colon or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise click.BadParameter(f"'{text}' must be like 'name: value'")
        if not value.isprintable() or not value.isascii():
            raise click.BadParameter(f"the value of {name} must be visible ASCII")
        if name.lower() in ("content-length", "transfer-encoding"):
            raise click.BadParameter(f"{name} is made from the content")
        found.append((name, value.strip()))
    return found


def _fields(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> list[tuple[str, str]]:
    pairs = [text.partition("=") for text in texts]
    for name, equals, _value in pairs:
        if not name or not equals:
            raise click.BadParameter(f"'{name}' must be like name=value, or name=@file")
    return [(name, value) for name, _, value in pairs]


def _json(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
    if text is not None and not text.startswith("@"):  # what a file has is its own affair
        try:
            msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            raise click.BadParameter(f"not JSON: {error}") from None
    return text


def _to_be_written(_: click.Context, __: click.Parameter, path: str | None) -> str | None:
    """Said before anything is asked for, not after it."""
    if path is not None and not os.path.exists(path):
        folder = os.path.dirname(path) or "."
        if not os.path.isdir(folder):
            raise click.BadParameter(f"there is no directory '{folder}'")
    elif path is not None and os.path.isdir(path):
        raise click.BadParameter(f"'{path}' is a directory")
    return path


def _proxy(_: click.Context, __: click.Parameter, url: str | None) -> str | None:
    from forebay.http.client.proxies import Proxies

    if url:
        try:
            Proxies(http=url, https=url)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None
    return url


def _seconds(_: click.Context, __: click.Parameter, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        seconds = parse_duration(text if text[-1:].isalpha() else f"{text}s")
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if seconds <= 0:
        raise click.BadParameter("must be more than 0")
    return seconds


@dataclass(slots=True)
class _Fetch:
    """What is asked for, and what becomes of it."""

    url: str
    method: str
    options: dict[str, Any]
    client: dict[str, Any]
    output: str | None
    har: str | None
    verbose: bool
    quiet: bool
    answers: list[ClientResponse] = field(default_factory=list)  # one, once its head is there
    kept: bytearray = field(default_factory=bytearray)  # of its content, for --har


@click.command("fetch", short_help="Send a request, and show what took how long.")
@click.argument("url", metavar="URL", callback=_url)
@click.option("-X", "--method", metavar="METHOD", callback=_method, help="[GET; POST with content]")
@click.option("-H", "--header", "headers", metavar="'NAME: VALUE'", multiple=True, callback=_headers)
@click.option("-d", "--data", metavar="DATA|@FILE", help="Content, as it is; -H 'content-type: ...' says what it is.")
@click.option("--json", metavar="JSON|@FILE", callback=_json, help="Content, as application/json.")
@click.option("--form", metavar="NAME=VALUE", multiple=True, callback=_fields, help="A field of a form; or NAME=@FILE.")
@click.option("-o", "--output", metavar="FILE", callback=_to_be_written, help="Write the answer's content there.")
@click.option("--har", metavar="FILE", callback=_to_be_written, help="Write what happened there, for browsers; masked.")
@click.option("--no-follow", is_flag=True, help="Do not follow redirects.")
@click.option("--ca", metavar="FILE", type=click.Path(exists=True, dir_okay=False), help="PEM file of CAs to trust.")
@click.option("--insecure", is_flag=True, help="Take any certificate.")
@click.option("--timeout", metavar="DURATION", callback=_seconds, help="For all of it, as 10s or 500ms.")
@click.option("--proxy", metavar="URL", callback=_proxy, help="Empty: none. [that of the environment]")
@click.option("-v", "--verbose", is_flag=True, help="All header fields, as sent and received; secrets masked.")
@click.option("-q", "--quiet", is_flag=True, help="Only the content, and errors.")
def fetch_command(
    url: str,
    method: str | None,
    headers: list[tuple[str, str]],
    data: str | None,
    json: str | None,
    form: list[tuple[str, str]],
    output: str | None,
    har: str | None,
    no_follow: bool,
    ca: str | None,
    insecure: bool,
    timeout: float | None,
    proxy: str | None,
    verbose: bool,
    quiet: bool,
) -> int:
    """Send a request to URL, and show its answer and what took how long.

    The content goes to standard output, all else to standard error: the answer's head, and a picture with a line for
    each part of the way, where solid bars are work and light ones are waiting. Exits with 0, with 1 when there was no
    answer, or its status is 400 or more, and with 130 when it was interrupted (Ctrl-C), which shows what it was at.

    \b
    Example:
      forebay fetch https://example.org/
      forebay fetch 127.0.0.1:8000/users --json '{"name": "Ada"}' -v
      forebay fetch https://localhost:8443/big.iso --ca ca.pem -o big.iso --har fetch.har
    """
    if sum((data is not None, json is not None, bool(form))) > 1:
        raise click.UsageError("a request has one content: give one of --data, --json and --form")
    if insecure and ca is not None:
        raise click.UsageError("--ca is of no use with --insecure")
    if verbose and quiet:
        raise click.UsageError("give one of --verbose and --quiet")
    from forebay.engine.tls_settings import ClientTLS
    from forebay.http.client.settings import Timeouts

    options = _content(data, json, form, headers)
    client = {
        "timeouts": Timeouts(total=timeout),
        "tls": ClientTLS(ca=ca, verify=not insecure),
        "redirects": not no_follow,
        "proxy": proxy,
    }
    configure_logging(LogSettings("error", "console"))
    method = method or ("POST" if options.keys() - {"headers"} else "GET")
    asked = _Fetch(url, method, options, client, output, har, verbose, quiet)
    try:
        return run(_perform(asked))
    except BrokenPipeError:  # whoever read it has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain when it flushes
        return _FAILED
    except KeyboardInterrupt:
        return _INTERRUPTED


def _content(
    data: str | None, json: str | None, form: list[tuple[str, str]], headers: list[tuple[str, str]]
) -> dict[str, Any]:
    """What the request has beside method and URL."""
    options: dict[str, Any] = {"headers": headers}
    if json is not None:
        options["content"] = _file(json[1:], "--json") if json.startswith("@") else json
        if not any(name.lower() == "content-type" for name, _ in headers):
            options["headers"] = [*headers, ("content-type", "application/json")]
    elif data is not None:
        options["content"] = _file(data[1:], "--data") if data.startswith("@") else data
    elif form:
        options["form"] = [(name, value) for name, value in form if not value.startswith("@")]
        if files := [(name, _file(value[1:], "--form")) for name, value in form if value.startswith("@")]:
            options["files"] = files
    return options


def _file(path: str, option: str) -> Path | bytes:
    """A file to send; ``-``: what standard input has."""
    if path == "-":
        return sys.stdin.buffer.read()
    if not os.path.isfile(path):
        raise click.UsageError(f"{option}: there is no file '{path}'")
    return Path(path)


# -- what happens


async def _perform(asked: _Fetch) -> int:
    from forebay.http.client.client import Client
    from forebay.http.client.trace import Trace

    trace = Trace(keep_bytes=_KEPT if asked.verbose or asked.har else 0)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    code = 0
    try:
        async with Client(**asked.client) as client:
            request = client.request(asked.method, asked.url, **asked.options, trace=trace)
            async with request as response:
                asked.answers.append(response)
                _show_heads(asked, console, response)
                code = await _show_content(asked, response)
    except ForebayError as error:
        _failed(asked, console, trace, error)
        code = _FAILED
    except Cancelled:
        _interrupted(asked, console, trace)
        raise
    else:
        _show_picture(asked, console, trace)
    return code if asked.har is None else _write_har(asked, asked.har, trace) or code


def _interrupted(asked: _Fetch, console: Console, trace: Trace) -> None:
    from forebay.http.client.trace import Step

    if not trace.events:
        return
    if not trace.legs[-1].error:
        trace.mark(Step.FAILED, error="interrupted")
    _show_picture(asked, console, trace)
    if asked.har is not None:
        _write_har(asked, asked.har, trace)


def _failed(asked: _Fetch, console: Console, trace: Trace, error: ForebayError) -> None:
    from forebay.http.client.dump import dump_request
    from forebay.http.client.secret_fields import SECRETS
    from forebay.http.client.trace import Step

    if trace.events and not trace.legs[-1].error:
        trace.mark(Step.FAILED, error=str(error))
    if asked.verbose and not asked.answers and trace.sent:
        _show_head(console, ">", dump_request(trace), "cyan")
        console.print()
    _show_picture(asked, console, trace)
    _complain(SECRETS.url(str(error)))
    if isinstance(error, TLSFailed) and "certificate" in str(error) and asked.client["tls"].verify:
        own = "--ca FILE trusts the CA in FILE, " if "CA we trust" in str(error) else ""
        _complain(f"{own}--insecure takes any certificate")


async def _show_content(asked: _Fetch, response: ClientResponse) -> int:
    """Content goes to where it is wanted, as it comes."""
    code = 0 if response.ok else _FAILED

    def keep(piece: bytes) -> None:
        if asked.har is not None and (room := _KEPT - len(asked.kept)) > 0:
            asked.kept += piece[:room]

    if asked.output is None and sys.stdout.isatty():
        return code if await _show_on_terminal(response, keep) else _FAILED
    try:
        out = sys.stdout.buffer if asked.output is None else _opened(asked.output)
        try:
            async for piece in response.stream():
                keep(piece)
                out.write(piece)
                out.flush()
        finally:
            if asked.output is not None:
                with suppress(OSError):  # what there is to say was said by flush
                    out.close()
    except BrokenPipeError:
        raise
    except OSError as error:
        _complain(f"cannot write to {asked.output or 'standard output'}: {error.strerror}")
        return _FAILED
    return code


def _opened(path: str) -> BinaryIO:
    return open(path, "wb")  # whoever asks for it closes it


async def _show_on_terminal(response: ClientResponse, keep: Callable[[bytes], None]) -> bool:
    """Text, without what would move the cursor or worse; False: it is none, and is not shown."""
    kind = response.headers.get("content-type", "")
    decoder = _decoder(kind)
    last = "\n"
    first = True
    try:
        async for piece in response.stream():
            keep(piece)
            text = decoder.decode(piece)
            if first and ("\0" in text or text.count("\ufffd") > len(text) // 10):
                _complain(f"content is not text ({_printable(kind) or 'of unknown kind'}): give -o FILE to save it")
                return False
            first = False
            sys.stdout.write(_OBEYED.sub(lambda match: f"\\x{ord(match[0]):02x}", text.replace("\r\n", "\n")))
            sys.stdout.flush()
            last = text[-1:] or last
    finally:
        if last != "\n":
            sys.stdout.write("\n")
            sys.stdout.flush()
    return True


def _decoder(kind: str) -> IncrementalDecoder:
    """Of the charset that the content is said to have, where there is such a one."""
    found = _CHARSET.search(kind)
    with suppress(LookupError):
        if found is not None:
            return getincrementaldecoder(found[1])("replace")
    return getincrementaldecoder("utf-8")("replace")


def _show_heads(asked: _Fetch, console: Console, response: ClientResponse) -> None:
    from forebay.http.client.dump import dump_request, dump_response
    from forebay.http.client.secret_fields import SECRETS

    if asked.quiet:
        return
    if asked.verbose:
        for one in (*response.history, response):
            _show_head(console, ">", dump_request(one), "cyan")
            _show_head(console, "<", dump_response(one), "")
        return
    status = Text(_printable(f"{response.status} {response.reason}"), style="bold green" if response.ok else "bold red")
    console.print(Text.assemble((f"HTTP/{response.http_version} ", _DIM), status))
    for name in _SHORT:
        for value in response.headers.get_all(name):
            console.print(Text(f"{name}: {_printable(SECRETS.header(name, value))}", style=_DIM))
    console.print()


def _show_head(console: Console, sign: str, dump: bytes, style: str) -> None:
    from forebay.http.client.dump import heads_of, render

    for line in render(heads_of(dump)).splitlines():
        console.print(Text(f"{sign} {line}".rstrip(), style=style))


def _show_picture(asked: _Fetch, console: Console, trace: Trace) -> None:
    from forebay.http.client.waterfall import waterfall_lines

    if asked.quiet or not trace.events:
        return
    width = max(_LEAST_WIDTH, min(console.width, _MOST_WIDTH)) if console.is_terminal else 80
    ascii_only = not console.encoding.lower().startswith("utf")
    if asked.answers and asked.output is None and sys.stdout.isatty():
        console.print()  # below the content
    for line in waterfall_lines(trace, width, ascii_only=ascii_only):
        text = Text.assemble(*line)
        text.rstrip()
        console.print(text)


def _write_har(asked: _Fetch, path: str, trace: Trace) -> int:
    from forebay.http.client.har import har

    document = har(asked.answers or [trace], contents={response: bytes(asked.kept) for response in asked.answers})
    try:
        Path(path).write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
    except OSError as error:
        _complain(f"cannot write to {path}: {error.strerror}")
        return _FAILED
    return 0


def _complain(text: str) -> None:
    click.echo(f"forebay: {_printable(' '.join(text.split()))}", err=True)


def _printable(text: str) -> str:
    """Servers say some of it, and a terminal would obey."""
    return "".join(char if char.isprintable() else "?" for char in text)
