"""Every framing in several shapes, with messages it can express, and a slow and obvious reader to compare it with."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hypothesis import strategies as st

from forebay.errors import FramingError
from forebay.wire.framing import Delimited, Fixed, Framing, LengthPrefixed, Lines, Varint

SMALL = 40  # bytes: the maximum of the framings below, so that examples reach it


class Stop(Exception):
    """The reference met bytes that are not a message."""


@dataclass(frozen=True)
class Case:
    """One framing. ``extra`` is how many bytes beside a message of the maximum its decoder may hold."""

    name: str
    make: Callable[..., Framing]
    messages: st.SearchStrategy[Any]
    reference: Callable[[bytes], tuple[Any, int] | None]  # the first message and its frame's size; None: not complete
    extra: int
    binary: bool = True

    def __str__(self) -> str:
        return self.name


def lines_reference(strict: bool, text: bool) -> Callable[[bytes], tuple[Any, int] | None]:
    """Byte by byte."""

    def read(data: bytes) -> tuple[Any, int] | None:
        for size, byte in enumerate(data, 1):
            if byte != 10:
                continue
            line = data[: size - 1]
            ended = line.endswith(b"\r")
            line = line[:-1] if ended else line
            if len(line) > SMALL or (strict and not ended):
                raise Stop
            try:
                return (line.decode() if text else line), size
            except UnicodeDecodeError:
                raise Stop from None
        if len(data) - 1 > SMALL:
            raise Stop
        return None

    return read


def delimited_reference(delimiter: bytes) -> Callable[[bytes], tuple[Any, int] | None]:
    """Byte by byte."""

    def read(data: bytes) -> tuple[Any, int] | None:
        for size in range(len(delimiter), len(data) + 1):
            if data[:size].endswith(delimiter):
                if size - len(delimiter) > SMALL:
                    raise Stop
                return data[: size - len(delimiter)], size
        if len(data) - len(delimiter) + 1 > SMALL:
            raise Stop
        return None

    return read


def fixed_reference(data: bytes) -> tuple[Any, int] | None:
    """Seven bytes."""
    return (data[:7], 7) if len(data) >= 7 else None


def prefixed_reference(
    width: int, byteorder: Literal["big", "little"], offset: int, add: int, strip: int
) -> Callable[[bytes], tuple[Any, int] | None]:
    """What Netty's documentation says: frame length = offset + width + adjustment + the length's value."""

    def read(data: bytes) -> tuple[Any, int] | None:
        if len(data) < offset + width:
            return None
        size = offset + width + add + int.from_bytes(data[offset : offset + width], byteorder)
        if size < offset + width or size - strip > SMALL:
            raise Stop
        return (data[strip:size], size) if len(data) >= size else None

    return read


def varint_reference(data: bytes) -> tuple[Any, int] | None:
    """By comparing with the only way to write each length there is."""
    for length in range(SMALL + 1):
        if data[:1] == bytes((length,)):
            return (data[1 : 1 + length], 1 + length) if len(data) > length else None
    if data:
        raise Stop
    return None


def prefixed(name: str, sizes: tuple[int, int] = (0, SMALL), *, add: int = 0, **options: Any) -> Case:
    """A length prefix whose messages have ``sizes``; ``add``: the adjustment, less the header when inclusive."""
    made = LengthPrefixed(maximum=SMALL, **options)
    message = st.binary(min_size=sizes[0], max_size=sizes[1])
    if made.strip < made.offset + made.width:  # what stands where the length goes does not matter: let it be right
        message = message.map(lambda raw: made.encode(raw)[made.strip :])
    reference = prefixed_reference(made.width, made.byteorder, made.offset, add, made.strip)
    return Case(name, lambda **views: LengthPrefixed(maximum=SMALL, **options, **views), message, reference, made.strip)


def without(delimiter: bytes) -> st.SearchStrategy[bytes]:
    """Messages that such a delimiter can end."""
    alphabet = st.sampled_from([*delimiter, *b"xy"])
    return st.lists(alphabet, max_size=SMALL).map(bytes).filter(lambda m: (m + delimiter).find(delimiter) == len(m))


TEXT = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=SMALL)
FITTING = TEXT.filter(lambda line: len(line.encode()) <= SMALL)
PLAIN = FITTING.filter(lambda line: not line.endswith("\r"))
RAW = st.binary(max_size=SMALL).filter(lambda line: b"\n" not in line)

CASES = [
    Case("lines", lambda: Lines(SMALL), PLAIN, lines_reference(False, True), 1, binary=False),
    Case("strict", lambda: Lines(SMALL, strict=True), FITTING, lines_reference(True, True), 1, binary=False),
    Case(
        "raw lines",
        lambda: Lines(SMALL, encoding=None),
        RAW.filter(lambda line: not line.endswith(b"\r")),
        lines_reference(False, False),
        1,
        binary=False,
    ),
    Case(
        "raw strict",
        lambda: Lines(SMALL, encoding=None, strict=True),
        RAW,
        lines_reference(True, False),
        1,
        binary=False,
    ),
    *(
        Case(
            f"delimited {delimiter!r}",
            lambda delimiter=delimiter, **views: Delimited(delimiter, SMALL, **views),
            without(delimiter),
            delimited_reference(delimiter),
            len(delimiter) - 1,
        )
        for delimiter in (b"\0", b"\r\n", b"aab", b"--END--")
    ),
    Case("fixed", lambda **views: Fixed(7, **views), st.binary(min_size=7, max_size=7), fixed_reference, 0),
    Case("varint", lambda **views: Varint(SMALL, **views), st.binary(max_size=SMALL), varint_reference, 1),
    *(prefixed(f"width {width} {order}", width=width, byteorder=order) for width in (1, 2, 3, 4, 8)
      for order in ("big", "little")),
    prefixed("inclusive", width=2, inclusive=True, add=-2),
    prefixed("adjusted", (1, SMALL), width=2, adjustment=1, add=1),
    prefixed("adjusted down", width=2, adjustment=-3, add=-3),
    prefixed("inclusive and adjusted", (5, SMALL), width=2, inclusive=True, adjustment=5, add=3),
    prefixed("offset", (5, SMALL), width=3, offset=2),
    prefixed("offset stripped", width=2, offset=3, strip=5),
    prefixed("part of the header", (3, SMALL), width=2, offset=2, strip=1, inclusive=True, add=-4),
    prefixed("header kept", (4, SMALL), width=4, byteorder="little", strip=0),
]  # fmt: skip


def read(framing: Framing, chunks: Sequence[bytes]) -> tuple[list[Any], FramingError | None]:
    """The messages in ``chunks``, and the error that ended them."""
    decoder = framing.decoder()
    messages: list[Any] = []
    for chunk in chunks:
        try:
            messages += decoder.feed(chunk)
        except FramingError as error:
            return messages, error
        if decoder.error is not None:
            return messages, decoder.error
    return messages, None


def read_slowly(case: Case, data: bytes) -> tuple[list[Any], bool, int]:
    """What the reference reads: messages, whether an error ended them, and the bytes that are left."""
    messages = []
    try:
        while data and (found := case.reference(data)) is not None:
            messages.append(found[0])
            data = data[found[1] :]
    except Stop:
        return messages, True, 0
    return messages, False, len(data)


def cut(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """``data`` in pieces, some of them empty."""
    edges = [0, *sorted(min(at, len(data)) for at in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]
