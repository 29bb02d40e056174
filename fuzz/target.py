"""What is fuzzed: a target, the inputs it is given, and what it says of a disagreement."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from hypothesis.strategies import SearchStrategy

LONGEST = 2048
"""Bytes of the longest input."""

_CUTS = 7  # at most


class Disagreement(AssertionError):
    """Two readings of the same bytes differ, and no reason permits it."""


@dataclass(frozen=True, slots=True)
class Target:
    """Something to fuzz.

    :param module: its own module, from which the coverage-guided engine imports it as ``TARGET``.
    :param check: given any input; returns the names of the reasons that permit what differs. Whatever it raises is a
        finding.
    :param inputs: of hypothesis: inputs that are right, nearly right, and wrong.
    :param seeds: inputs to begin with, each near something that matters.
    :param words: pieces that matter, for an engine that knows no grammar.
    """

    module: str
    check: Callable[[bytes], Iterable[str]]
    inputs: SearchStrategy[bytes]
    seeds: Callable[[], Sequence[bytes]]
    words: Sequence[bytes]


def encode(flags: int, places: Sequence[int], stream: bytes) -> bytes:
    """An input: ``flags`` (0 to 31), where the stream is cut (at most seven places), and the stream."""
    places = places[:_CUTS]
    return bytes([flags << 3 | len(places)]) + b"".join(place.to_bytes(2, "big") for place in places) + stream


def decode(data: bytes) -> tuple[int, list[bytes]]:
    """Any bytes as flags and a stream in pieces, none of them empty."""
    first = data[0] if data else 0
    begin = min(1 + 2 * (first & _CUTS), len(data))
    encoded, stream = data[1:begin], data[begin:LONGEST]
    places = [int.from_bytes(encoded[at : at + 2], "big") for at in range(0, len(encoded) - 1, 2)]
    bounds = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    return first >> 3, [stream[start:end] for start, end in itertools.pairwise(bounds)]


def byte_by_byte(stream: bytes) -> list[bytes]:
    """The stream in the smallest pieces."""
    return [stream[at : at + 1] for at in range(len(stream))]
