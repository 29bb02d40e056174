"""What RFC 9111, RFC 5861 and RFC 8246 say of keeping answers and giving them again, case by case."""

from __future__ import annotations

from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.http.client.cache_keys import owner_of, varying_of
from forebay.http.client.cache_rules import (
    Use,
    directives,
    initial_age,
    kept_headers,
    lifetime,
    may_replace_failure,
    may_store,
    merged,
    same_representation,
    use,
    validators,
    vary_names,
    vary_value,
)
from forebay.http.headers import Headers

NOW = 1_700_000_000.0


def date(seconds: float = 0) -> str:
    """An HTTP date, so many seconds from ``NOW``."""
    return formatdate(NOW + seconds, usegmt=True)


def fields(*lines: str) -> Headers:
    """Headers of lines like ``name: value``; DATE(n) becomes a date."""
    pairs = []
    for line in lines:
        name, _, value = line.partition(":")
        pairs.append((name.encode(), value.strip().encode("latin-1")))
    return Headers(pairs)


CC = "cache-control: "


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param([], {}, id="5.2 nothing"),
        pytest.param([CC + "no-store"], {"no-store": None}, id="5.2 a name"),
        pytest.param([CC + "Max-Age=5, PUBLIC"], {"max-age": "5", "public": None}, id="5.2 names in any case"),
        pytest.param([CC + 'max-age="5"'], {"max-age": "5"}, id="5.2 either form of argument"),
        pytest.param([CC + 'private="a, b", max-age=1'], {"private": "a, b", "max-age": "1"}, id="5.2 comma in quotes"),
        pytest.param([CC + "a", CC + "b"], {"a": None, "b": None}, id="9110-5.3 several lines"),
        pytest.param([CC + ",, a ,, b,"], {"a": None, "b": None}, id="9110-5.6.1 empty elements"),
        pytest.param([CC + "max-age=9, max-age=3"], {"max-age": "3"}, id="4.2.1 twice, the more restrictive"),
        pytest.param([CC + "max-age=3, max-age=9"], {"max-age": "3"}, id="4.2.1 twice, in the other order"),
        pytest.param([CC + "???, no-store"], {"no-store": None}, id="5.2.3 what is none is passed over"),
        pytest.param([CC + 'x="open, no-store'], {"x": "", "no-store": None}, id="an open quote hides nothing"),
        pytest.param(["pragma: no-cache"], {"no-cache": None}, id="5.4 pragma"),
        pytest.param(["pragma: no-cache", CC + "max-age=1"], {"max-age": "1"}, id="5.4 pragma does not count beside"),
        pytest.param(["pragma: other"], {}, id="5.4 another pragma"),
    ],
)
def test_directives(lines: list[str], expected: dict[str, str | None]) -> None:
    """Section 5.2: names in lower case, with their arguments."""
    assert directives(fields(*lines)) == expected


@pytest.mark.parametrize(
    ("case", "stored"),
    [
        pytest.param({"answer": [CC + "max-age=5"]}, True, id="3 max-age"),
        pytest.param({"answer": ["expires: 0"]}, True, id="3 expires"),
        pytest.param({"answer": []}, True, id="3 a status that is cacheable by heuristics"),
        pytest.param({"status": 302}, False, id="3 another status"),
        pytest.param({"status": 302, "answer": [CC + "max-age=5"]}, True, id="3 another status that says so"),
        pytest.param({"status": 302, "answer": [CC + "public"]}, True, id="5.2.2.9 public makes it cacheable"),
        pytest.param({"status": 302, "answer": [CC + "private"]}, True, id="5.2.2.7 so does private, to a private one"),
        pytest.param({"status": 302, "answer": [CC + "private"], "shared": True}, False, id="3 not to a shared one"),
        pytest.param({"status": 302, "answer": [CC + "s-maxage=5"]}, False, id="3 s-maxage is for shared ones"),
        pytest.param({"status": 302, "answer": [CC + "s-maxage=5"], "shared": True}, True, id="3 s-maxage, shared"),
        pytest.param({"status": 404}, True, id="9110-15.1 404"),
        pytest.param({"status": 500}, False, id="9110-15.1 500"),
        pytest.param({"status": 206, "answer": [CC + "max-age=5"]}, False, id="3.3 a part"),
        pytest.param({"status": 304, "answer": [CC + "max-age=5"]}, False, id="3 a 304 is no answer by itself"),
        pytest.param({"status": 103, "answer": [CC + "max-age=5"]}, False, id="3 not final"),
        pytest.param({"method": "POST", "answer": [CC + "max-age=5"]}, False, id="3 POST"),
        pytest.param({"method": "HEAD", "answer": [CC + "max-age=5"]}, False, id="3 HEAD has no content"),
        pytest.param({"answer": [CC + "no-store, max-age=5"]}, False, id="5.2.2.5 no-store"),
        pytest.param({"request": [CC + "no-store"]}, False, id="5.2.1.5 no-store of the request"),
        pytest.param({"answer": [CC + "no-cache"]}, True, id="5.2.2.4 no-cache may be kept"),
        pytest.param(
            {"answer": [CC + "must-understand, no-store"]}, True, id="5.2.2.3 understood: no-store is ignored"
        ),
        pytest.param(
            {"status": 599, "answer": [CC + "must-understand, max-age=5"]}, False, id="5.2.2.3 not understood"
        ),
        pytest.param({"answer": [CC + "private, max-age=5"]}, True, id="5.2.2.7 private"),
        pytest.param({"answer": [CC + "private, max-age=5"], "shared": True}, False, id="5.2.2.7 private, shared"),
        pytest.param(
            {"answer": [CC + 'private="x"'], "shared": True}, False, id="5.2.2.7 qualified, as if it were not"
        ),
        pytest.param({"request": ["authorization: x"]}, True, id="3.5 credentials, private"),
        pytest.param({"request": ["authorization: x"], "shared": True}, False, id="3.5 credentials, shared"),
        pytest.param(
            {"request": ["authorization: x"], "answer": [CC + "max-age=5"], "shared": True}, False, id="3.5 max-age"
        ),
        pytest.param(
            {"request": ["authorization: x"], "answer": [CC + "public"], "shared": True}, True, id="3.5 public"
        ),
        pytest.param(
            {"request": ["authorization: x"], "answer": [CC + "s-maxage=9"], "shared": True}, True, id="3.5 s-maxage"
        ),
        pytest.param(
            {"request": ["authorization: x"], "answer": [CC + "must-revalidate"], "shared": True},
            True,
            id="3.5 must-revalidate",
        ),
        pytest.param({"answer": ["vary: *", CC + "max-age=5"]}, False, id="4.1 vary: * never fits"),
        pytest.param({"answer": ["set-cookie: a=b", CC + "max-age=5"]}, True, id="7.3 a cookie, private"),
        pytest.param({"answer": ["set-cookie: a=b", CC + "max-age=5"], "shared": True}, False, id="a cookie, shared"),
    ],
)
def test_what_may_be_stored(case: dict[str, Any], stored: bool) -> None:
    """Section 3."""
    request, answer = fields(*case.get("request", [])), fields(*case.get("answer", []))
    method, status = case.get("method", "GET"), case.get("status", 200)
    assert may_store(method, request, status, answer, shared=case.get("shared", False)) is stored


@pytest.mark.parametrize(
    ("lines", "seconds", "shared"),
    [
        pytest.param([CC + "max-age=60"], 60, False, id="4.2.1 max-age"),
        pytest.param([CC + "max-age=60, s-maxage=9"], 60, False, id="5.2.2.10 s-maxage is not for private ones"),
        pytest.param([CC + "max-age=60, s-maxage=9"], 9, True, id="4.2.1 s-maxage first, shared"),
        pytest.param([CC + "max-age=60", f"expires: {date(5)}", f"date: {date()}"], 60, False, id="5.3 before expires"),
        pytest.param([f"expires: {date(50)}", f"date: {date()}"], 50, False, id="4.2.1 expires less date"),
        pytest.param([f"expires: {date(50)}", f"date: {date(-10)}"], 60, False, id="4.2.1 by the server's clock"),
        pytest.param([f"expires: {date(50)}"], 50, False, id="4.2.1 without date: when it was received"),
        pytest.param([f"expires: {date(-50)}", f"date: {date()}"], 0, False, id="5.3 in the past"),
        pytest.param(["expires: 0"], 0, False, id="5.3 0 is in the past"),
        pytest.param(["expires: tomorrow"], 0, False, id="5.3 what is no date is in the past"),
        pytest.param([f"expires: {date(5)}", f"expires: {date(9)}"], 0, False, id="4.2.1 two that differ"),
        pytest.param([CC + "max-age=x"], 0, False, id="4.2.1 no number is stale"),
        pytest.param([CC + "max-age=-1"], 0, False, id="1.2.2 not below 0"),
        pytest.param([CC + "max-age=1.5"], 0, False, id="1.2.2 an integer"),
        pytest.param([CC + "max-age"], 0, False, id="5.2.2.1 without its argument"),
        pytest.param([CC + "max-age=99999999999999999999"], 2**31, False, id="1.2.2 too large"),
        pytest.param([CC + "max-age=3000000000"], 2**31, False, id="1.2.2 just too large"),
        pytest.param(["x: y"], 0, False, id="4.2.2 nothing to go by"),
        pytest.param([f"last-modified: {date(-1000)}", f"date: {date()}"], 100, False, id="4.2.2 a tenth"),
        pytest.param([f"last-modified: {date(-(10**8))}", f"date: {date()}"], 86400, False, id="4.2.2 a day at most"),
        pytest.param([f"last-modified: {date(99)}", f"date: {date()}"], 0, False, id="4.2.2 changed in the future"),
        pytest.param(["last-modified: never"], 0, False, id="4.2.2 no date"),
    ],
)
def test_lifetime(lines: list[str], seconds: float, shared: bool) -> None:
    """Section 4.2: how long it is fresh."""
    assert lifetime(200, fields(*lines), NOW, shared=shared) == seconds


def test_heuristics_are_for_some_statuses_and_can_be_left_out() -> None:
    """Section 4.2.2: not for statuses that are not cacheable by themselves, unless they are public."""
    answer = fields(f"last-modified: {date(-1000)}", f"date: {date()}")
    assert lifetime(302, answer, NOW) == 0
    assert lifetime(302, fields(f"last-modified: {date(-1000)}", CC + "public"), NOW) == 100
    assert lifetime(200, answer, NOW, heuristic=0) == 0
    assert lifetime(200, answer, NOW, heuristic=0.5) == 500


@pytest.mark.parametrize(
    ("lines", "delay", "age"),
    [
        pytest.param([f"date: {date()}"], 0, 0, id="just made"),
        pytest.param([f"date: {date(-7)}"], 0, 7, id="apparent age"),
        pytest.param([f"date: {date(7)}"], 0, 0, id="a clock that is ahead"),
        pytest.param(["age: 30"], 0, 30, id="age of a cache on the way"),
        pytest.param(["age: 30"], 4, 34, id="and the time it took"),
        pytest.param(["age: 3", f"date: {date(-9)}"], 2, 9, id="the larger one: apparent"),
        pytest.param(["age: 30", f"date: {date(-9)}"], 2, 32, id="the larger one: corrected"),
        pytest.param(["age: 30, 40"], 0, 30, id="5.1 a list: its first"),
        pytest.param(["age: 30", "age: 40"], 0, 30, id="5.1 two lines: the first"),
        pytest.param(["age: old"], 0, 0, id="5.1 no number is ignored"),
        pytest.param(["age: -5"], 0, 0, id="5.1 below 0 is no number"),
        pytest.param(["date: today"], 1, 1, id="no date"),
    ],
)
def test_age_when_it_is_received(lines: list[str], delay: float, age: float) -> None:
    """Section 4.2.3."""
    assert initial_age(fields(*lines), NOW - delay, NOW) == age


FRESH, STALE, REFRESH, VALIDATE = Use.FRESH, Use.STALE, Use.REFRESH, Use.VALIDATE


@pytest.mark.parametrize(
    ("request_says", "answer_says", "age", "expected"),
    [  # the lifetime is 100 seconds
        pytest.param("", "", 0, FRESH, id="4.2 fresh"),
        pytest.param("", "", 99, FRESH, id="4.2 just fresh"),
        pytest.param("", "", 100, VALIDATE, id="4.2 not more than its lifetime"),
        pytest.param("no-cache", "", 0, VALIDATE, id="5.2.1.4 no-cache"),
        pytest.param("max-age=10", "", 10, FRESH, id="5.2.1.1 max-age, not older"),
        pytest.param("max-age=10", "", 11, VALIDATE, id="5.2.1.1 max-age, older"),
        pytest.param("max-age=0", "", 1, VALIDATE, id="5.2.1.1 max-age=0"),
        pytest.param("max-age=999", "", 150, VALIDATE, id="5.2.1.1 max-age makes nothing fresh"),
        pytest.param("max-age=x", "", 1, VALIDATE, id="5.2.1.1 no number"),
        pytest.param("min-fresh=20", "", 80, FRESH, id="5.2.1.3 min-fresh, enough"),
        pytest.param("min-fresh=20", "", 81, VALIDATE, id="5.2.1.3 min-fresh, not enough"),
        pytest.param("max-stale", "", 10**9, STALE, id="5.2.1.2 max-stale, any"),
        pytest.param("max-stale=20", "", 120, STALE, id="5.2.1.2 max-stale, within"),
        pytest.param("max-stale=20", "", 121, VALIDATE, id="5.2.1.2 max-stale, past"),
        pytest.param("max-stale=x", "", 101, VALIDATE, id="5.2.1.2 no number"),
        pytest.param("max-stale, max-age=110", "", 120, VALIDATE, id="5.2.1.2 with max-age, too old"),
        pytest.param("max-stale=50, max-age=130", "", 120, STALE, id="5.2.1.2 with max-age, not too old"),
        pytest.param("", "no-cache", 0, VALIDATE, id="5.2.2.4 no-cache of the answer"),
        pytest.param("", 'no-cache="set-cookie"', 0, VALIDATE, id="5.2.2.4 qualified, as if it were not"),
        pytest.param("max-stale", "no-cache", 0, VALIDATE, id="5.2.2.4 whatever the request says"),
        pytest.param("", "must-revalidate", 99, FRESH, id="5.2.2.2 must-revalidate, fresh"),
        pytest.param("max-stale", "must-revalidate", 101, VALIDATE, id="5.2.2.2 must-revalidate, never stale"),
        pytest.param("max-stale", "proxy-revalidate", 101, STALE, id="5.2.2.8 proxy-revalidate is for shared ones"),
        pytest.param("max-stale", "s-maxage=100", 101, STALE, id="5.2.2.10 s-maxage is for shared ones"),
        pytest.param("", "stale-while-revalidate=30", 130, REFRESH, id="5861-3 within"),
        pytest.param("", "stale-while-revalidate=30", 131, VALIDATE, id="5861-3 past"),
        pytest.param("", "stale-while-revalidate=x", 101, VALIDATE, id="5861-3 no number"),
        pytest.param("no-cache", "stale-while-revalidate=30", 101, VALIDATE, id="5861-3 not against the request"),
        pytest.param("", "stale-while-revalidate=30, must-revalidate", 101, VALIDATE, id="5861-3 not against itself"),
        pytest.param("max-age=0", "immutable", 50, FRESH, id="8246-2 immutable, reloaded"),
        pytest.param("max-age=0", "immutable", 100, VALIDATE, id="8246-2 immutable, not fresh any more"),
        pytest.param("no-cache", "immutable", 50, VALIDATE, id="8246-2 immutable, forced"),
    ],
)
def test_what_is_done_with_a_kept_answer(request_says: str, answer_says: str, age: float, expected: Use) -> None:
    """Sections 4, 5.2.1 and 5.2.2."""
    request = fields(*([CC + request_says] if request_says else []))
    answer = fields(*([CC + answer_says] if answer_says else []))
    assert use(request, answer, 100, age) is expected


@pytest.mark.parametrize("said", ["proxy-revalidate", "s-maxage=100", "must-revalidate"])
def test_what_a_shared_cache_never_gives_stale(said: str) -> None:
    """Sections 5.2.2.2, 5.2.2.8, 5.2.2.10."""
    assert use(fields(CC + "max-stale"), fields(CC + said), 100, 101, shared=True) is Use.VALIDATE


def test_pragma_of_a_request_asks_the_server() -> None:
    """Section 5.4."""
    assert use(fields("pragma: no-cache"), fields(), 100, 0) is Use.VALIDATE


@pytest.mark.parametrize(
    ("request_says", "answer_says", "age", "default", "given_instead"),
    [  # the lifetime is 100 seconds
        pytest.param("", "stale-if-error=50", 150, 0, True, id="4 within"),
        pytest.param("", "stale-if-error=50", 151, 0, False, id="4 past"),
        pytest.param("stale-if-error=50", "", 150, 0, True, id="4 the request says so"),
        pytest.param("stale-if-error=90", "stale-if-error=50", 151, 0, True, id="4 both: either"),
        pytest.param("", "", 101, 0, False, id="4.2.4 nobody allows it"),
        pytest.param("", "", 150, 50, True, id="the program allows it"),
        pytest.param("", "", 151, 50, False, id="the program allows less"),
        pytest.param("", "stale-if-error=10", 150, 50, False, id="the server counts before the program"),
        pytest.param("", "stale-if-error=50, must-revalidate", 101, 0, False, id="9111-5.2.2.2 must-revalidate"),
        pytest.param("", "stale-if-error=50, no-cache", 101, 0, False, id="9111-5.2.2.4 no-cache"),
        pytest.param("no-cache", "stale-if-error=50", 101, 0, False, id="9111-5.2.1.4 no-cache of the request"),
        pytest.param("max-age=0", "stale-if-error=50", 101, 0, True, id="4 max-age of the request does not matter"),
    ],
)
def test_an_old_answer_for_a_failure(
    request_says: str, answer_says: str, age: float, default: float, given_instead: bool
) -> None:
    """RFC 5861 section 4."""
    request = fields(*([CC + request_says] if request_says else []))
    answer = fields(*([CC + answer_says] if answer_says else []))
    assert may_replace_failure(request, answer, 100, age, default=default) is given_instead


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        pytest.param([], (), id="4.1 none"),
        pytest.param(["vary: Accept, ACCEPT-language"], ("accept", "accept-language"), id="4.1 in any case"),
        pytest.param(["vary: b", "vary: a,b"], ("a", "b"), id="9110-5.3 several lines"),
        pytest.param(["vary: *"], None, id="4.1 anything"),
        pytest.param(["vary: accept, *"], None, id="4.1 anything, in a list"),
    ],
)
def test_vary(lines: list[str], names: tuple[str, ...] | None) -> None:
    """Section 4.1: which headers."""
    assert vary_names(fields(*lines)) == names


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        pytest.param(["accept: a, b"], ["accept: a,b"], True, id="4.1 blanks"),
        pytest.param(["accept: a", "accept: b"], ["accept: a, b"], True, id="4.1 lines joined"),
        pytest.param(["accept: a, b"], ["accept: b, a"], False, id="4.1 the order may matter"),
        pytest.param(["accept: a"], ["accept: A"], False, id="4.1 the case may matter"),
        pytest.param([], [], True, id="4.1 absent in both"),
        pytest.param([], ["accept:"], False, id="4.1 absent is not empty"),
    ],
)
def test_when_headers_are_the_same(one: list[str], other: list[str], same: bool) -> None:
    """Section 4.1: what a cache may regard as equal."""
    values = [vary_value(fields(*lines).get_all("accept")) for lines in (one, other)]
    assert (values[0] == values[1]) is same


def test_fields_without_end_are_not_read() -> None:
    """A hostile server keeps nobody busy with each request for what it once answered."""
    assert directives(fields("cache-control: " + "a," * 2040 + "max-age=5"))["max-age"] == "5"
    assert directives(fields("cache-control: max-age=5" + ",a" * 30_000)) == {"no-store": None}
    assert len(vary_names(fields("vary: " + ",".join(f"a{number}" for number in range(64)))) or ()) == 64
    assert vary_names(fields("vary: " + ",".join(f"a{number}" for number in range(65)))) is None


def test_secrets_tell_apart_and_are_not_kept() -> None:
    """Neither as who it is for, nor in what it varies by."""
    one, other = fields("authorization: Bearer s3cret"), fields("authorization: Bearer other")
    assert owner_of(one) != owner_of(other) != owner_of(fields()) == ""
    assert varying_of(one, ["authorization"]) != varying_of(other, ["authorization"])
    assert "s3cret" not in repr([owner_of(one), varying_of(one, ["authorization"])])


@pytest.mark.parametrize(
    ("kept", "new", "same"),
    [
        pytest.param(['etag: "a"'], ['etag: "a"'], True, id="4.3.4 strong"),
        pytest.param(['etag: "a"'], ['etag: "b"'], False, id="4.3.4 another one"),
        pytest.param(['etag: W/"a"'], ['etag: "a"'], True, id="9110-8.8.3.2 weak comparison"),
        pytest.param([], ['etag: "a"'], False, id="4.3.4 a tag that is not kept"),
        pytest.param(['etag: "a"'], [], True, id="4.3.4 says nothing"),
        pytest.param([f"last-modified: {date()}"], [f"last-modified: {date()}"], True, id="4.3.4 date"),
        pytest.param([f"last-modified: {date()}"], [f"last-modified: {date(1)}"], False, id="4.3.4 another date"),
        pytest.param(
            ['etag: "a"', f"last-modified: {date()}"], ['etag: "a"', f"last-modified: {date(1)}"], True, id="tag first"
        ),
    ],
)
def test_what_a_304_is_about(kept: list[str], new: list[str], same: bool) -> None:
    """Sections 4.3.4 and 4.3.5."""
    assert same_representation(fields(*kept), fields(*new)) is same


def test_a_304_brings_headers_up_to_date() -> None:
    """Section 3.2: its headers replace those of their names, all lines of them; what describes the content stays."""
    kept = [(b"X-Old", b"1"), (b"x-two", b"a"), (b"x-two", b"b"), (b"content-length", b"5"), (b"age", b"9")]
    kept += [(b"content-encoding", b"gzip"), (b"content-type", b"text/plain")]
    new = [(b"x-old", b"2"), (b"X-Two", b"c"), (b"content-length", b"0"), (b"connection", b"x-hop"), (b"x-hop", b"1")]
    new += [(b"content-encoding", b"br"), (b"x-new", b"1")]
    assert sorted(merged(kept, new)) == sorted(
        [
            (b"content-length", b"5"),
            (b"content-encoding", b"gzip"),
            (b"content-type", b"text/plain"),
            (b"x-old", b"2"),
            (b"X-Two", b"c"),
            (b"x-new", b"1"),
        ]
    )


def test_headers_of_a_connection_are_not_kept() -> None:
    """Section 3.1, and RFC 9110 section 7.6.1."""
    pairs = [(b"Connection", b"close, X-Hop"), (b"x-hop", b"1"), (b"Transfer-Encoding", b"chunked"), (b"etag", b'"a"')]
    pairs += [(b"proxy-authenticate", b"Basic"), (b"keep-alive", b"5"), (b"upgrade", b"h2c"), (b"x-other", b"2")]
    assert kept_headers(pairs) == [(b"etag", b'"a"'), (b"x-other", b"2")]


def test_conditions_are_made_of_validators() -> None:
    """Section 4.3.1: of both."""
    answer = fields('etag: W/"a"', f"last-modified: {date()}")
    assert validators(answer) == [("if-none-match", 'W/"a"'), ("if-modified-since", date())]
    assert validators(fields()) == []


@given(st.lists(st.text(alphabet='abc-=,"\\ \t5', max_size=40), max_size=4))
def test_any_cache_control_is_read(values: list[str]) -> None:
    """Nothing raises, names are tokens in lower case, and the same text always means the same."""
    headers = Headers([(b"cache-control", value.encode()) for value in values])
    found = directives(headers)
    assert all(name and name == name.lower() and not set(name) & set(' \t,="\\') for name in found)
    assert directives(headers) == found


@given(
    st.lists(st.sampled_from(["no-store", "no-cache", "private", "public", "max-age=7", 'x="a,b"', "y=1"]), max_size=6)
)
def test_well_formed_directives_are_all_found(names: list[str]) -> None:
    """Whichever come together, in one line or in several."""
    expected = {name.partition("=")[0] for name in names}
    together = Headers([(b"cache-control", ", ".join(names).encode())] if names else [])
    apart = Headers([(b"Cache-Control", name.encode()) for name in names])
    assert set(directives(together)) == set(directives(apart)) == expected


@given(
    st.integers(0, 200),
    st.integers(0, 400),
    st.sampled_from(["", "no-cache", "max-age=50", "min-fresh=20", "max-stale=30"]),
)
def test_older_answers_are_never_given_rather(life: int, age: int, said: str) -> None:
    """What may not be given at some age may not be given later either."""
    request, answer = fields(*([CC + said] if said else [])), fields()
    if use(request, answer, life, age) is Use.VALIDATE:
        assert use(request, answer, life, age + 1) is Use.VALIDATE
