"""A name server for tests: answers what it is told to, late, wrongly, or not at all."""

from __future__ import annotations

import asyncio
import struct
from ipaddress import ip_address

from forebay.engine.datagram import UDPServer
from forebay.engine.datagram_stateless import Datagram

SERVFAIL, NXDOMAIN, REFUSED = 2, 3, 5


class NameServer:
    """``records`` has the addresses and TTLs of names; others are unknown. The rest says how it misbehaves."""

    def __init__(self) -> None:
        self.records: dict[str, list[tuple[str, int]]] = {}
        self.aliases: dict[str, tuple[str, int]] = {}  # names that stand for others, and TTLs
        self.status = 0  # of every answer, when not 0
        self.failing: int | None = None  # the type of records whose lookups fail: 1 (A) or 28 (AAAA)
        self.garbage: bytes | None = None  # sent in place of every answer, behind the id
        self.silent = False
        self.delay = 0.0
        self.asked: list[tuple[str, int]] = []  # names and types
        self.server = UDPServer(self._answer, bind="udp://127.0.0.1:0", stateless=True)

    @property
    def address(self) -> str:
        """For ``nameservers``."""
        return f"127.0.0.1:{self.server.addresses[0].port}"

    async def _answer(self, datagram: Datagram) -> None:
        request = bytes(datagram.data)
        number, _, _, _, _, _ = struct.unpack("!6H", request[:12])
        labels, at = [], 12
        while request[at]:
            labels.append(request[at + 1 : at + 1 + request[at]].decode().lower())
            at += 1 + request[at]
        (kind,) = struct.unpack("!H", request[at + 1 : at + 3])
        question = request[12 : at + 5]
        name = ".".join(labels)
        self.asked.append((name, kind))
        if self.delay:
            await asyncio.sleep(self.delay)
        if self.silent:
            return
        if self.garbage is not None:
            datagram.reply(struct.pack("!H", number) + self.garbage)
            return
        body = b""
        owner, count = struct.pack("!H", 0xC00C), 0
        if name in self.aliases:
            name, ttl = self.aliases[name]
            encoded = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
            body = owner + struct.pack("!HHIH", 5, 1, ttl, len(encoded)) + encoded
            owner, count = encoded, 1
        status = self.status or (NXDOMAIN if name not in self.records else 0)
        if self.failing == kind:
            status = SERVFAIL
        if status:
            body, count = b"", 0
        else:
            for text, ttl in self.records[name]:
                packed = ip_address(text).packed
                if len(packed) == (4 if kind == 1 else 16):
                    body += owner + struct.pack("!HHIH", kind, 1, ttl, len(packed)) + packed
                    count += 1
        head = struct.pack("!6H", number, 0x8180 | status, 1, count, 0, 0)
        datagram.reply(head + question + body)
