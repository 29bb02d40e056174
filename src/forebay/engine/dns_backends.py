"""Who is asked for the addresses of a name: the system, or the name servers themselves."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol, cast

from forebay.engine.dns_settings import DNSSettings, LookupFailed
from forebay.engine.happy_eyeballs import AddressInfo
from forebay.errors import MissingExtra

__all__ = ["Backend", "NameServers", "System", "numeric"]

Found = tuple[Sequence[AddressInfo], float | None]
"""Addresses, with any port, and how many seconds they are good for; ``None``: that is not known."""

_UNKNOWN = "its host name is not known"
_TRIES = 3
_MOST_THREADS = 16


class Backend(Protocol):
    """Finds addresses."""

    async def find(self, host: str) -> Found:
        """The addresses of ``host``.

        :raises LookupFailed: there are none.
        """

    async def close(self) -> None:
        """End what is under way."""


def numeric(host: str, port: int) -> list[AddressInfo]:
    """The address that ``host`` is already; empty: it is a name."""
    try:
        found: Any = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return []
    return cast("list[AddressInfo]", found)


class System:
    """``getaddrinfo``: ``/etc/hosts``, and whatever else this machine is told to look into.

    Each lookup has a thread, of which there are at most 16; further ones wait for their turn. They are not the loop's:
    nobody can end one that hangs, and it should hold up neither other work nor the end of the program.
    """

    __slots__ = ("_loop", "_threads")

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads = asyncio.Semaphore(_MOST_THREADS)

    async def find(self, host: str) -> Found:
        """See :class:`Backend`."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            self._threads = asyncio.Semaphore(_MOST_THREADS)
        threads = self._threads
        await threads.acquire()
        answer: asyncio.Future[Any] = loop.create_future()

        def ask() -> None:
            found: Any = None
            error: Exception | None = None
            try:
                found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
            except Exception as raised:  # whoever waits is told
                error = raised
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(answered, found, error)

        def answered(found: Any, error: Exception | None) -> None:
            threads.release()
            if answer.done():
                return  # nobody waits any more
            if error is None:
                answer.set_result(found)
            else:
                answer.set_exception(error)

        try:
            threading.Thread(target=ask, name="forebay-dns", daemon=True).start()
        except RuntimeError as error:
            threads.release()
            raise LookupFailed(f"its host name could not be looked up: {error}") from error
        try:
            found: Any = await answer
        except socket.gaierror as error:
            if error.errno in (socket.EAI_NONAME, socket.EAI_NODATA):
                raise LookupFailed(_UNKNOWN, unknown=True) from error
            why = (error.strerror or "it does not say why").lower()
            raise LookupFailed(f"its host name could not be looked up: {why}") from error
        except UnicodeError as error:  # what no name can be encoded to
            raise LookupFailed("its host name is none", unknown=True) from error
        return found, None

    async def close(self) -> None:
        """See :class:`Backend`. Threads cannot be ended; what they find is not missed."""


class NameServers:
    """DNS, by the package aiodns: the answers have TTLs. ``/etc/hosts`` comes first, as everywhere.

    :raises MissingExtra: that is not installed.
    """

    __slots__ = ("_aiodns", "_loop", "_resolver", "_settings")

    def __init__(self, settings: DNSSettings) -> None:
        try:
            import aiodns
        except ImportError:
            raise MissingExtra("dns", "DNSSettings(backend='dns')") from None
        self._aiodns: Any = aiodns
        self._settings = settings
        self._resolver: Any = None  # aiodns.DNSResolver, which belongs to a loop
        self._loop: asyncio.AbstractEventLoop | None = None

    async def find(self, host: str) -> Found:
        """See :class:`Backend`."""
        if self._loop is not asyncio.get_running_loop():
            await self.close()
            self._loop = asyncio.get_running_loop()
            self._resolver = self._aiodns.DNSResolver(
                nameservers=self._settings.nameservers or None, timeout=self._settings.timeout / _TRIES, tries=_TRIES
            )
        try:
            answer = await self._resolver.getaddrinfo(host, family=socket.AF_UNSPEC, type=socket.SOCK_STREAM)
        except self._aiodns.error.DNSError as error:
            raise _explained(error, self._aiodns.error) from error
        except UnicodeError as error:
            raise LookupFailed("its host name is none", unknown=True) from error
        found: list[AddressInfo] = []
        for node in answer.nodes:
            address, *rest = node.addr
            where = (address.decode("ascii"), *rest)
            found.append((socket.AddressFamily(node.family), socket.SOCK_STREAM, socket.IPPROTO_TCP, "", where))
        if not found:
            raise LookupFailed(_UNKNOWN, unknown=True)
        return found, float(min(record.ttl for record in (*answer.nodes, *answer.cnames)))

    async def close(self) -> None:
        """See :class:`Backend`."""
        resolver, self._resolver, self._loop = self._resolver, None, None
        if resolver is not None:
            await resolver.close()


def _explained(error: Exception, codes: Any) -> LookupFailed:
    code = error.args[0] if error.args else None
    if code in (codes.ARES_ENOTFOUND, codes.ARES_ENODATA, codes.ARES_ENONAME):
        return LookupFailed(_UNKNOWN, unknown=True)
    if code == codes.ARES_EBADNAME:
        return LookupFailed("its host name is none", unknown=True)
    if code == codes.ARES_ETIMEOUT:
        return LookupFailed("the name server does not answer", timed_out=True)
    why = str(error.args[1]).lower() if len(error.args) > 1 else "it does not say why"
    return LookupFailed(f"its host name could not be looked up: {why}")
