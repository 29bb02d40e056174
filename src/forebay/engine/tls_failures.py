"""What went wrong in TLS, in words: OpenSSL's are for those who know its source."""

from __future__ import annotations

import ssl

__all__ = ["explain", "not_tls"]

HELLO_AT_MOST = 16384 + 2048
"""Bytes of a record (RFC 5246 section 6.2.3)."""

_RECORD_HANDSHAKE = 0x16
_CLIENT_HELLO = 0x01

_VERSIONS = {b"\x03\x00": "SSL 3.0", b"\x03\x01": "TLS 1.0", b"\x03\x02": "TLS 1.1", b"\x03\x03": "TLS 1.2"}

_LOOKS_LIKE = (
    (b"PROXY ", "a PROXY protocol header"),
    (b"\r\n\r\n\x00\r\nQUIT", "a PROXY protocol header"),
    (b"SSH-", "SSH"),
    (b"PRI * HTTP/2", "HTTP"),
    *((method, "HTTP") for method in (b"GET ", b"POST ", b"PUT ", b"HEAD ", b"DELETE ", b"OPTIONS ", b"PATCH ")),
    (b"CONNECT ", "HTTP"),
    (b"HTTP/", "HTTP"),
)

# OpenSSL's X509_V_ERR_*: the kind, and what to say of whose certificate
_VERIFY = {
    9: ("expired", "is not valid yet"),
    10: ("expired", "has expired"),
    2: ("untrusted", "is not signed by a CA we trust"),
    18: ("untrusted", "is signed by itself, not by a CA we trust"),
    19: ("untrusted", "is not signed by a CA we trust"),
    20: ("untrusted", "is not signed by a CA we trust"),
    21: ("untrusted", "is not signed by a CA we trust"),
    23: ("untrusted", "was revoked"),
    26: ("untrusted", "is not made for this purpose"),
    62: ("name", "is for another host name"),
    64: ("name", "is for another IP address"),
}

_REASONS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": ("no-certificate", "the {peer} sent no certificate"),
    "NO_SHARED_CIPHER": ("cipher", "no cipher in common"),
    "NO_SUITABLE_SIGNATURE_ALGORITHM": ("cipher", "no signature algorithm in common"),
    "NO_SUITABLE_KEY_SHARE": ("cipher", "no key exchange in common"),
    "NO_SUITABLE_GROUPS": ("cipher", "no key exchange in common"),
    "HTTP_REQUEST": ("not-tls", "not TLS at all: looks like HTTP"),
    "HTTPS_PROXY_REQUEST": ("not-tls", "not TLS at all: looks like HTTP"),
    "WRONG_VERSION_NUMBER": ("not-tls", "not TLS at all"),
    "UNSUPPORTED_PROTOCOL": ("version", "no protocol version in common"),
    "UNKNOWN_PROTOCOL": ("version", "no protocol version in common"),
    "VERSION_TOO_LOW": ("version", "no protocol version in common"),
    "DECRYPTION_FAILED_OR_BAD_RECORD_MAC": ("broken", "the {peer} sent a record that does not decrypt"),
}

_SAME_EVERYWHERE = ("SSLV3_ALERT_", "TLSV1_ALERT_", "TLSV13_ALERT_", "TLSV1_")


def explain(error: OSError, *, server_side: bool, offered: bytes = b"") -> tuple[str, str]:
    """What kind of failure ``error`` is (one of a few words, for counting), and a sentence about it.

    :param server_side: whether we are the server.
    :param offered: the version field of the client's first message, where that is known.
    """
    peer = "client" if server_side else "server"
    code = getattr(error, "verify_code", None)
    if isinstance(error, ssl.SSLCertVerificationError) and code:
        kind, text = _VERIFY.get(code, ("untrusted", f"was refused: {error.verify_message.rstrip('.')}"))
        if kind == "name":
            text += f": {error.verify_message.rstrip('.')}"
        return kind, f"the {peer}'s certificate {text}"
    reason = getattr(error, "reason", None) or ""
    if reason in _REASONS:
        kind, text = _REASONS[reason]
        if kind == "version" and server_side and offered in _VERSIONS:
            text += f" (client offers {_VERSIONS[offered]})"
        return kind, text.format(peer=peer)
    for prefix in _SAME_EVERYWHERE:
        if reason.startswith(prefix):
            words = reason.removeprefix(prefix).lower().replace("_", " ").replace("unknown ca", "unknown CA")
            return "alert", f"alert from the peer: {words}"
    return "broken", f"the {peer} broke the protocol: {reason.lower().replace('_', ' ') or error}"


def not_tls(start: bytes | bytearray) -> str | None:
    """What is wrong with the first bytes of a client: a whole sentence; ``None``: it may be TLS so far."""
    if not start:
        return None
    plausible = (
        start[0] == _RECORD_HANDSHAKE
        and (len(start) < 2 or start[1] == 3)
        and (len(start) < 5 or 4 <= int.from_bytes(start[3:5], "big") <= HELLO_AT_MOST)
        and (len(start) < 6 or start[5] == _CLIENT_HELLO)
    )
    if plausible:
        return None
    for beginning, name in _LOOKS_LIKE:
        if start.startswith(beginning):
            return f"not TLS at all: looks like {name}"
    return f"not TLS at all: begins with {bytes(start[:8]).hex(' ')}"
