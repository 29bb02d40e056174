"""Certificates: our own, read from files and checked, and what a peer's says about who it is."""

from __future__ import annotations

import hashlib
import os
import re
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from forebay.errors import StartError

__all__ = ["Certificate", "OwnCertificate", "PeerCertificate", "TLSInfo", "load_certificate", "load_trusted"]

_PEM = re.compile(r"-----BEGIN (?:X509 )?CERTIFICATE-----.+?-----END (?:X509 )?CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Certificate:
    """Files that hold a certificate and its private key, in PEM format.

    :param chain: the file with the certificate first, then those that lead to its CA.
    :param key: the file with its private key; ``None``: it is in ``chain`` too.
    :param password: what the key is encrypted with, where it is.
    :param names: host names it is served for, ``*.example.com`` included; ``None``: those written in it.
    """

    chain: str | os.PathLike[str]
    key: str | os.PathLike[str] | None = None
    password: str | bytes | None = field(default=None, repr=False)
    names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.names, str):
            raise ValueError(f"Certificate: names must be a sequence of names, not the text {self.names!r}")
        if self.names is not None:
            object.__setattr__(self, "names", tuple(self.names))

    @property
    def files(self) -> tuple[str, ...]:
        """The paths of all files it is read from."""
        return (os.fspath(self.chain),) if self.key is None else (os.fspath(self.chain), os.fspath(self.key))


@dataclass(frozen=True, slots=True)
class OwnCertificate:
    """What stands in a certificate of ours. The times are in UTC."""

    dns_names: tuple[str, ...]  # in lower case
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """What stands in a peer's certificate, which was verified: its chain ends at a CA we trust, and it is valid now."""

    common_name: str | None
    dns_names: tuple[str, ...]
    uris: tuple[str, ...]
    ip_addresses: tuple[str, ...]
    issuer: str  # RFC 4514, in the order of the certificate: "O=Example,CN=Example CA"
    serial: str  # hexadecimal
    not_before: datetime  # UTC
    not_after: datetime  # UTC
    fingerprint: str  # SHA-256 of the whole certificate, hexadecimal in lower case

    @property
    def identity(self) -> str | None:
        """Who the peer is: the first URI (SPIFFE's way), else the first DNS name, else the common name."""
        if self.uris:
            return self.uris[0]
        return self.dns_names[0] if self.dns_names else self.common_name


@dataclass(frozen=True, slots=True)
class TLSInfo:
    """What was agreed on in a handshake."""

    version: str  # "TLSv1.3"
    cipher: str
    alpn: str | None  # the protocol that was chosen; None: none was, or in common
    server_name: str | None  # the name that the client asked for (SNI)
    resumed: bool  # the secrets, and the peer's certificate, are those of an earlier connection
    certificate: PeerCertificate | None  # None: the peer showed none, or it was not verified

    @property
    def identity(self) -> str | None:
        """See :attr:`PeerCertificate.identity`; ``None`` unless the peer's certificate was verified."""
        return None if self.certificate is None else self.certificate.identity


def peer_certificate(sslobj: ssl.SSLObject) -> PeerCertificate | None:
    """The verified certificate of the peer of a completed handshake; ``None``: it has none."""
    found: dict[str, Any] | None = sslobj.getpeercert()  # empty unless it was verified
    encoded = sslobj.getpeercert(binary_form=True)
    if not found or not encoded:
        return None
    alternatives: tuple[tuple[str, str], ...] = found.get("subjectAltName", ())
    subject = _attributes(found.get("subject", ()))
    return PeerCertificate(
        common_name=next((value for name, value in subject if name == "commonName"), None) or None,
        dns_names=_of_kind("DNS", alternatives),
        uris=_of_kind("URI", alternatives),
        ip_addresses=_of_kind("IP Address", alternatives),
        issuer=",".join(f"{_SHORT.get(name, name)}={_escaped(v)}" for name, v in _attributes(found.get("issuer", ()))),
        serial=found["serialNumber"].lower(),
        not_before=datetime.fromtimestamp(ssl.cert_time_to_seconds(found["notBefore"]), UTC),
        not_after=datetime.fromtimestamp(ssl.cert_time_to_seconds(found["notAfter"]), UTC),
        fingerprint=hashlib.sha256(encoded).hexdigest(),
    )


_SHORT = {
    "commonName": "CN",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "stateOrProvinceName": "ST",
    "localityName": "L",
}


def _attributes(name: Any) -> list[tuple[str, str]]:
    return [attribute for group in name for attribute in group]


def _of_kind(kind: str, alternatives: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    return tuple(value.strip() for name, value in alternatives if name == kind and value.strip())


def _escaped(value: str) -> str:
    return re.sub(r'([,+"\\<>;=])', r"\\\1", value)


# Loading


def load_certificate(context: ssl.SSLContext, certificate: Certificate) -> OwnCertificate:
    """Let ``context`` show ``certificate``, and say what stands in it. Blocks: it reads files.

    :raises StartError: in one line, which file is wrong, and how.
    """
    chain, key = certificate.files[0], certificate.files[-1]
    own = _described(chain, _read_file(chain, "certificate"))
    if key != chain:
        _read_file(key, "key")
    asked = False

    def password() -> str | bytes:  # without it OpenSSL would ask on the terminal, and wait
        nonlocal asked
        asked = True
        return certificate.password or b""

    try:
        context.load_cert_chain(chain, key, password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "reason", None) or ""
        if "MISMATCH" in reason:
            text = f"the key in {key} does not belong to the certificate in {chain}"
        elif asked and certificate.password is None:
            text = f"the key in {key} is encrypted, and no password was given for it"
        elif asked:
            text = f"the password given for the key in {key} is wrong"
        elif "TOO_SMALL" in reason or "TOO_WEAK" in reason:
            text = (
                f"the certificate in {chain} is too weak to be used; it needs RSA with 2048 bits, or ECDSA, and SHA-256"
            )
        else:
            text = f"{key} holds no private key that fits, in PEM format"
        raise StartError(f"TLS: {text}") from error
    return own


def load_trusted(context: ssl.SSLContext, path: str | os.PathLike[str]) -> None:
    """Let ``context`` trust the CA certificates in the file ``path``. Blocks.

    :raises StartError: the file cannot be read, or holds none.
    """
    name = os.fspath(path)
    _read_file(name, "CA")
    try:
        context.load_verify_locations(name)
    except (OSError, ValueError) as error:
        raise StartError(f"TLS: {name} holds no CA certificate in PEM format") from error


def _read_file(path: str, what: str) -> str:
    try:
        with open(path, encoding="latin-1") as file:
            return file.read()
    except OSError as error:
        why = os.strerror(error.errno).lower() if error.errno else str(error)
        raise StartError(f"TLS: cannot read the {what} file {path}: {why}") from error


def _described(path: str, text: str) -> OwnCertificate:
    found = _PEM.search(text)
    if found is None:
        raise StartError(f"TLS: {path} holds no certificate in PEM format")
    try:
        return read_certificate(ssl.PEM_cert_to_DER_cert(found.group().replace("X509 ", "")))
    except ValueError as error:
        raise StartError(f"TLS: the certificate in {path} is broken: {error}") from error


# DER (X.690 section 10), only as much as finds the names and the times of a certificate (RFC 5280 section 4.1)

_INTEGER, _OCTETS, _OID, _UTC_TIME, _GENERALIZED_TIME, _SEQUENCE = 0x02, 0x04, 0x06, 0x17, 0x18, 0x30
_VERSION, _EXTENSIONS, _DNS_NAME = 0xA0, 0xA3, 0x82
_SUBJECT_ALT_NAME = b"\x55\x1d\x11"  # 2.5.29.17


def read_certificate(encoded: bytes) -> OwnCertificate:
    """The names and the times of a DER encoded certificate. The standard library tells them of peers' only.

    :raises ValueError: it is not one.
    """
    outer = list(_elements(encoded))
    if len(outer) != 1 or outer[0][0] != _SEQUENCE:
        raise ValueError("it is not one DER sequence")
    fields = list(_elements(_first(outer[0][1], _SEQUENCE)))
    if fields and fields[0][0] == _VERSION:
        del fields[0]
    tags = [tag for tag, _ in fields[:6]]
    if tags != [_INTEGER, *[_SEQUENCE] * 5]:
        raise ValueError("its fields are not those of RFC 5280")
    times = [_time(tag, value) for tag, value in _elements(fields[3][1])]
    if len(times) != 2:
        raise ValueError("its validity is not two times")
    names: tuple[str, ...] = ()
    for tag, value in fields[6:]:
        if tag == _EXTENSIONS:
            names = _dns_names(value)
    return OwnCertificate(names, times[0], times[1])


def _dns_names(extensions: bytes) -> tuple[str, ...]:
    for tag, extension in _elements(_first(extensions, _SEQUENCE)):
        parts = list(_elements(extension))
        if tag != _SEQUENCE or len(parts) < 2 or parts[0][0] != _OID or parts[-1][0] != _OCTETS:
            raise ValueError("one of its extensions is malformed")
        if parts[0][1] == _SUBJECT_ALT_NAME:
            names = _elements(_first(parts[-1][1], _SEQUENCE))
            return tuple(value.decode("ascii").lower() for tag, value in names if tag == _DNS_NAME)
    return ()


def _first(data: bytes, tag: int) -> bytes:
    for found, value in _elements(data):
        if found != tag:
            break
        return value
    raise ValueError(f"it has no element with tag {tag:#x} where one must be")


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The tag and the content of each element in ``data``."""
    position = 0
    while position < len(data):
        if position + 2 > len(data) or data[position] & 0x1F == 0x1F:
            raise ValueError("an element is cut off, or has a long tag")
        tag, length = data[position], data[position + 1]
        position += 2
        if length >= 0x80:
            width = length & 0x7F
            digits = data[position : position + width]
            length = int.from_bytes(digits, "big")
            position += width
            if not 1 <= width <= 4 or len(digits) != width or length < 0x80 or digits[0] == 0:
                raise ValueError("a length is not DER")
        if position + length > len(data):
            raise ValueError("an element is longer than what it is in")
        yield tag, data[position : position + length]
        position += length


def _time(tag: int, value: bytes) -> datetime:
    text = value.decode("ascii")
    if tag == _UTC_TIME and len(text) == 13:
        text = ("20" if text < "50" else "19") + text  # RFC 5280 section 4.1.2.5.1
    elif tag != _GENERALIZED_TIME or len(text) != 15:
        raise ValueError("a time is malformed")
    if not text.endswith("Z"):
        raise ValueError("a time is not in UTC")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
