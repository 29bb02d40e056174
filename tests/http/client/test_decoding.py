"""Undoing content codings: what comes out, and what bombs, cuts and lies come to."""

from __future__ import annotations

import bz2
import gzip
import random
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import pairwise, repeat
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from forebay.errors import ContentTooLarge, ContentUndecodable, MissingExtra
from forebay.http.client import decoding
from forebay.http.client.decoding import accepted_codings, content_decoder

brotli: Any = import_module("brotli")  # it has no types

MIB = 1024 * 1024
PLENTY = 1 << 50


def raw_deflate(data: bytes) -> bytes:
    made = zlib.compressobj(wbits=-15)
    return made.compress(data) + made.flush()


ENCODERS: dict[str, list[Callable[[bytes], bytes]]] = {
    "gzip": [gzip.compress, lambda data: gzip.compress(data[:7]) + gzip.compress(data[7:])],
    "x-gzip": [gzip.compress],
    "deflate": [zlib.compress, raw_deflate],
    "br": [brotli.compress],
    "zstd": [
        zstandard.compress,
        lambda data: zstandard.compress(data[:7]) + b"\x50\x2a\x4d\x18\x03\0\0\0abc" + zstandard.compress(data[7:]),
    ],
    "identity": [lambda data: data],
}


def decode(codings: str, pieces: list[bytes], limit: int = PLENTY) -> bytes:
    """All of a content; each piece of it within its bounds."""
    decoder = content_decoder(codings, limit)
    if decoder is None:
        return b"".join(pieces)
    content = b""
    for data in pieces:
        for piece in decoder.feed(data):
            assert len(piece) <= 65536
            content += piece
    decoder.finish()
    return content


def cut(data: bytes, places: list[int]) -> list[bytes]:
    bounds = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in pairwise(bounds)]


@given(
    st.data(), st.binary(max_size=300) | st.builds(lambda b, n: b * n, st.binary(max_size=5), st.integers(0, 60_000))
)
def test_any_content_through_any_codings_cut_anywhere(data: st.DataObject, content: bytes) -> None:
    """Up to four codings on top of each other, in any spelling, with blanks and empty elements."""
    encoded, names = content, []
    for name in data.draw(st.lists(st.sampled_from(list(ENCODERS)), max_size=4)):
        encoded = data.draw(st.sampled_from(ENCODERS[name]))(encoded)
        names.append(data.draw(st.sampled_from([name, name.upper(), f" {name}\t", f",{name}"])))
    places = data.draw(st.lists(st.integers(0, 1 << 16), max_size=9))
    assert decode(",".join(names), cut(encoded, places)) == content


@pytest.mark.parametrize("name", ENCODERS)
def test_byte_by_byte(name: str) -> None:
    """The smallest pieces there are."""
    content = bytes(range(256)) * 30
    for encode in ENCODERS[name]:
        assert decode(name, cut(encode(content), list(range(20_000)))) == content


@pytest.mark.parametrize("name", ["gzip", "deflate", "br", "zstd"])
def test_content_that_ends_too_early_is_refused(name: str) -> None:
    """At every byte but none at all and the last one, and not before: what came of it is given."""
    for encode in ENCODERS[name]:
        content = b"some content, some content" * 3
        encoded = encode(content)
        between: set[int] = set()  # members or frames, of which one may be the last
        if encode is ENCODERS["gzip"][-1]:
            between = {len(gzip.compress(content[:7]))}
        elif encode is ENCODERS["zstd"][-1]:
            between = {len(zstandard.compress(content[:7])), len(zstandard.compress(content[:7])) + 11}
        for size in range(1, len(encoded)):
            if size in between:
                assert content.startswith(decode(name, [encoded[:size]]))
                continue
            with pytest.raises(ContentUndecodable, match=f"ended before its {name} coding"):
                decode(name, [encoded[:size]])
    assert decode(name, []) == decode(name, [b""]) == b"", "no content at all"


@pytest.mark.parametrize("name", ["gzip", "deflate", "br", "zstd"])
@pytest.mark.parametrize("apart", [False, True])
def test_bytes_behind_the_end_are_refused(name: str, apart: bool) -> None:
    """Whether they come with it or later."""
    for encode in ENCODERS[name]:
        encoded = encode(b"abc" * 100)
        with pytest.raises(ContentUndecodable, match=f"{name} coding"):
            decode(name, [encoded, b"rest"] if apart else [encoded + b"rest"])


@pytest.mark.parametrize("name", ["gzip", "deflate", "br", "zstd"])
def test_what_is_not_encoded_is_refused(name: str) -> None:
    """Other content, and content that was changed on its way."""
    for wrong in (b"<html>not encoded at all</html>", b"\xff" * 40, bz2.compress(b"abc")):
        with pytest.raises(ContentUndecodable, match=name):
            decode(name, [wrong])
    if name != "br":  # which has no checksum
        encoded = bytearray(ENCODERS[name][0](b"abcdefgh" * 50))
        encoded[-1] ^= 1
        if name != "zstd":  # nor has this one, unless it is asked for
            with pytest.raises(ContentUndecodable, match=name):
                decode(name, [bytes(encoded)])


@given(
    st.sampled_from(["gzip", "deflate", "br", "zstd", "gzip, br", "zstd, deflate"]), st.lists(st.binary(), max_size=5)
)
def test_any_bytes_are_content_or_undecodable(codings: str, pieces: list[bytes]) -> None:
    """Nothing but ContentUndecodable leaves a decoder, whatever is fed."""
    try:
        decode(codings, pieces)
    except ContentUndecodable:
        return


@given(st.sampled_from(["gzip", "deflate", "br", "zstd"]), st.data())
def test_changed_content_is_content_or_undecodable(name: str, data: st.DataObject) -> None:
    """The same, where most of it is right."""
    encoded = bytearray(data.draw(st.sampled_from(ENCODERS[name]))(bytes(range(100)) * 9))
    for place in data.draw(st.lists(st.integers(0, len(encoded) - 1), min_size=1, max_size=3)):
        encoded[place] = data.draw(st.integers(0, 255))
    try:
        decode(name, cut(bytes(encoded), data.draw(st.lists(st.integers(0, 1000), max_size=3))))
    except ContentUndecodable:
        return


def test_which_codings_there_are() -> None:
    """Nothing to undo gives no decoder; what is unknown is named, and so is what is too much."""
    assert content_decoder("", 1) is content_decoder("identity, ,Identity", 1) is None
    for codings in ("compress", "gzip, rot13", "gzip;q=1", "\u00e9"):
        with pytest.raises(ContentUndecodable, match=r"is unknown: gzip, deflate, br, zstd can be undone"):
            content_decoder(codings, 1)
    with pytest.raises(ContentUndecodable, match="5 codings on top of each other: at most 4"):
        content_decoder("gzip, gzip, br, br, gzip", 1)
    assert accepted_codings() == "gzip, deflate, br, zstd"


@pytest.mark.parametrize(("name", "package"), [("br", "brotli"), ("zstd", "zstandard")])
def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, name: str, package: str) -> None:
    """Its coding is not asked for, and named with its extra when it comes all the same; the others are undone."""

    def without(module: str) -> Any:
        if module == package:
            raise ImportError(module)
        return {"brotli": brotli, "zstandard": zstandard}[module]

    monkeypatch.setattr(decoding, "import_module", without)
    decoding._package.cache_clear()
    try:
        assert name not in accepted_codings().split(", ")
        assert len(accepted_codings().split(", ")) == 3
        with pytest.raises(MissingExtra, match=r"content coding .* needs an extra: .*compression"):
            content_decoder(f"gzip, {name}", 1)
        assert decode("gzip", [gzip.compress(b"abc")]) == b"abc"
    finally:
        decoding._package.cache_clear()


def test_a_brotli_that_cannot_be_bounded_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 1.2 a few bytes could become gigabytes at once."""

    class Old:
        class Decompressor:
            process = is_finished = None

    monkeypatch.setattr(decoding, "import_module", lambda module: Old)
    decoding._package.cache_clear()
    try:
        assert accepted_codings() == "gzip, deflate, zstd"
    finally:
        decoding._package.cache_clear()


# -- bombs


def gzip_bomb(size: int) -> Iterator[bytes]:
    """One megabyte of zeros after the other: after a full flush, what one becomes can be sent again and again."""
    made = zlib.compressobj(9, wbits=-15)
    head = gzip.compress(b"")[:10]
    once = made.compress(bytes(MIB)) + made.flush(zlib.Z_FULL_FLUSH)
    yield head
    yield from repeat(once, size // MIB)


def deflate_bomb(size: int) -> Iterator[bytes]:
    yield from list(gzip_bomb(MIB))[1:] * (size // MIB)


def brotli_bomb(size: int) -> Iterator[bytes]:
    made = brotli.Compressor(quality=5, lgwin=24)
    yield b"".join([*(made.process(bytes(MIB)) for _ in range(size // MIB)), made.finish()])


def zstd_bomb(size: int) -> Iterator[bytes]:
    """Of the largest window, in blocks that are one byte repeated: four bytes become 128 KiB."""
    yield b"\x28\xb5\x2f\xfd\x00\x68"
    block = ((128 * 1024) << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    yield from repeat(block * 16384, size // (128 * 1024 * 16384))


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize(
    ("codings", "bomb", "size"),
    [
        ("gzip", gzip_bomb, 10 << 30),
        ("deflate", deflate_bomb, 10 << 30),
        ("br", brotli_bomb, 1 << 30),
        ("zstd", zstd_bomb, 10 << 30),
    ],
)
def test_a_bomb_stays_within_its_limit_memory_and_time(
    codings: str, bomb: Callable[[int], Iterator[bytes]], size: int
) -> None:
    """As much as the limit is given, piece by piece, and then it ends: no sooner, and not much later."""
    limit = 512 * MIB
    pieces = list(bomb(size))
    decoder = content_decoder(codings, limit)
    assert decoder is not None
    given, peak, fed = 0, 0, 0
    before = resident()
    start = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(ContentTooLarge, match=f"longer than {limit} bytes"):
            for data in pieces:
                fed += len(data)
                for number, piece in enumerate(decoder.feed(data)):
                    assert 0 < len(piece) <= 65536
                    given += len(piece)
                    if not number % 64:
                        peak = max(peak, resident())
        traced = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert limit - 65536 < given <= limit
    assert traced < 20 * MIB
    assert peak - before < 20 * MIB
    assert time.process_time() - start < 20


def test_a_zstd_window_past_eight_mebibytes_is_refused() -> None:
    """RFC 9659 section 3: before anything of it takes memory."""
    for power, fits in ((23, True), (24, False), (27, False)):
        made = zstandard.ZstdCompressor(
            compression_params=zstandard.ZstdCompressionParameters.from_level(3, window_log=power)
        ).compressobj()
        encoded = made.compress(bytes(20 * MIB)) + made.flush()
        if fits:
            assert decode("zstd", [encoded]) == bytes(20 * MIB)
        else:
            with pytest.raises(ContentUndecodable, match="too much memory"):
                decode("zstd", [encoded])


def test_a_bomb_within_a_coding_that_shows_nothing_is_bounded() -> None:
    """Gigabytes of empty members between two codings, of which nothing comes out: whoever takes the pieces gets a turn
    for each 64 KiB, and what goes through in between is bounded as well."""
    empty = gzip.compress(b"", mtime=0)
    made = zlib.compressobj(9, wbits=31)
    once = b"".join([*(made.compress(empty * 50_000) for _ in range(20)), made.flush()])
    decoder = content_decoder("gzip, gzip", 10 * MIB)
    assert decoder is not None
    turns = 0
    with pytest.raises(ContentTooLarge):
        for piece in decoder.feed(once):
            assert piece == b""
            turns += 1
    assert turns >= 10 * MIB // 65536


def test_the_limit_is_met_exactly() -> None:
    """That many bytes are content, one more is too much."""
    for name in ("gzip", "deflate", "br", "zstd"):
        encoded = ENCODERS[name][0](bytes(100_000))
        assert decode(name, [encoded], 100_000) == bytes(100_000)
        with pytest.raises(ContentTooLarge):
            decode(name, [encoded], 99_999)
    assert decode("gzip", [gzip.compress(b"")], 0) == b""


@pytest.mark.parametrize("name", ["gzip", "br", "zstd"])
def test_pieces_are_not_many_more_than_what_came(name: str) -> None:
    """Content that does not become longer comes in pieces as large as those that were fed, or those of 16 KiB."""
    content = random.Random(1).randbytes(1_000_000)
    encoded = ENCODERS[name][0](content)
    decoder = content_decoder(name, len(content))
    assert decoder is not None
    pieces = [piece for at in range(0, len(encoded), 65536) for piece in decoder.feed(encoded[at : at + 65536])]
    assert b"".join(pieces) == content
    assert len(pieces) <= 150


def test_pieces_are_made_when_they_are_taken() -> None:
    """Gigabytes that nobody asks for costs nothing."""
    decoder = content_decoder("gzip", PLENTY)
    assert decoder is not None
    bomb = b"".join(gzip_bomb(4 << 30))
    start = time.process_time()
    pieces = decoder.feed(bomb)
    for _ in range(3):
        assert len(next(pieces)) == 65536
    assert time.process_time() - start < 0.5
