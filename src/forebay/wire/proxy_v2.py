"""Version 2 of the PROXY protocol (section 2.2): binary, with extras. See :mod:`forebay.wire.proxy_header`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from ipaddress import IPv4Address, IPv6Address
from struct import Struct

from forebay.errors import ProxyHeaderError
from forebay.wire.proxy_fields import (
    Endpoint,
    Family,
    ProxyHeader,
    ProxyTLS,
    Transport,
    as_inet6,
    check_port,
    inet6_host,
    parse_host,
)  # fmt: skip

__all__ = ["LONGEST", "LONGEST_ADDRESSES", "encode_v2", "end_of_v2", "read_v2"]

_FAMILIES: tuple[Family, ...] = ("unspec", "inet", "inet6", "unix")  # by the number on the wire
_TRANSPORTS: tuple[Transport, ...] = ("unspec", "stream", "dgram")

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_HEAD = Struct("!12sBBH")
_INET = Struct("!4s4sHH")
_INET6 = Struct("!16s16sHH")
_UNIX = Struct("!108s108s")
_BLOCKS: dict[Family, Struct] = {"inet": _INET, "inet6": _INET6, "unix": _UNIX}
_TLV_HEAD = Struct("!BH")
_TLS_HEAD = Struct("!BI")

_ALPN, _AUTHORITY, _CRC32C, _NOOP, _UNIQUE_ID, _TLS = 0x01, 0x02, 0x03, 0x04, 0x05, 0x20
_TLS_VERSION, _TLS_COMMON_NAME, _TLS_CIPHER, _TLS_SIGNATURE, _TLS_KEY = 0x21, 0x22, 0x23, 0x24, 0x25
_TYPED = frozenset({_ALPN, _AUTHORITY, _CRC32C, _NOOP, _UNIQUE_ID, _TLS})
_LONGEST_UNIQUE_ID = 128

LONGEST = _HEAD.size + 0xFFFF
LONGEST_ADDRESSES = _HEAD.size + _UNIX.size


def encode_v2(header: ProxyHeader, *, checksum: bool = False) -> bytes:
    """``header`` in version 2 (section 2.2), whichever version it was read from.

    :param checksum: add the CRC-32C of the header, when it has addresses; its own ``crc32c`` is not looked at.

    :raises ValueError: the header contradicts itself, or cannot be written: an address that is not of its family, a
        path or another value that is too long, a TLV type that has a field of its own.
    """
    family, transport, block = 0, 0, b""
    if header.command == "proxy":
        family, transport = _FAMILIES.index(header.family), _TRANSPORTS.index(header.transport)
    if family and transport:
        block = _address_block(header) + _extras(header) + (_tlv(_CRC32C, bytes(4)) if checksum else b"")
    elif header.source or header.destination or _extras(header):
        raise ValueError("a header that is local, or of no family or transport, carries nothing else")
    if len(block) > 0xFFFF:
        raise ValueError(f"the header's {len(block)} bytes do not fit, the most is {0xFFFF}")
    version_and_command = 0x21 if header.command == "proxy" else 0x20
    data = _HEAD.pack(_SIGNATURE, version_and_command, family << 4 | transport, len(block)) + block
    if checksum and block:
        data = data[:-4] + _crc32c(data).to_bytes(4, "big")
    return data


def end_of_v2(held: bytearray, maximum: int) -> int:
    """Where the header ends; 0: not all of it is there."""
    if not _SIGNATURE.startswith(held[: len(_SIGNATURE)]):
        raise ProxyHeaderError("this is no PROXY header")
    if len(held) > 12 and held[12] not in (0x20, 0x21):
        raise ProxyHeaderError(f"the PROXY header's version and command are {held[12]:#04x}, not 0x20 or 0x21")
    if len(held) < _HEAD.size:
        return 0
    end = _HEAD.size + int.from_bytes(held[14:16], "big")
    if end > maximum:
        raise ProxyHeaderError(f"a PROXY header of {end} bytes is longer than {maximum}")
    return end if len(held) >= end else 0


def read_v2(data: bytes) -> ProxyHeader:
    """The meaning of a header, all of which is there."""
    command, kind = data[12], data[13]
    if command == 0x20:
        return ProxyHeader(command="local")  # "must discard the protocol block including the family which is ignored"
    if kind >> 4 >= len(_FAMILIES) or kind & 15 >= len(_TRANSPORTS):
        raise ProxyHeaderError(f"the PROXY header's family and transport {kind:#04x} are not assigned")
    family, transport = _FAMILIES[kind >> 4], _TRANSPORTS[kind & 15]
    if family == "unspec" or transport == "unspec":
        return ProxyHeader(family=family, transport=transport)
    struct = _BLOCKS[family]
    start = _HEAD.size + struct.size
    if len(data) < start:
        raise ProxyHeaderError(f"the PROXY header is too short for the addresses of {family}")
    source, destination = _endpoints(family, struct.unpack_from(data, _HEAD.size))
    typed: dict[int, bytes] = {}
    others: list[tuple[int, bytes]] = []
    for number, at, value in _tlvs(data, start):
        if number not in _TYPED:
            others.append((number, value))
        elif number in typed and number != _NOOP:
            raise ProxyHeaderError(f"the PROXY header holds TLV {number:#04x} twice")
        else:
            typed[number] = value
            if number == _CRC32C:
                _check_sum(data, at, value)
    unique_id = typed.get(_UNIQUE_ID)
    if unique_id is not None and len(unique_id) > _LONGEST_UNIQUE_ID:
        raise ProxyHeaderError(f"the PROXY header's unique id is longer than {_LONGEST_UNIQUE_ID} bytes")
    return ProxyHeader(
        family=family,
        transport=transport,
        source=source,
        destination=destination,
        alpn=typed.get(_ALPN),
        authority=_text(typed, _AUTHORITY, "utf-8"),
        crc32c=int.from_bytes(typed[_CRC32C], "big") if _CRC32C in typed else None,
        unique_id=unique_id,
        tls=_read_tls(typed[_TLS]) if _TLS in typed else None,
        tlvs=tuple(others),
    )


def _endpoints(family: Family, fields: tuple[bytes, ...]) -> tuple[Endpoint, Endpoint]:
    if family == "unix":
        return (_unix_path(fields[0]), 0), (_unix_path(fields[1]), 0)
    source, destination, *ports = fields
    if family == "inet":
        hosts = str(IPv4Address(source)), str(IPv4Address(destination))
    else:
        hosts = inet6_host(IPv6Address(source)), inet6_host(IPv6Address(destination))
    return (hosts[0], int(ports[0])), (hosts[1], int(ports[1]))


def _unix_path(field: bytes) -> str:
    abstract = field[:1] == b"\0"
    path = field.rstrip(b"\0") if abstract else field.partition(b"\0")[0]
    return path.decode("utf-8", "surrogateescape")


def _tlvs(data: bytes, at: int) -> Iterator[tuple[int, int, bytes]]:
    """Type, position of the value, and value of each."""
    while at < len(data):
        if len(data) - at < _TLV_HEAD.size:
            raise ProxyHeaderError("the PROXY header ends in the middle of a TLV")
        number, length = _TLV_HEAD.unpack_from(data, at)
        at += _TLV_HEAD.size
        if len(data) - at < length:
            raise ProxyHeaderError(f"the PROXY header's TLV {number:#04x} is longer than what holds it")
        yield number, at, data[at : at + length]
        at += length


def _read_tls(value: bytes) -> ProxyTLS:
    if len(value) < _TLS_HEAD.size:
        raise ProxyHeaderError("the PROXY header's TLS information is too short")
    flags, verify = _TLS_HEAD.unpack_from(value)
    fields: dict[int, bytes] = {}
    for number, _, field in _tlvs(value, _TLS_HEAD.size):
        if number in fields:
            raise ProxyHeaderError(f"the PROXY header's TLS information holds {number:#04x} twice")
        fields[number] = field
    return ProxyTLS(
        flags,
        verify,
        version=_text(fields, _TLS_VERSION, "ascii"),
        common_name=_text(fields, _TLS_COMMON_NAME, "utf-8"),
        cipher=_text(fields, _TLS_CIPHER, "ascii"),
        signature_algorithm=_text(fields, _TLS_SIGNATURE, "ascii"),
        key_algorithm=_text(fields, _TLS_KEY, "ascii"),
    )


def _text(fields: dict[int, bytes], number: int, encoding: str) -> str | None:
    value = fields.get(number)
    if value is None:
        return None
    try:
        return value.decode(encoding)
    except UnicodeDecodeError:
        raise ProxyHeaderError(f"the PROXY header's TLV {number:#04x} is not valid {encoding}") from None


def _check_sum(data: bytes, at: int, value: bytes) -> None:
    if len(value) != 4:
        raise ProxyHeaderError("the PROXY header's checksum has not 4 bytes")
    if _crc32c(data[:at] + bytes(4) + data[at + 4 :]) != int.from_bytes(value, "big"):
        raise ProxyHeaderError("the PROXY header's checksum is wrong")


@cache
def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


def _crc32c(data: bytes) -> int:
    """Castagnoli's CRC (RFC 4960 appendix B)."""
    table = _crc_table()
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _address_block(header: ProxyHeader) -> bytes:
    source, destination = header.source, header.destination
    if source is None or destination is None:
        raise ValueError(f"a header of family {header.family} has a source and a destination")
    if header.family == "unix":
        return _UNIX.pack(_unix_field(source[0]), _unix_field(destination[0]))
    check_port(source[1])
    check_port(destination[1])
    if header.family == "inet6":
        return _INET6.pack(as_inet6(source[0]).packed, as_inet6(destination[0]).packed, source[1], destination[1])
    addresses = parse_host(source[0]), parse_host(destination[0])
    if addresses[0].version != 4 or addresses[1].version != 4:
        raise ValueError(f"{source[0]} and {destination[0]} are not both IPv4 addresses")
    return _INET.pack(addresses[0].packed, addresses[1].packed, source[1], destination[1])


def _unix_field(path: str) -> bytes:
    field = path.encode("utf-8", "surrogateescape")
    if len(field) > 108:
        raise ValueError(f"the path of a UNIX socket has {len(field)} bytes, the most is 108")
    if b"\0" in (field.rstrip(b"\0")[1:] if field[:1] == b"\0" else field):
        raise ValueError("the path of a UNIX socket holds a NUL")
    return field


def _extras(header: ProxyHeader) -> bytes:
    if len(header.unique_id or b"") > _LONGEST_UNIQUE_ID:
        raise ValueError(f"the unique id is longer than {_LONGEST_UNIQUE_ID} bytes")
    parts = [
        _tlv(_ALPN, header.alpn),
        _tlv(_AUTHORITY, header.authority),
        _tlv(_UNIQUE_ID, header.unique_id),
    ]
    if (tls := header.tls) is not None:
        fields = (
            _tlv(_TLS_VERSION, tls.version),
            _tlv(_TLS_COMMON_NAME, tls.common_name),
            _tlv(_TLS_CIPHER, tls.cipher),
            _tlv(_TLS_SIGNATURE, tls.signature_algorithm),
            _tlv(_TLS_KEY, tls.key_algorithm),
        )
        parts.append(_tlv(_TLS, _TLS_HEAD.pack(tls.flags, tls.verify) + b"".join(fields)))
    for number, value in header.tlvs:
        if number in _TYPED or not 0 <= number <= 0xFF:
            raise ValueError(f"TLV {number:#04x} has a field of its own, or is no byte")
        parts.append(_tlv(number, value))
    return b"".join(parts)


def _tlv(number: int, value: bytes | str | None) -> bytes:
    if value is None:
        return b""
    if isinstance(value, str):
        value = value.encode()
    if len(value) > 0xFFFF:
        raise ValueError(f"the value of TLV {number:#04x} is longer than {0xFFFF} bytes")
    return _TLV_HEAD.pack(number, len(value)) + value
