"""Accept and Accept-Encoding: what a client prefers, beside a plain reading of RFC 9110 section 12.5."""

from __future__ import annotations

import time
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.http.negotiation import best_coding, best_of, wants_msgpack

JSON, PACK, HTML, PLAIN = "application/json", "application/msgpack", "text/html", "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    ("accept", "offers", "expected"),
    [
        (None, [JSON, PACK], JSON),
        (b"", [JSON, PACK], JSON),
        (b"*/*", [JSON, PACK], JSON),
        (b"application/*", [JSON, PACK], JSON),
        (b"application/msgpack", [JSON, PACK], PACK),
        (b"APPLICATION/MsgPack", [JSON, PACK], PACK),
        (b"application/json, application/msgpack", [JSON, PACK], JSON),
        (b"application/json;q=0.9,application/msgpack", [JSON, PACK], PACK),
        (b"*/*;q=0.1, application/msgpack;q=0.2", [JSON, PACK], PACK),
        (b"*/*, application/json;q=0.5", [JSON, PACK], PACK),
        (b"application/*;q=0.5, */*", [JSON, HTML], HTML),
        (b"application/json;q=0", [JSON], None),
        (b"text/html", [JSON, PACK], None),
        (b"text/html, */*;q=0", [JSON], None),
        (b"text/plain;charset=utf-8;q=0.1, text/plain", [PLAIN, HTML], PLAIN),
        (b'text/plain;charset="UTF-8";q=0, text/*', [PLAIN, HTML], HTML),
        (b"text/plain;format=flowed", [PLAIN], None),
        (b'text/plain;a="x,y;q=0", text/html;q=0.5', [PLAIN, HTML], HTML),
        (b"application/json;q=2, text/html;q=0.1", [JSON, HTML], HTML),
        (b"application/json;q=0.1234, text/html;q=0.1", [JSON, HTML], HTML),
        (b"application/json;q=, nonsense, */json, ;;, text/html;q=0.001", [JSON, HTML], HTML),
        (b"nonsense", [JSON, PACK], JSON),
        (b"application/json ; q=0.5 ; ext=1, text/html;q=1.000", [JSON, HTML], HTML),
        (b"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8", [JSON, PACK], JSON),
        (b"*/*", [], None),
        (None, [], None),
    ],
)
def test_the_best_of_media_types(accept: bytes | None, offers: list[str], expected: str | None) -> None:
    """Weights, specificity, wildcards, parameters, and what is not well-formed."""
    assert best_of(accept, offers) == expected


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, False),
        (b"*/*", False),
        (b"application/json", False),
        (b"text/html", False),
        (b"application/msgpack, application/json", False),
        (b"application/msgpack, */*;q=0.9", True),
        (b"Application/MSGPACK", True),
        (b"application/x-msgpack, application/json;q=0.5", True),
        (b"application/*, application/json;q=0.5", False),
        (b"application/msgpack;q=0", False),
    ],
)
def test_who_wants_msgpack(accept: bytes | None, expected: bool) -> None:
    """Only who prefers it to JSON."""
    assert wants_msgpack(accept) is expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, "identity"),
        (b"", "identity"),
        (b"gzip", "gzip"),
        (b"gzip, deflate, br, zstd", "zstd"),
        (b"gzip, br", "br"),
        (b"gzip;q=1, br;q=0.5", "gzip"),
        (b"X-GZIP", "gzip"),
        (b"*", "zstd"),
        (b"*, zstd;q=0", "br"),
        (b"*;q=0", None),
        (b"*;q=0, identity", "identity"),
        (b"*;q=0, gzip;q=0.1", "gzip"),
        (b"identity;q=0", None),
        (b"identity;q=0, gzip", "gzip"),
        (b"identity, gzip;q=0.5", "identity"),
        (b"identity;q=0.5, gzip;q=0.5", "gzip"),
        (b"deflate", "identity"),
        (b"gzip;q=0", "identity"),
        (b"gzip;q=x", "identity"),
        (b"gzip;a=b", "identity"),
        (b"gz ip, br", "br"),
    ],
)
def test_the_best_coding(header: bytes | None, expected: str | None) -> None:
    """Weights, the wildcard, and when ``identity`` is left or excluded."""
    assert best_coding(header, ["zstd", "br", "gzip"]) == expected


weights = st.sampled_from([None, "0", "1", "0.5", "0.50", "0.001", "1.000", "0."])


def reference(ranges: list[tuple[str, str | None]], offers: list[str]) -> str | None:
    """Plainly: the weight of each offer is that of its closest range."""
    if not ranges:
        return offers[0] if offers else None
    scored = []
    for offer in offers:
        kind = offer.split("/")[0]
        for closest in (offer, f"{kind}/*", "*/*"):
            found = [Decimal(1 if weight is None else weight) for name, weight in ranges if name == closest]
            if found:
                scored.append(found[0])
                break
        else:
            scored.append(Decimal(0))
    best = max(scored, default=Decimal(0))
    return offers[scored.index(best)] if best > 0 else None


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([JSON, PACK, HTML, "application/*", "text/*", "*/*"]), weights), max_size=6),
    st.lists(st.sampled_from([JSON, PACK, HTML, "a/c"]), unique=True),
    st.lists(st.sampled_from(["x", "a/b;q=2", "*/a", "a/b/c"]), max_size=3),
)  # fmt: skip
def test_beside_the_reference(ranges: list[tuple[str, str | None]], offers: list[str], broken: list[str]) -> None:
    """Any ranges and offers; broken elements change nothing."""
    written = [name if weight is None else f"{name};q={weight}" for name, weight in ranges]
    expected = reference(ranges, offers)
    assert best_of(", ".join(written).encode(), offers) == expected
    assert best_of(" ,".join(broken + written).encode(), offers) == expected


@settings(max_examples=500, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["gzip", "br", "zstd", "identity", "*", "x"]), weights), max_size=5))
def test_codings_beside_the_reference(listed: list[tuple[str, str | None]]) -> None:
    """Any list of codings."""
    header = ",".join(name if weight is None else f"{name};q={weight}" for name, weight in listed)
    table: dict[str, Decimal] = {}
    for name, weight in listed:
        table.setdefault(name, Decimal(1 if weight is None else weight))
    scores = {offer: table.get(offer, table.get("*", Decimal(0))) for offer in ("br", "gzip")}
    top = max(scores, key=lambda offer: scores[offer])
    identity = table.get("identity", Decimal(0) if table.get("*") == 0 else Decimal("0.0001"))
    if scores[top] > 0 and scores[top] >= identity:
        expected: str | None = top
    else:
        expected = "identity" if identity else None
    assert best_coding(header.encode(), ["br", "gzip"]) == expected


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=80) | st.text('a/*;q=,"\\ 01.', max_size=80).map(str.encode))
def test_any_bytes(value: bytes) -> None:
    """They never fail."""
    assert best_of(value, [JSON, PACK]) in (JSON, PACK, None)
    assert best_coding(value, ["gzip"]) in ("gzip", "identity", None)
    assert wants_msgpack(value) in (True, False)


@pytest.mark.parametrize("unit", [b"a/b;q=0.1,", b'"', b'"\\', b'a/b;c="\\"', b";", b" ", b"\t;", b'a/b;c="'])
def test_a_long_header_costs_little(unit: bytes) -> None:
    """A megabyte of anything is read in the time of the first few thousand bytes."""
    value = unit * (1_000_000 // len(unit))
    start = time.process_time()
    for _ in range(20):
        best_of(value, [JSON, PACK])
        best_coding(value, ["gzip"])
    assert time.process_time() - start < 2


def test_what_stands_behind_the_bound_does_not_count() -> None:
    """64 elements, and 4096 bytes; an element that is cut by it is left out."""
    assert best_of(b"a/b," * 63 + b"text/html", [JSON, HTML]) == HTML
    assert best_of(b"a/b," * 64 + b"text/html", [JSON, HTML]) is None
    assert best_of(b"a/b," + b" " * 4090 + b"text/html;q=1", [JSON, HTML]) is None


def test_an_offer_that_is_none() -> None:
    """It is the server's mistake."""
    with pytest.raises(ValueError, match="must be a media type"):
        best_of(b"a/b", ["json"])
