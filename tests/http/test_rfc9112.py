"""RFC 9112, HTTP/1.1, section by section over real sockets. The number in a case's name is its section."""

from __future__ import annotations

import asyncio

import pytest

from forebay.http import ServerLimits
from tests.http.wire_cases import ACCEPTED, CHUNKED, GET, LAST, POST, REFUSED, target
from tests.http.witness import ask, only_answer, read_answers, timeouts, witnessing
from tests.support import eventually, raw_client


@pytest.mark.parametrize("case", REFUSED)
async def test_what_must_be_refused_is(case: str) -> None:
    """One answer with the right status, which says that the connection ends; and it ends. The application sees no
    complete request."""
    data, statuses = REFUSED[case]
    async with witnessing(timeouts=timeouts()) as (server, witness, port):
        (answer,) = read_answers(await ask(port, data))
        assert answer.status in statuses
        assert answer.closes
        assert witness.completed == []
        assert server.statistics()["refused"] == 1
        assert server.in_flight == 0


@pytest.mark.parametrize("case", ACCEPTED)
async def test_what_must_be_accepted_is(case: str) -> None:
    """It is understood as the section says, and the request behind it as well, on the same connection."""
    data, readings = ACCEPTED[case]
    async with witnessing() as (_, witness, port):
        answers = read_answers(await ask(port, data + LAST))
        assert [record.reading for record in witness.records] == [*readings, ("GET", "/last", b"")]
        assert [answer.serial for answer in answers] == list(range(len(readings) + 1))
        assert {answer.status for answer in answers} == {200}
        assert all(record.complete for record in witness.records)


# -- 2 and 3: versions and the parts of the target


async def test_2_3_the_answer_carries_the_servers_version() -> None:
    """9112-2.3, 9110-6.2: HTTP/1.1 in every status line, the one to HTTP/1.0 too."""
    for data in (LAST, b"GET / HTTP/1.0\r\n\r\n", b"nonsense\r\n\r\n"):
        assert (await only_answer(data)).version == "HTTP/1.1"


async def test_2_3_a_higher_minor_version_is_treated_as_the_highest_known() -> None:
    """9112-2.3, 9110-2.5: HTTP/1.2 may be served as HTTP/1.1, or refused with 505; never with another meaning."""
    answer = await only_answer(b"GET / HTTP/1.2\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert answer.status in (200, 505)


async def test_3_2_an_empty_host_is_one() -> None:
    """9112-3.2: Host may be empty where the URI has no authority; one header that is empty is not a missing one. An
    http URI has an authority (9110-4.2.1), so refusing it is right as well; it never becomes another host."""
    async with witnessing(timeouts=timeouts()) as (_, witness, port):
        (answer,) = read_answers(await ask(port, b"GET / HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n"))
        assert (answer.status, [r.host for r in witness.records]) in ((400, []), (200, [""]))


@pytest.mark.parametrize(
    "host", ["a", "a.example", "A.Example", "a:8080", "a:", "127.0.0.1", "[::1]", "[::1]:80", "xn--bcher-kva"]
)
async def test_3_2_hosts(host: str) -> None:
    """9112-3.2: names, addresses and ports are handed on as they came."""
    async with witnessing() as (_, witness, port):
        await ask(port, b"GET / HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % host.encode())
        assert [record.host for record in witness.records] == [host]


async def test_3_2_2_the_host_of_an_absolute_target_counts() -> None:
    """9112-3.2.2: an HTTP/1.0 request without Host has the host of its target."""
    async with witnessing() as (_, witness, port):
        await ask(port, b"GET http://b:81/x HTTP/1.0\r\n\r\n")
        assert [record.host for record in witness.records] == ["b:81"]


async def test_3_3_what_a_request_is_for_can_be_put_together() -> None:
    """9112-3.3: scheme from the connection, authority from Host, path and query from the target."""
    async with witnessing() as (_, witness, port):
        await ask(port, b"GET /x?y HTTP/1.1\r\nHost: a:81\r\nConnection: close\r\n\r\n")
        (record,) = witness.records
        assert f"{record.scheme}://{record.host}{record.target}" == "http://a:81/x?y"


async def test_3_2_http_1_0_needs_no_host() -> None:
    """9112-3.2: only a client of HTTP/1.1 must send Host."""
    assert (await only_answer(b"GET / HTTP/1.0\r\n\r\n")).status == 200


# -- 4 and 5: what we send


async def test_4_status_lines() -> None:
    """9112-4: HTTP-version SP status-code SP [reason-phrase]; the second SP is there without a phrase too."""
    for status, line in ((200, b"HTTP/1.1 200 OK"), (404, b"HTTP/1.1 404 Not Found"), (599, b"HTTP/1.1 599 ")):
        path = b"/status/%d" % status
        answer = await only_answer(target(path).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert answer.line == line


async def test_5_white_space_around_values_is_not_part_of_them() -> None:
    """9112-5.1: OWS before and after a value is excluded; white space within it is kept; a value may be empty."""
    fields = b"A:x\r\nB: \t x \t\r\nC:\r\nD: \r\nE: x \t y\r\nF: :x:\r\nConnection: close\r\n\r\n"
    async with witnessing() as (_, witness, port):
        await ask(port, GET + fields)
        (record,) = witness.records
        got = {name.lower(): value for name, value in record.headers}
        assert [got[name] for name in "abcdef"] == ["x", "x", "", "", "x \t y", ":x:"]


# -- 6: how long content is


@pytest.mark.parametrize("status", [204, 304])
async def test_6_3_1_answers_that_end_with_their_head(status: int) -> None:
    """9112-6.3-1, 6.1: 204 and 304 have neither content nor Transfer-Encoding; the next answer follows at once."""
    async with witnessing() as (_, _, port):
        first, second = read_answers(await ask(port, target(b"/status/%d" % status) + LAST))
        assert (first.status, second.status) == (status, 200)
        assert first.values("transfer-encoding") == []


@pytest.mark.parametrize("path", [b"/", b"/stream", b"/sized", b"/status/404"])
async def test_6_3_1_head_ends_with_its_head(path: bytes) -> None:
    """9112-6.3-1: an answer to HEAD has no content, however a GET's would be framed."""
    async with witnessing() as (_, _, port):
        data = await ask(port, target(path, b"HEAD") + LAST)
        first, second = read_answers(data, heads=(True, False))
        assert (first.body, second.status) == (b"", 200)


async def test_6_1_no_transfer_coding_for_http_1_0() -> None:
    """9112-6.1: content of unknown length ends with the connection."""
    answer = await only_answer(b"GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert (answer.values("transfer-encoding"), answer.body) == ([], b"onetwo")
    assert answer.closes


async def test_6_3_an_answer_has_one_framing() -> None:
    """9112-6.2: either Content-Length or Transfer-Encoding, once."""
    for path, framing in ((b"/stream", "transfer-encoding"), (b"/sized", "content-length"), (b"/", "content-length")):
        answer = await only_answer(target(path).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert [name for name, _ in answer.headers if name in ("transfer-encoding", "content-length")] == [framing]


async def test_6_3_content_past_the_limit_is_refused() -> None:
    """9110-15.5.14: 413 at once for an announced length, while reading for chunks."""
    for data in (
        POST + b"Content-Length: 2000000\r\n\r\n",
        POST + b"Content-Length: 999999999999999999\r\n\r\n",
        CHUNKED + b"1e8480\r\n" + b"x" * 1_500_000,
    ):
        answer = await only_answer(data)
        assert (answer.status, answer.closes) == (413, True)


# -- 7: trailers


async def test_7_1_2_trailers_are_kept_apart_from_headers() -> None:
    """9112-7.1.2: they are available, but not among the headers, and framing fields in them change nothing."""
    trailers = b"Checksum: 1\r\nchecksum: 2\r\n"
    async with witnessing() as (_, witness, port):
        await ask(port, CHUNKED + b"3\r\nabc\r\n0\r\n" + trailers + b"\r\n" + LAST)
        first, second = witness.records
        assert first.trailer("checksum") == ["1", "2"]
        assert first.values("checksum") == []
        assert second.trailers == []


@pytest.mark.parametrize("name", ["Content-Length", "Transfer-Encoding", "Host", "Authorization", "Connection"])
async def test_7_1_2_trailers_that_may_not_be_there_mean_nothing(name: str) -> None:
    """9112-7.1.2, 9110-6.5.1: the request is refused, or read as if the trailer was not there."""
    data = CHUNKED + b"3\r\nabc\r\n0\r\n%b: close\r\n\r\n" % name.encode() + LAST
    async with witnessing(timeouts=timeouts()) as (_, witness, port):
        answers = read_answers(await ask(port, data))
        assert [answer.status for answer in answers] in ([200, 200], [400])
        assert all(record.values("host") == ["a"] for record in witness.records)


# -- 8: requests that end too early


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"GE", id="in the method"),
        pytest.param(GET, id="in the head"),
        pytest.param(POST + b"Content-Length: 10\r\n\r\nabc", id="in a content of known length"),
        pytest.param(CHUNKED + b"3\r\nabc\r\n", id="between chunks"),
        pytest.param(CHUNKED + b"a\r\nabc", id="in a chunk"),
        pytest.param(CHUNKED + b"3\r\nabc\r\n0\r\n", id="before the last line"),
        pytest.param(CHUNKED + b"3\r\nabc\r\n0\r\nX: y\r\n", id="in the trailers"),
    ],
)
async def test_8_incomplete_requests_are_not_answered_as_if_they_were_complete(data: bytes) -> None:
    """9112-8: at the end of the connection: at most an error, soon, and never a complete request."""
    async with witnessing() as (server, witness, port):
        answers = read_answers(await ask(port, data, half_close=True, timeout=3))
        assert [answer.status for answer in answers] in ([], [400], [408])
        assert witness.completed == []
        await eventually(lambda: server.connections == 0)
        assert server.in_flight == 0


# -- 9: connections


@pytest.mark.parametrize(
    ("head", "stays"),
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\n", True, id="HTTP-1.1"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n", False, id="HTTP-1.1 and close"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n", True, id="HTTP-1.1 and keep-alive"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x, CLOSE\r\n", False, id="close in a list"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x\r\nConnection: close\r\n", False, id="in two lines"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: closed\r\n", True, id="an option that is not close"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, close\r\n", False, id="both: close wins"),
        pytest.param(b"GET / HTTP/1.0\r\nHost: a\r\n", False, id="HTTP-1.0"),
        pytest.param(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n", True, id="HTTP-1.0 and keep-alive"),
        pytest.param(b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n", True, id="HTTP-1.0 and Keep-Alive"),
        pytest.param(b"GET / HTTP/1.0\r\nConnection: close, keep-alive\r\n", False, id="HTTP-1.0 and both"),
    ],
)
async def test_9_3_persistence(head: bytes, stays: bool) -> None:
    """9112-9.3: which connections go on; those that do not say so (9.6), and a request behind the last is ignored."""
    async with witnessing() as (_, witness, port):
        answers = read_answers(await ask(port, head + b"\r\n" + LAST))
        assert len(answers) == len(witness.records) == 1 + stays
        assert answers[0].closes != stays
        if b"HTTP/1.0" in head and stays:
            assert answers[0].value("connection") == "keep-alive"


async def test_9_3_2_pipelined_requests_are_answered_in_order() -> None:
    """9112-9.3.2: 300 requests of every framing at once; each answer is that of its request."""
    forms = (
        b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nGET /",
        b"POST /%d HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nGET /\r\n0\r\n\r\n",
    )
    async with witnessing() as (_, witness, port):
        answers = read_answers(await ask(port, b"".join(forms[n % 3] % n for n in range(300)) + LAST))
        assert [answer.serial for answer in answers] == list(range(301))
        assert [record.target for record in witness.records] == [f"/{n}" for n in range(300)] + ["/last"]


async def test_9_3_2_a_request_behind_a_slow_one_waits() -> None:
    """9112-9.3.2: an answer never overtakes the one before it."""
    async with witnessing() as (_, witness, port), raw_client(port) as client:
        await client.send(target(b"/hold") + target(b"/second"))
        await eventually(lambda: witness.held)
        witness.held[0].respond(200, b"", b"first")
        assert (await client.response())[2] == b"first"
        assert b"/second" in (await client.response())[2]


async def test_9_3_2_a_refusal_comes_after_the_answers_before_it() -> None:
    """9112-9.3.2: what came before bytes that are refused is answered first."""
    async with witnessing() as (_, witness, port), raw_client(port) as client:
        await client.send(target(b"/hold") + b"nonsense\r\n\r\n")
        await eventually(lambda: witness.held)
        witness.held[0].respond(200, b"", b"first")
        assert (await client.response())[2] == b"first"
        assert (await client.response())[0] == 400
        assert await client.rest() == b""


async def test_9_3_an_unread_content_does_not_become_a_request() -> None:
    """9112-9.3: a server that answers early reads the whole content or closes."""
    content = target(b"/hidden")
    data = b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(content) + content
    async with witnessing() as (_, witness, port):
        answers = read_answers(await ask(port, data + LAST))
        assert [record.target for record in witness.records] in (["/early", "/last"], ["/early"])
        assert len(answers) == len(witness.records)
        assert answers[0].closes == (len(answers) == 1)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(b"", 0, id="nothing is sent"),
        pytest.param(GET, 408, id="a head without an end"),
        pytest.param(POST + b"Content-Length: 10\r\n\r\nabc", 408, id="a content without an end"),
        pytest.param(CHUNKED + b"3\r\nab", 408, id="a chunk without an end"),
        pytest.param(CHUNKED + b"3", 408, id="a chunk size without an end"),
    ],
)
async def test_9_5_waiting_has_an_end(data: bytes, status: int) -> None:
    """9112-9.5, 9110-15.5.9: 408 with close for what was begun; a plain close otherwise."""
    async with witnessing(timeouts=timeouts()) as (server, witness, port):
        answers = read_answers(await ask(port, data, timeout=3))
        assert [answer.status for answer in answers] == ([status] if status else [])
        assert all(answer.closes for answer in answers)
        assert witness.completed == []
        assert server.in_flight == 0


async def test_9_5_an_idle_connection_is_closed_without_an_answer() -> None:
    """9112-9.5: between requests no 408 is sent, which could be taken for the answer to the next one."""
    async with witnessing(timeouts=timeouts()) as (_, _, port):
        (answer,) = read_answers(await ask(port, GET + b"\r\n", timeout=3))
        assert answer.status == 200


async def test_9_6_nothing_is_read_after_close() -> None:
    """9112-9.6: requests behind one with close are not processed, even bad ones."""
    async with witnessing() as (_, witness, port):
        answers = read_answers(await ask(port, LAST + LAST + b"nonsense\r\n\r\n"))
        assert [answer.status for answer in answers] == [200]
        assert len(witness.records) == 1


async def test_9_6_a_half_closed_client_is_answered() -> None:
    """9112-9.6, 9.3: whoever ends its sending side still gets the answers, in order; interim ones may come before."""
    async with witnessing() as (_, witness, port), raw_client(port) as client:
        await client.send(target(b"/hold") + target(b"/second"))
        client.send_eof()
        await eventually(lambda: witness.held)
        await asyncio.sleep(0.3)  # longer than it takes to notice
        witness.held[0].respond(200, b"", b"late")
        answers = read_answers(await client.rest())
        first, second = (answer for answer in answers if answer.status >= 200)
        assert (first.body, second.serial) == (b"late", 1)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n", 200, id="early answer"),
        pytest.param(POST + b"Content-Length: 5000000\r\n\r\n", 413, id="refused content"),
        pytest.param(b"nonsense\r\n\r\n", 400, id="refused head"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 200, id="last request that is allowed"),
    ],
)
async def test_9_6_a_client_still_sending_gets_the_last_answer(data: bytes, status: int) -> None:
    """9112-9.6: the server half-closes and reads on, so that no reset takes the answer away."""
    limits = ServerLimits(requests=1)
    async with (
        witnessing(timeouts=timeouts(linger=3.0), limits=limits) as (_, _, port),
        raw_client(port) as client,
    ):
        await client.send(data)
        for _ in range(20):
            await client.send(b"x" * 20_000)  # fails when the connection is reset
        (answer,) = read_answers(await client.rest())
        assert (answer.status, answer.closes) == (status, True)


async def test_9_6_the_last_request_of_a_connection_says_so() -> None:
    """9112-9.6: where the number of requests is limited, the last answer carries close."""
    async with witnessing(limits=ServerLimits(requests=3)) as (_, witness, port):
        answers = read_answers(await ask(port, target(b"/x") * 5))
        assert [answer.closes for answer in answers] == [False, False, True]
        assert len(witness.records) == 3


# -- 11: security


async def test_11_1_an_answer_cannot_be_split() -> None:
    """9112-11.1: what the application was sent in a target or a header cannot add a line to its answer's head."""
    async with witnessing() as (_, _, port):
        data = await ask(port, target(b"/%0d%0aX:%20y", host=b"a") + LAST)
        assert len(read_answers(data)) == 2
        assert b"\r\nX: y" not in data


@pytest.mark.parametrize("step", [1, 2, 3, 7, 50])
async def test_11_2_how_bytes_arrive_changes_nothing(step: int) -> None:
    """9112-2.2, 11.2: the same requests in any pieces."""
    stream = b"\r\n" + POST + b"Content-Length: 3\r\n\r\nabc" + CHUNKED + b"3;x=y\r\nabc\r\n0\r\nT: u\r\n\r\n" + LAST
    async with witnessing() as (_, witness, port), raw_client(port) as client:
        for at in range(0, len(stream), step):
            await client.send(stream[at : at + step])
            await asyncio.sleep(0)
        assert len(read_answers(await client.rest())) == 3
        assert [record.reading for record in witness.records] == [
            ("POST", "/p", b"abc"),
            ("POST", "/p", b"abc"),
            ("GET", "/last", b""),
        ]
