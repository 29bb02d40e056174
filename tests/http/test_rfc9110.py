"""RFC 9110, HTTP semantics, sections 4 to 9, over real sockets. The number in a case's name is its section."""

from __future__ import annotations

import asyncio
import re
from email.utils import parsedate_to_datetime

import pytest

from forebay.engine.connection import Connection
from forebay.engine.handler import ConnectionHandler
from forebay.http import App, Exchange, HTTPServer
from tests.http.wire_cases import CHUNKED, GET, LAST, POST, target
from tests.http.witness import (
    TEXT,
    Answer,
    ask,
    check_refused,
    closing,
    only_answer,
    read_answers,
    timeouts,
    understood,
    witnessing,
)
from tests.support import raw_client, running

TOKEN_MARKS = "!#$%&'*+-.^_`|~"


# -- 4: URIs


async def test_4_2_1_an_http_uri_has_a_host() -> None:
    """9110-4.2.1: a URI with an empty host is invalid, and refused."""
    for uri in (b"http:///x", b"http://", b"http://:80/x"):
        await check_refused(target(uri), 400)


async def test_4_2_4_userinfo_is_refused() -> None:
    """9110-4.2.4: userinfo in a target obscures the authority: an error."""
    for uri in (b"http://a@b/", b"http://a:b@a/", b"http://a%40b@a/"):
        await check_refused(target(uri), 400)


# -- 5: fields


@pytest.mark.parametrize("name", ["X-One", "x-one", "X-ONE", TOKEN_MARKS, "0", "a" * 200])
async def test_5_1_field_names_are_any_tokens(name: str) -> None:
    """9110-5.1, 5.6.2: all characters of tokens, in any case."""
    record = await understood(closing(b"GET", b"/", name.encode() + b": v\r\n"))
    assert record.values(name.lower()) == ["v"]


@pytest.mark.parametrize("name", ["hOST", "HOST", "host"])
async def test_5_1_field_names_have_no_case(name: str) -> None:
    """9110-5.1: the fields that mean something to the server do so in any case."""
    async with witnessing() as (_, witness, port):
        fields = b"cOnTeNt-LeNgTh: 3\r\nCONNECTION: close\r\n\r\nabc"
        await ask(port, b"POST / HTTP/1.1\r\n" + name.encode() + b": b\r\n" + fields)
        (record,) = witness.records
        assert (record.host, record.body) == ("b", b"abc")


@pytest.mark.parametrize("octet", sorted({*range(256)} - {*TOKEN_MARKS.encode()} - {10, 13, 58} - {*range(97, 123)}))
async def test_5_1_octets_in_names(octet: int) -> None:
    """9110-5.1, 5.6.2: beside those above only digits and letters are allowed; with any other one it is refused."""
    line = b"X%cY: v\r\n" % octet
    if chr(octet).isascii() and chr(octet).isalnum():
        assert len((await understood(closing(b"GET", b"/", line))).headers) == 3
    else:
        await check_refused(closing(b"GET", b"/", line), 400)


async def test_5_2_and_5_3_lines_of_one_name_stay_in_order() -> None:
    """9110-5.2, 5.3: all of them are handed on, in the order they came, others between them or not."""
    record = await understood(closing(b"GET", b"/", b"A: 1\r\nB: x\r\na: 2, 3\r\nC: y\r\nA: 4\r\n"))
    assert record.values("a") == ["1", "2, 3", "4"]
    assert [name for name, _ in record.headers] == ["Host", "Connection", "A", "B", "a", "C", "A"]


async def test_5_3_a_request_is_not_acted_upon_before_its_head_is_complete() -> None:
    """9110-5.3: fields that come last may change everything."""
    async with witnessing() as (_, witness, port), raw_client(port) as client:
        await client.send(GET + b"X: y\r\n")
        await asyncio.sleep(0.1)
        assert witness.records == []
        await client.send(b"Content-Length: 3\r\n\r\nabc")
        await client.response()
        assert [record.body for record in witness.records] == [b"abc"]


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(b"X: " + b"y" * 60_000 + b"\r\n", id="one long field"),
        pytest.param(b"X: " + b"y" * 100_000 + b"\r\n", id="one very long field"),
        pytest.param(b"y" * 60_000 + b": x\r\n", id="one long name"),
        pytest.param(b"X: " + b"y" * 1000 + b"\r\n" * 1 + (b"Z: " + b"y" * 1000 + b"\r\n") * 90, id="all together"),
        pytest.param(b"X: y\r\n" * 2000, id="many fields"),
    ],
)
async def test_5_4_fields_past_the_limits(fields: bytes) -> None:
    """9110-5.4, 6585-5: refused with 431, never cut short."""
    await check_refused(GET + fields + b"\r\n", 431)


@pytest.mark.parametrize("octet", [*range(0x20), 0x7F])
async def test_5_5_control_characters_in_values(octet: int) -> None:
    """9110-5.5: only the tab is allowed; CR, LF and NUL are dangerous, the others are refused as well."""
    line = b"X: a%cb\r\n" % octet
    if octet == 9:
        assert (await understood(closing(b"GET", b"/", line))).values("x") == ["a\tb"]
    else:
        await check_refused(closing(b"GET", b"/", line), 400)


async def test_5_5_octets_above_127_are_opaque() -> None:
    """9110-5.5: obs-text is handed on as it came."""
    octets = bytes(range(0x80, 0x100))
    record = await understood(closing(b"GET", b"/", b"X: a" + octets + b"\r\n"))
    assert record.values("x") == ["a" + octets.decode("latin-1")]


async def test_5_6_1_empty_elements_of_lists_are_ignored() -> None:
    """9110-5.6.1.2: in Connection, as the server reads that list itself."""
    async with witnessing() as (_, witness, port):
        await ask(port, GET + b"Connection: , ,x,, close ,\r\n\r\n" + LAST)
        assert len(witness.records) == 1


# -- 6: messages


async def test_6_4_content_is_opaque_and_complete() -> None:
    """9110-6.4: every octet, and not one more, in both framings."""
    octets = bytes(range(256)) * 4
    for data in (
        closing(b"POST", b"/", b"Content-Length: 1024\r\n", octets),
        closing(b"POST", b"/", b"Transfer-Encoding: chunked\r\n", b"400\r\n" + octets + b"\r\n0\r\n\r\n"),
    ):
        assert (await understood(data)).body == octets


@pytest.mark.parametrize("status", [200, 204, 205, 304, 404, 500])
async def test_6_4_1_which_answers_have_content(status: int) -> None:
    """9110-6.4.1, 15.3.5, 15.3.6, 15.4.5: 204, 205 and 304 have none, whatever the application says."""
    async with witnessing() as (_, _, port):
        first, second = read_answers(await ask(port, target(b"/status/%d" % status) + LAST))
        assert first.body == (b"" if status in (204, 205, 304) else b"content")
        assert second.status == 200


async def test_6_5_trailers_come_after_the_content() -> None:
    """9110-6.5.2: kept apart from the headers, in order; their names have no case."""
    async with witnessing() as (_, witness, port):
        trailers = b"Trailer-One: 1\r\ntrailer-two: \t2\t\r\nTRAILER-ONE: 3\r\n\r\n"
        await ask(port, CHUNKED.replace(b"\r\n\r\n", b"\r\nTrailer: trailer-one\r\n\r\n") + b"0\r\n" + trailers + LAST)
        record = witness.records[0]
        assert record.trailer("trailer-one") == ["1", "3"]
        assert record.trailer("trailer-two") == ["2"]
        assert record.values("trailer-one") == []


async def test_6_5_answers_may_have_trailers() -> None:
    """9110-6.5: sent after the last chunk; left out where the answer is not chunked."""

    def on_request(exchange: Exchange) -> None:
        exchange.start(200, TEXT, None if exchange.raw_path == b"/chunked" else 3)
        exchange.write(b"abc")
        exchange.finish(trailers=b"checksum: 1\r\n")

    async with witnessing() as (_, witness, port):
        witness.on_request = on_request  # type: ignore[method-assign]
        assert (await ask(port, closing(b"GET", b"/chunked"))).endswith(b"\r\n3\r\nabc\r\n0\r\nchecksum: 1\r\n\r\n")
        assert (await ask(port, closing(b"GET", b"/sized"))).endswith(b"\r\n\r\nabc")
        assert (await ask(port, b"GET /chunked HTTP/1.0\r\n\r\n")).endswith(b"\r\n\r\nabc")


IMF = re.compile(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d (Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) \d{4} .* GMT")


@pytest.mark.parametrize("path", [b"/", b"/stream", b"/sized", b"/status/204", b"/status/304", b"/status/404"])
async def test_6_6_1_answers_are_dated(path: bytes) -> None:
    """9110-6.6.1, 5.6.7: one Date, an IMF-fixdate, in every 2xx, 3xx and 4xx."""
    date = (await only_answer(closing(b"GET", path))).value("date")
    assert date is not None
    assert IMF.fullmatch(date)
    assert parsedate_to_datetime(date).tzinfo is not None


async def test_6_6_1_refusals_are_dated() -> None:
    """9110-6.6.1: the server's own 4xx too."""
    assert IMF.fullmatch((await only_answer(b"nonsense\r\n\r\n")).value("date") or "")


# -- 7: routing


async def test_7_2_host_may_come_anywhere() -> None:
    """9110-7.2: first is good practice, last is allowed."""
    async with witnessing() as (_, witness, port):
        await ask(port, b"GET / HTTP/1.1\r\nX: y\r\nConnection: close\r\nHost: b\r\n\r\n")
        assert [record.host for record in witness.records] == ["b"]


async def test_7_6_1_connection_options_the_server_does_not_know() -> None:
    """9110-7.6.1: they change nothing: not the framing, not the fields they name."""
    fields = b"Connection: Host, Content-Length, X-Foo\r\nX-Foo: z\r\nContent-Length: 3\r\n\r\nabc"
    async with witnessing() as (_, witness, port):
        answers = read_answers(await ask(port, POST + fields + LAST))
        assert [answer.status for answer in answers] == [200, 200]
        assert (witness.records[0].host, witness.records[0].body) == ("a", b"abc")


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(b"Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n", id="h2c"),
        pytest.param(b"Connection: Upgrade\r\nUpgrade: foo/2, bar\r\n", id="unknown protocols"),
        pytest.param(b"Connection: Upgrade\r\n", id="the option without the field"),
        pytest.param(b"Upgrade: websocket\r\n", id="the field without the option"),
        pytest.param(b"Connection: Upgrade\r\nUpgrade: TLS/1.0\r\n", id="TLS"),
    ],
)
@pytest.mark.parametrize("content", [b"", b"abc"])
async def test_7_8_an_upgrade_may_be_ignored(fields: bytes, content: bytes) -> None:
    """9110-7.8: the request is answered as if the field was not there; content and next request are still HTTP."""
    length = b"Content-Length: %d\r\n" % len(content) if content else b""
    async with witnessing() as (_, witness, port):
        answers = read_answers(await ask(port, POST + fields + length + b"\r\n" + content + LAST))
        assert [answer.status for answer in answers] == [200, 200]
        assert witness.records[0].body == content


class Shout(ConnectionHandler):
    """The protocol that is upgraded to."""

    def on_message(self, conn: Connection, data: bytes) -> None:
        conn.write(data.upper())


def take_up(exchange: Exchange) -> None:
    """Upgrade where the client may, and answer with 426 where not."""
    if exchange.upgrade_to == b"shout":
        exchange.upgrade(b"connection: upgrade\r\nupgrade: shout\r\n", Shout())
    else:
        exchange.respond(426, b"upgrade: shout\r\nconnection: upgrade\r\n", b"")


async def test_7_8_an_upgrade_that_is_taken_up() -> None:
    """9110-7.8, 15.2.2: 101 names the protocol; what came behind the request is the new protocol's already."""
    async with witnessing() as (_, witness, port), raw_client(port) as client:
        witness.on_request = take_up  # type: ignore[method-assign]
        await client.send(GET + b"Connection: x, UPGRADE\r\nUpgrade: Shout\r\n\r\n" + target(b"/hidden").lower())
        status, headers, _ = await client.response()
        assert (status, headers["upgrade"], headers["connection"]) == (101, "shout", "upgrade")
        assert "content-length" not in headers
        assert "transfer-encoding" not in headers
        assert await client.exactly(len(target(b"/hidden"))) == target(b"/hidden").upper()
        await client.send(b"more")
        assert await client.exactly(4) == b"MORE"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: shout\r\n\r\n", id="in HTTP-1.0"),
        pytest.param(GET + b"Upgrade: shout\r\nConnection: close\r\n\r\n", id="without the option"),
        pytest.param(GET + b"Connection: upgrade, close\r\n\r\n", id="without the field"),
    ],
)
async def test_7_8_an_upgrade_that_may_not_be_taken_up(data: bytes) -> None:
    """9110-7.8: HTTP/1.0 and fields without the connection option do not ask for one."""
    async with witnessing() as (_, witness, port):
        witness.on_request = take_up  # type: ignore[method-assign]
        answers = read_answers(await ask(port, data))
        assert [answer.status for answer in answers] == [426]


# -- 8: representation data


async def test_8_3_and_8_4_type_and_coding_are_the_applications() -> None:
    """9110-8.3, 8.4: the content is not touched because of them."""
    fields = b"Content-Type: text/x; a=b\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n"
    record = await understood(closing(b"POST", b"/", fields, b"abc"))
    assert (record.body, record.values("content-encoding")) == (b"abc", ["gzip"])


@pytest.mark.parametrize(
    "value",
    [
        *(b"+3", b"-3", b"-0", b"3.0", b"3e0", b"0x3", b"3_0", b"3 3", b"3;", b"3,", b",3", b"3, 3", b"3,4", b"three"),
        *(b"", b"\xb3", b"\xef\xbc\x93", b'"3"', b"3\x00", b"3\x0b", b"NaN", b"3a", b"a3", b"0003 4"),
    ],
)
async def test_8_6_a_length_is_digits(value: bytes) -> None:
    """9110-8.6: 1*DIGIT and nothing else; everything else is refused."""
    await check_refused(POST + b"Content-Length: " + value + b"\r\n\r\nabc", 400)


@pytest.mark.parametrize(
    "value",
    [b"2147483651", b"4294967299", b"9223372036854775811", b"18446744073709551619", b"9" * 40, b"1" + b"0" * 5000],
)
async def test_8_6_a_large_length_does_not_wrap(value: bytes) -> None:
    """9110-8.6: decimals that overflow 31, 32, 63 and 64 bits to 3, and longer ones, are never read as 3."""
    await check_refused(POST + b"Content-Length: " + value + b"\r\n\r\nabc" + target(b"/hidden"), 400, 413)


@pytest.mark.parametrize("status", [204, 304])
async def test_8_6_no_length_where_none_may_be(status: int) -> None:
    """9110-8.6: a 204 has no Content-Length; a 304 has none that is not a 200's."""
    answer = await only_answer(closing(b"GET", b"/status/%d" % status))
    assert answer.values("content-length") == []


# -- 9: methods


@pytest.mark.parametrize("method", [b"GET", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"PROPFIND", b"QUERY"])
async def test_9_1_methods_are_handed_on(method: bytes) -> None:
    """9110-9.1: with content and without."""
    assert (await understood(closing(method, b"/"))).method == method.decode()
    assert (await understood(closing(method, b"/", b"Content-Length: 3\r\n", b"abc"))).body == b"abc"


@pytest.mark.parametrize("method", [b"FOO", b"get", b"GeT", b"G", b"X-1", b"GETT", b"M!#$%&'*+.^_`|~"])
async def test_9_1_methods_nobody_knows(method: bytes) -> None:
    """9110-9.1, 15.6.2: any token is a method and case matters: handed on as it is, or answered with 501; never taken
    for another one."""
    async with witnessing(timeouts=timeouts()) as (_, witness, port):
        (answer,) = read_answers(await ask(port, closing(method, b"/")))
        assert (answer.status, [record.method for record in witness.records]) in (
            (200, [method.decode()]),
            (501, []),
        )


async def test_9_1_an_app_says_what_it_allows() -> None:
    """9110-9.1, 15.5.6, 10.2.1: a method the resource does not take is 405, with Allow."""
    app = App()

    @app.get("/")
    def index() -> str:
        return "index"

    async with running(HTTPServer(app, bind="http://127.0.0.1:0")) as server:
        port = server.addresses[0].port
        (answer,) = read_answers(await ask(port, closing(b"DELETE", b"/")))
        assert answer.status == 405
        assert set((answer.value("allow") or "").split(", ")) >= {"GET", "HEAD"}
        (answer,) = read_answers(await ask(port, closing(b"FOO", b"/")))
        assert answer.status in (405, 501)


async def test_9_3_1_content_of_a_get_is_not_the_next_request() -> None:
    """9110-9.3.1: content in a GET means nothing, but it is content."""
    hidden = target(b"/hidden")
    async with witnessing() as (_, witness, port):
        await ask(port, GET + b"Content-Length: %d\r\n\r\n" % len(hidden) + hidden + LAST)
        assert [record.target for record in witness.records] == ["/", "/last"]


@pytest.mark.parametrize("path", [b"/", b"/stream", b"/sized", b"/status/404", b"/status/500", b"/early"])
async def test_9_3_2_head_has_the_fields_of_get(path: bytes) -> None:
    """9110-9.3.2, 8.6: the same status and fields, framing included, and no content."""

    def shape(answer: Answer) -> tuple[int, list[str], bool]:
        names = sorted(name for name, _ in answer.headers)
        chunked = answer.value("transfer-encoding") == "chunked"
        return answer.status, names, chunked

    get = await only_answer(closing(b"GET", path))
    head = await only_answer(closing(b"HEAD", path), head=True)
    assert shape(get) == shape(head)
    assert head.body == b""
    if path != b"/" and path != b"/early":  # their content has the method in it
        assert get.value("content-length") == head.value("content-length")


async def test_9_3_6_connect_is_refused() -> None:
    """9110-9.3.6: no tunnel; what follows is not read as HTTP."""
    await check_refused(target(b"a:80", b"CONNECT") + target(b"/hidden"), 400, 405, 501)
    await check_refused(target(b"/", b"CONNECT") + target(b"/hidden"), 400, 405, 501)


async def test_9_3_7_options_of_the_server() -> None:
    """9110-9.3.7: OPTIONS * is answered by an app without a route for it, with no content."""
    async with running(HTTPServer(App(), bind="http://127.0.0.1:0")) as server:
        (answer,) = read_answers(await ask(server.addresses[0].port, closing(b"OPTIONS", b"*")))
        assert (answer.status // 100, answer.body) == (2, b"")


async def test_9_3_8_trace_does_not_reflect() -> None:
    """9110-9.3.8: an app without a route for TRACE does not send credentials back."""
    async with running(HTTPServer(App(), bind="http://127.0.0.1:0")) as server:
        data = await ask(server.addresses[0].port, closing(b"TRACE", b"/", b"Cookie: secret\r\n"))
        (answer,) = read_answers(data)
        assert answer.status in (404, 405, 501)
        assert b"secret" not in data
