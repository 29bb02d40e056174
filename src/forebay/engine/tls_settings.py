"""What TLS is configured with."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from forebay.engine.certificates import Certificate

__all__ = ["TLS", "ClientTLS"]

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:DHE+CHACHA20"
"""The ciphers of TLS 1.2 that are offered by default: forward secret and authenticated, as in Mozilla's intermediate
configuration. Those of TLS 1.3 all are, and cannot be chosen."""

_VERSIONS = ("1.2", "1.3")
_CLIENT_AUTH = ("none", "optional", "required")


@dataclass(frozen=True, slots=True)
class TLS:
    """How a server speaks TLS.

    :param certificates: one or several. A client that asks for a name (SNI) gets the first one that has it, exactly or
        by a wildcard in place of its first label; every other client gets the first of all.
    :param client_auth: whether clients show a certificate: ``none``, ``optional`` or ``required``. One that is shown
        and not signed by ``client_ca``, or not valid now, ends the handshake in any case.
    :param client_ca: the file with the CA certificates that clients' are verified with. Needed unless ``none``.
    :param alpn: the application's protocols, the dearest first. Clients that offer none of them are served without.
    :param minimum_version: ``1.2`` or ``1.3``.
    :param ciphers: those of TLS 1.2, in OpenSSL's notation.
    :param handshake_timeout: seconds from the connection to the end of the handshake, waiting for its turn included.
    :param handshakes_at_once: those past it wait for their turn, first come, first served. It is taken once the
        client's whole first message is there, so those who say nothing take none.
    :param session_tickets: let clients resume their sessions, which saves the costly part of the next handshake. The
        keys for it live as long as the certificates loaded, and are each worker's own.
    :param reload_interval: seconds between looks at the files. When one has changed, all are loaded again; new
        handshakes get what was loaded, and connections keep what they have.
    :raises ValueError: an argument makes no sense.
    """

    certificates: Certificate | Sequence[Certificate]
    client_auth: Literal["none", "optional", "required"] = "none"
    client_ca: str | os.PathLike[str] | None = None
    alpn: Sequence[str] = ()
    minimum_version: Literal["1.2", "1.3"] = "1.2"
    ciphers: str = CIPHERS
    handshake_timeout: float = 10.0
    handshakes_at_once: int = 256
    session_tickets: bool = True
    reload_interval: float = 1.0

    def __post_init__(self) -> None:
        many = [self.certificates] if isinstance(self.certificates, Certificate) else self.certificates
        object.__setattr__(self, "certificates", tuple(many))
        object.__setattr__(self, "alpn", _protocols("TLS", self.alpn))
        _check("TLS", bool(self.certificates), "certificates must name at least one")
        _check("TLS", self.client_auth in _CLIENT_AUTH, "client_auth must be none, optional or required")
        _check("TLS", self.client_auth == "none" or self.client_ca is not None, "client_auth needs a client_ca")
        _check("TLS", self.client_auth != "none" or self.client_ca is None, "client_ca needs a client_auth")
        _check("TLS", self.minimum_version in _VERSIONS, "minimum_version must be 1.2 or 1.3")
        _check("TLS", self.handshake_timeout > 0, "handshake_timeout must be more than 0")
        _check("TLS", self.handshakes_at_once >= 1, "handshakes_at_once must be at least 1")
        _check("TLS", self.reload_interval > 0, "reload_interval must be more than 0")


@dataclass(frozen=True, slots=True)
class ClientTLS:
    """How to speak TLS with a server that we call.

    :param ca: the file with the CA certificates that the server's is verified with; ``None``: the system's.
    :param certificate: what we show to servers that ask who we are.
    :param verify: whether the server's certificate must be signed by a CA we trust, be valid now, and be for the host
        we called. Without it anybody on the way can read and change everything.
    :param server_hostname: the name to ask for and to verify, where it is not the host that is called.
    :param alpn: the application's protocols, the dearest first.
    :param minimum_version: ``1.2`` or ``1.3``.
    :param handshake_timeout: seconds from the connection to the end of the handshake.
    :param handshakes_at_once: those past it wait for their turn.
    :param sessions: how many servers' sessions are kept to be resumed, those used last; 0: none.
    :param reload_interval: seconds after which a new connection looks whether the files have changed.
    :raises ValueError: an argument makes no sense.
    """

    ca: str | os.PathLike[str] | None = None
    certificate: Certificate | None = None
    verify: bool = True
    server_hostname: str | None = None
    alpn: Sequence[str] = ()
    minimum_version: Literal["1.2", "1.3"] = "1.2"
    handshake_timeout: float = 10.0
    handshakes_at_once: int = 256
    sessions: int = 256
    reload_interval: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpn", _protocols("ClientTLS", self.alpn))
        _check("ClientTLS", self.verify or self.ca is None, "ca makes no sense without verify")
        _check("ClientTLS", self.minimum_version in _VERSIONS, "minimum_version must be 1.2 or 1.3")
        _check("ClientTLS", self.handshake_timeout > 0, "handshake_timeout must be more than 0")
        _check("ClientTLS", self.handshakes_at_once >= 1, "handshakes_at_once must be at least 1")
        _check("ClientTLS", self.sessions >= 0, "sessions must be at least 0")
        _check("ClientTLS", self.reload_interval > 0, "reload_interval must be more than 0")


def _check(where: str, condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(f"{where}: {message}")


def _protocols(where: str, names: Sequence[str]) -> tuple[str, ...]:
    _check(where, not isinstance(names, str), "alpn must be a sequence of names")
    _check(
        where, all(name.isascii() and 1 <= len(name) <= 255 for name in names), "alpn names are 1 to 255 ASCII bytes"
    )
    return tuple(names)
