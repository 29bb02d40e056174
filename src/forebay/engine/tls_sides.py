"""The two ends of TLS: contexts made of the settings, which follow the files they come from, and their bounds."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Generic, Protocol, TypeVar

import structlog

from forebay.engine.certificates import Certificate, OwnCertificate, load_certificate, load_trusted
from forebay.engine.loop import now
from forebay.engine.tasks import Tasks
from forebay.engine.tls_settings import CIPHERS, TLS, ClientTLS
from forebay.errors import StartError

__all__ = ["ClientSide", "ClientTarget", "HandshakeGate", "ServerSide", "Side", "TLSStatistics", "client_side"]

log = structlog.get_logger("forebay.engine")

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_VERIFY = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


class Queued(Protocol):
    """Who waits at a :class:`HandshakeGate`."""

    def admitted(self) -> None:
        """It is its turn."""


class HandshakeGate:
    """Bounds the handshakes that are under way at once; the others wait, first come, first served."""

    __slots__ = ("_inside", "_queue", "limit", "waited")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.waited = 0  # how many had to wait, since the start
        self._inside: set[Queued] = set()
        self._queue: dict[Queued, None] = {}

    @property
    def in_progress(self) -> int:
        """Handshakes under way."""
        return len(self._inside)

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._queue)

    def enter(self, who: Queued) -> bool:
        """Whether it is their turn; else they are queued, and told by :meth:`Queued.admitted`."""
        if len(self._inside) < self.limit:
            self._inside.add(who)
            return True
        self.waited += 1
        self._queue[who] = None
        return False

    def leave(self, who: Queued) -> None:
        """Done, or gone while waiting. Idempotent."""
        self._queue.pop(who, None)
        if who not in self._inside:
            return
        self._inside.remove(who)
        if self._queue:
            following = next(iter(self._queue))
            del self._queue[following]
            self._inside.add(following)
            asyncio.get_running_loop().call_soon(following.admitted)  # not now: a thousand could follow each other


class TLSStatistics:
    """Counts since the start."""

    __slots__ = ("broken", "failed", "handshakes", "reloads", "reloads_failed", "resumed", "timed_out", "truncated")

    def __init__(self) -> None:
        self.handshakes = 0  # completed
        self.resumed = 0  # of these
        self.failed: Counter[str] = Counter()  # by what was wrong: see forebay.engine.tls_failures
        self.timed_out = 0
        self.broken = 0  # connections that ended by bytes that are not TLS, or by an alert
        self.truncated = 0  # connections that ended without TLS's own end
        self.reloads = 0
        self.reloads_failed = 0


class _Session(ssl.SSLObject):
    """One end of a connection; a server's knows the name that the client asked for."""

    server_name: str | None = None


class Side(Protocol):
    """What :class:`~forebay.engine.tls.TLSLayer` needs to know of the end that it is."""

    server_side: bool
    handshake_timeout: float
    gate: HandshakeGate
    counts: TLSStatistics

    def wrap(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        """A new handshake, by the newest context."""

    def keep(self, sslobj: ssl.SSLObject) -> bool:
        """Keep the session for the next handshake; whether there was one to be kept, or none will ever be."""

    def failed(self) -> None:
        """A handshake did not come about."""


Loaded = TypeVar("Loaded")


class _FromFiles(Generic[Loaded]):
    """Something that was loaded from files, and follows them."""

    current: Loaded

    def __init__(self, files: Sequence[str | os.PathLike[str]], settings: TLS | ClientTLS) -> None:
        self.handshake_timeout = settings.handshake_timeout
        self.gate = HandshakeGate(settings.handshakes_at_once)
        self.counts = TLSStatistics()
        self._files = [os.fspath(file) for file in files]
        self._seen: object = None  # the files' state when they were last loaded, or refused

    def load(self) -> Loaded:
        """Read the files. Runs in a thread. Raises StartError."""
        raise NotImplementedError

    def loaded(self) -> None:
        """``current`` is new."""

    async def start(self) -> None:
        """Load the files.

        :raises StartError: in one line, which file is wrong, and how.
        """
        self._seen = await asyncio.to_thread(self._state)
        self.current = await asyncio.to_thread(self.load)

    async def check(self) -> bool:
        """Load the files again, if they have changed. What was loaded is kept unless all of them are right.

        :return: whether there is something new.
        """
        state = await asyncio.to_thread(self._state)
        if state == self._seen:
            return False
        try:
            found = await asyncio.to_thread(self.load)
        except StartError as error:
            self.counts.reloads_failed += 1
            log.warning("certificates not reloaded, the old ones are kept", reason=str(error))
            self._seen = state
            return False
        if state != await asyncio.to_thread(self._state):
            return False  # somebody is writing; what was read may be of both
        self._seen = state
        self.current = found
        self.counts.reloads += 1
        self.loaded()
        return True

    def _state(self) -> object:
        return [_fingerprint(file) for file in self._files]

    def statistics(self) -> dict[str, Any]:
        """Counts since the start, and how many handshakes are under way and waiting."""
        counts = self.counts
        return {
            "handshakes": counts.handshakes,
            "resumed": counts.resumed,
            "failed": dict(sorted(counts.failed.items())),
            "timed_out": counts.timed_out,
            "broken": counts.broken,
            "truncated": counts.truncated,
            "waited": self.gate.waited,
            "waiting": self.gate.waiting,
            "in_progress": self.gate.in_progress,
            "reloads": counts.reloads,
            "reloads_failed": counts.reloads_failed,
        }


def _fingerprint(file: str) -> tuple[int, ...] | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_ino, found.st_dev, found.st_size)


@dataclass
class _ServerContexts:
    default: ssl.SSLContext
    own: list[OwnCertificate] = field(default_factory=list)
    by_name: dict[str, ssl.SSLContext] = field(default_factory=dict)

    def choose(self, sslobj: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext) -> None:
        """OpenSSL's question for a certificate, asked in every handshake."""
        if name is None:
            return
        name = name.lower().rstrip(".")
        sslobj.server_name = name  # type: ignore[union-attr]  # it is a _Session
        found = self.by_name.get(name) or self.by_name.get("*." + name.partition(".")[2])
        if found is not None and found is not context:
            sslobj.context = found


class ServerSide(_FromFiles[_ServerContexts]):
    """The server's end: hands out contexts made of :class:`TLS`. It is started before the first connection.

    :raises StartError: from :meth:`start`: a file is missing, or is not what it should be.
    """

    server_side = True

    def __init__(self, settings: TLS) -> None:
        self.settings = settings
        self._certificates = tuple(settings.certificates)  # type: ignore[arg-type]  # a tuple since __post_init__
        files: list[str | os.PathLike[str]] = [file for one in self._certificates for file in one.files]
        super().__init__([*files, *([settings.client_ca] if settings.client_ca is not None else [])], settings)
        self._tasks = Tasks()

    async def start(self) -> None:
        """Load the files, and follow them from now on."""
        await super().start()
        for certificate, own in zip(self._certificates, self.current.own, strict=True):
            _warn_of_time(certificate, own)
        self._tasks.spawn(self._follow(), name="TLS certificates")

    async def stop(self) -> None:
        """Follow the files no longer. Connections are not touched."""
        await self._tasks.cancel()

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self.settings.reload_interval)
            try:
                await self.check()
            except Exception:
                log.exception("certificates could not be checked")

    def loaded(self) -> None:
        """See :class:`_FromFiles`."""
        for certificate, own in zip(self._certificates, self.current.own, strict=True):
            log.info("certificate loaded", certificate=certificate.files[0], not_after=own.not_after.isoformat())
            _warn_of_time(certificate, own)

    def load(self) -> _ServerContexts:
        """See :class:`_FromFiles`."""
        made: _ServerContexts | None = None
        for certificate in self._certificates:
            context = self._context()
            own = load_certificate(context, certificate)
            if made is None:
                made = _ServerContexts(context)
                context.sni_callback = made.choose
            names = own.dns_names if certificate.names is None else certificate.names
            if not names and made.own:
                raise StartError(f"TLS: no host name is written in {certificate.files[0]}; give it names=[...]")
            for name in names:
                made.by_name.setdefault(name.lower(), context)
            made.own.append(own)
        assert made is not None, "TLS has at least one certificate"
        return made

    def _context(self) -> ssl.SSLContext:
        settings = self.settings
        context = _new_context(ssl.PROTOCOL_TLS_SERVER, settings)
        try:
            context.set_ciphers(settings.ciphers)
        except ssl.SSLError as error:
            raise StartError(f"TLS: ciphers {settings.ciphers!r} select none; one that works: {CIPHERS!r}") from error
        context.verify_mode = _VERIFY[settings.client_auth]
        if settings.client_ca is not None:
            load_trusted(context, settings.client_ca)
        if not settings.session_tickets:
            context.options |= ssl.OP_NO_TICKET
            context.num_tickets = 0
        return context

    def wrap(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        """See :class:`Side`."""
        return self.current.default.wrap_bio(incoming, outgoing, server_side=True)

    def keep(self, sslobj: ssl.SSLObject) -> bool:
        """See :class:`Side`. It is the client who keeps sessions."""
        return True

    def failed(self) -> None:
        """See :class:`Side`."""


def _new_context(protocol: int, settings: TLS | ClientTLS) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.sslobject_class = _Session
    context.minimum_version = _VERSIONS[settings.minimum_version]
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    if settings.alpn:
        context.set_alpn_protocols(list(settings.alpn))
    return context


def _warn_of_time(certificate: Certificate, own: OwnCertificate) -> None:
    at = datetime.now(UTC)
    if at >= own.not_after:
        log.warning("certificate has expired", certificate=certificate.files[0], not_after=own.not_after.isoformat())
    elif at < own.not_before:
        log.warning("certificate is not valid yet", certificate=certificate.files[0], since=own.not_before.isoformat())


class ClientSide(_FromFiles[ssl.SSLContext]):
    """The callers' end: hands out contexts made of :class:`ClientTLS`, and keeps the sessions of servers."""

    def __init__(self, settings: ClientTLS) -> None:
        self.settings = settings
        own = settings.certificate.files if settings.certificate is not None else ()
        super().__init__([*own, *([settings.ca] if settings.ca is not None else [])], settings)
        self.sessions: OrderedDict[tuple[str, int, str], ssl.SSLSession] = OrderedDict()  # the last used comes last
        self._checked_at: float | None = None

    async def fresh(self) -> None:
        """Load the files, or look whether they have changed, unless that was done just now. Called before each dial.

        :raises StartError: they could not be loaded the first time.
        """
        if self._checked_at is None:
            await self.start()
        elif now() - self._checked_at >= self.settings.reload_interval and self._files:
            await self.check()
        self._checked_at = now()

    def loaded(self) -> None:
        """See :class:`_FromFiles`. A session belongs to the context that it was made in."""
        self.sessions.clear()
        log.info("certificates of calls loaded", files=self._files)

    def load(self) -> ssl.SSLContext:
        """See :class:`_FromFiles`."""
        settings = self.settings
        context = _new_context(ssl.PROTOCOL_TLS_CLIENT, settings)
        if not settings.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif settings.ca is not None:
            load_trusted(context, settings.ca)
        else:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        if settings.certificate is not None:
            _warn_of_time(settings.certificate, load_certificate(context, settings.certificate))
        return context

    def target(self, host: str, port: int) -> ClientTarget:
        """The end of connections to ``host`` and ``port``. :meth:`fresh` was awaited before.

        :raises ValueError: ``host`` is a path, so ``server_hostname`` has to be set.
        """
        name = self.settings.server_hostname or ("" if "/" in host else host)
        name = name.removesuffix(".")  # the root's, which is in no certificate (RFC 6066 section 3)
        if not name and self.settings.verify:
            raise ValueError(f"ClientTLS: server_hostname must be set to call {host}")
        return ClientTarget(self, host, port, name)


class ClientTarget:
    """The caller's end of connections to one server."""

    server_side = False
    __slots__ = ("_key", "_name", "_side", "counts", "gate", "handshake_timeout")

    def __init__(self, side: ClientSide, host: str, port: int, name: str) -> None:
        self.handshake_timeout = side.handshake_timeout
        self.gate = side.gate
        self.counts = side.counts
        self._side = side
        self._name = name
        self._key = (host, port, name)

    def wrap(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        """See :class:`Side`."""
        sessions = self._side.sessions
        session = sessions.get(self._key)
        if session is not None:
            sessions.move_to_end(self._key)
        return self._side.current.wrap_bio(incoming, outgoing, server_hostname=self._name or None, session=session)

    def keep(self, sslobj: ssl.SSLObject) -> bool:
        """See :class:`Side`."""
        side = self._side
        if not side.settings.sessions or sslobj.context is not side.current:
            return True
        session = sslobj.session
        if session is None or not (session.has_ticket or (session.id and sslobj.version() == "TLSv1.2")):
            return False  # in TLS 1.3 the ticket comes after the handshake, with the server's first bytes
        side.sessions[self._key] = session
        side.sessions.move_to_end(self._key)
        if len(side.sessions) > side.settings.sessions:
            side.sessions.popitem(last=False)
        return True

    def failed(self) -> None:
        """See :class:`Side`. The session may be to blame."""
        self._side.sessions.pop(self._key, None)


@lru_cache(maxsize=256)
def client_side(settings: ClientTLS) -> ClientSide:
    """The one :class:`ClientSide` of ``settings``, so that all calls with the same settings share their sessions."""
    return ClientSide(settings)
