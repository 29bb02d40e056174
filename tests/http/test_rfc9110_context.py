"""RFC 9110, HTTP semantics, sections 10 and 15, over real sockets. The number in a case's name is its section."""

from __future__ import annotations

import re

import pytest

from forebay.http import Exchange
from tests.http.wire_cases import CHUNKED, GET, LAST, POST, target
from tests.http.witness import ask, check_refused, closing, only_answer, read_answers, timeouts, witnessing
from tests.support import RawClient, eventually, raw_client

# -- 10: context


def expecting(path: bytes, value: bytes = b"100-continue", version: bytes = b"HTTP/1.1") -> bytes:
    """The head of a request that waits to be asked for its content."""
    fields = b"Host: a\r\nContent-Length: 3\r\nExpect: " + value + b"\r\nConnection: close\r\n\r\n"
    return b"POST " + path + b" " + version + b"\r\n" + fields


@pytest.mark.parametrize("value", [b"100-continue", b"100-Continue", b"100-CONTINUE", b" 100-continue "])
async def test_10_1_1_the_content_is_asked_for(value: bytes) -> None:
    """9110-10.1.1: 100 before the content, exactly once, then the final answer; the value has no case."""
    async with witnessing() as (_, witness, port), raw_client(port) as client:
        await client.send(expecting(b"/", value))
        assert await client.exactly(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"abc")
        (answer,) = read_answers(await client.rest())
        assert answer.status == 200
        assert witness.records[0].body == b"abc"


async def test_10_1_1_no_100_where_the_content_is_there() -> None:
    """9110-10.1.1: it may be left out when content has come already."""
    data = await _ask_expecting(expecting(b"/") + b"abc")
    assert [answer.status for answer in read_answers(data)] in ([200], [100, 200])


async def test_10_1_1_no_100_for_http_1_0() -> None:
    """9110-10.1.1: the expectation of an HTTP/1.0 request is ignored."""
    async with witnessing() as (_, _, port), raw_client(port) as client:
        await client.send(expecting(b"/", version=b"HTTP/1.0"))
        await client.send(b"abc")
        assert [answer.status for answer in read_answers(await client.rest())] == [200]


async def test_10_1_1_no_100_without_content() -> None:
    """9110-10.1.1: there is nothing to ask for."""
    for length in (b"", b"Content-Length: 0\r\n"):
        data = await _ask_expecting(GET + length + b"Expect: 100-continue\r\nConnection: close\r\n\r\n")
        assert [answer.status for answer in read_answers(data)] == [200]


async def test_10_1_1_no_100_after_the_final_answer() -> None:
    """9110-10.1.1: who answers without the content does not ask for it, and closes, since it may still come or not."""
    data = await _ask_expecting(expecting(b"/early").replace(b"Connection: close\r\n", b""))
    (answer,) = read_answers(data)
    assert (answer.status, answer.closes) == (200, True)


async def test_10_1_1_what_comes_after_an_early_final_answer_is_not_a_request() -> None:
    """9110-10.1.1, 9112-9.3: content that was not asked for is never the next request."""
    content = target(b"/hidden")
    head = b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(content)
    async with witnessing(timeouts=timeouts()) as (_, witness, port), raw_client(port) as client:
        await client.send(head)
        await eventually(lambda: witness.records)
        try:
            await client.send(content)
        except ConnectionError:
            pytest.fail("reset before the answer was read")
        assert len(read_answers(await client.rest())) == 1
        assert [record.target for record in witness.records] == ["/early"]


@pytest.mark.parametrize(
    "value", [b"coffee", b"100-continu", b"100-continue, coffee", b"100-continue=1", b"y 100-continue"]
)
async def test_10_1_1_unknown_expectations(value: bytes) -> None:
    """9110-10.1.1, 15.5.18: 417."""
    await check_refused(expecting(b"/", value) + b"abc", 417, 400)


async def test_10_1_1_a_refused_head_is_not_asked_for_its_content() -> None:
    """9110-10.1.1: the final status comes at once: 413 for a length past the limit, 400 for bad framing."""
    head = expecting(b"/")
    for data, status in (
        (head.replace(b": 3", b": 2000000"), 413),
        (head.replace(b": 3", b": 3\r\nTransfer-Encoding: chunked"), 400),
    ):
        answers = read_answers(await _ask_expecting(data))
        assert [answer.status for answer in answers] == [status]


async def _ask_expecting(data: bytes) -> bytes:
    async with witnessing(timeouts=timeouts()) as (_, _, port):
        return await ask(port, data)


async def test_10_2_4_the_server_names_itself_once_and_without_details() -> None:
    """9110-10.2.4: a product, without a list of its parts' versions."""
    value = (await only_answer(closing(b"GET", b"/"))).value("server")
    assert value is None or re.fullmatch(r"[a-z]+(/[0-9]+)?", value)


# -- 15: statuses


async def test_15_2_interim_answers() -> None:
    """9110-15.2: 103 before the final answer, without content or framing; never to HTTP/1.0."""
    async with witnessing() as (_, _, port):
        first, second = read_answers(await ask(port, closing(b"GET", b"/interim")))
        assert (first.status, first.value("link")) == (103, "</style.css>; rel=preload")
        assert not {"content-length", "transfer-encoding"} & {name for name, _ in first.headers}
        assert (second.status, second.body) == (200, b"final")
        (only,) = read_answers(await ask(port, b"GET /interim HTTP/1.0\r\n\r\n"))
        assert only.status == 200


@pytest.mark.parametrize("path", [b"/empty/205", b"/status/205"])
async def test_15_3_6_a_205_says_that_it_has_no_content(path: bytes) -> None:
    """9110-15.3.6: no content, and, as it is not one of those that end with their head, framing that says so."""
    async with witnessing() as (_, _, port):
        first, second = read_answers(await ask(port, target(path) + LAST))
        assert (first.status, first.body, second.status) == (205, b"", 200)
        assert first.value("content-length") == "0" or first.value("transfer-encoding") == "chunked"


async def test_15_5_9_a_timeout_closes() -> None:
    """9110-15.5.9: 408 carries close."""
    answer = await only_answer(GET)
    assert (answer.status, answer.closes) == (408, True)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, id="15.5.15: 414"),
        pytest.param(POST + b"Content-Length: 2000000\r\n\r\n", 413, id="15.5.14: 413"),
        pytest.param(expecting(b"/", b"x"), 417, id="15.5.18: 417"),
        pytest.param(POST + b"Transfer-Encoding: x\r\n\r\n", 501, id="15.6.2: 501"),
        pytest.param(b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505, id="15.6.6: 505"),
        pytest.param(GET + b"X: y\r\n" * 500 + b"\r\n", 431, id="6585-5: 431"),
        pytest.param(GET + b"X\r\n\r\n", 400, id="15.5.1: 400"),
    ],
)
async def test_15_refusals_explain_themselves(data: bytes, status: int) -> None:
    """9110-15.5, 15.6: an error has a representation that says what is wrong, and a type."""
    answer = await only_answer(data)
    assert answer.status == status
    assert answer.value("content-type") == "application/problem+json"
    assert b'"detail"' in answer.body


async def test_15_6_1_a_failure_is_a_500_and_the_connection_goes_on() -> None:
    """9110-15.6.1: an application that raises; the next request is served."""

    def on_request(exchange: Exchange) -> None:
        if exchange.raw_path == b"/last":
            exchange.respond(200, b"", b"")
        else:
            raise ZeroDivisionError

    async with witnessing() as (_, witness, port):
        witness.on_request = on_request  # type: ignore[method-assign]
        answers = read_answers(await ask(port, target(b"/") + LAST))
        assert [answer.status for answer in answers] == [500, 200]


async def test_15_several_clients_do_not_share_anything() -> None:
    """9110-3.3: every request stands alone: what one connection breaks does not reach another."""
    async with witnessing(timeouts=timeouts()) as (_, _, port):
        good = await RawClient.connect(port)
        for bad in (b"nonsense\r\n\r\n", CHUNKED + b"zz\r\n", POST + b"Content-Length: x\r\n\r\n"):
            assert read_answers(await ask(port, bad))[0].status == 400
            assert (await good.get("/x"))[0] == 200
        await good.close()
