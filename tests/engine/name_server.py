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
        self.status = 0  # of every answer, when not 0
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
        found = [
            (packed, ttl)
            for text, ttl in self.records.get(name, ())
            if len(packed := ip_address(text).packed) == (4 if kind == 1 else 16)
        ]
        status = self.status or (NXDOMAIN if name not in self.records else 0)
        answers = [] if status else found
        head = struct.pack("!6H", number, 0x8180 | status, 1, len(answers), 0, 0)
        body = b"".join(struct.pack("!HHHIH", 0xC00C, kind, 1, ttl, len(packed)) + packed for packed, ttl in answers)
        datagram.reply(head + question + body)
