"""Certificates: what is read from files, who is served which, and what happens when the files change."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from forebay.engine.certificates import Certificate, PeerCertificate, load_certificate, load_trusted, read_certificate
from forebay.engine.tls_settings import TLS, ClientTLS
from forebay.engine.tls_sides import ClientSide, ServerSide, client_side
from forebay.errors import StartError
from tests.engine.test_tls import WAIT, Files, Server, blocking, calling, connected, echoed, serving
from tests.support import eventually


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A CA, and certificates of all kinds."""
    return Files(tmp_path_factory.mktemp("certificates"))


def der(certificate: Certificate) -> bytes:
    """The certificate itself, without those that lead to its CA."""
    return x509.load_pem_x509_certificate(Path(certificate.files[0]).read_bytes()).public_bytes(Encoding.DER)


def fresh_server() -> ssl.SSLContext:
    """A context to load a certificate into."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


def encrypted(certificate: Certificate, directory: Path, password: bytes) -> str:
    """The key of ``certificate`` in a file of its own, encrypted."""
    key = serialization.load_pem_private_key(Path(certificate.files[1]).read_bytes(), None)
    path = directory / "encrypted.key"
    path.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, serialization.BestAvailableEncryption(password))
    )
    return str(path)


def too_weak(directory: Path) -> str:
    """A certificate whose RSA key has 1024 bits, and its key, in one file."""
    key = rsa.generate_private_key(65537, 1024)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "weak.example")])
    at = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, at, at + timedelta(days=1))
    path = directory / "weak.pem"
    path.write_bytes(
        builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
        + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return str(path)


# Reading


@pytest.mark.parametrize(
    ("names", "options"),
    [
        (("localhost",), {}),
        (("a.example", "*.b.example", "127.0.0.1", "::1"), {}),
        (("x.example",), {"not_before": datetime(1975, 3, 4, 5, 6, 7), "not_after": datetime(2051, 1, 2, 3, 4, 5)}),  # noqa: DTZ001  (as trustme wants them)
        (tuple(f"host-{number}.example" for number in range(300)), {}),
    ],
)
def test_certificates_are_read_as_another_library_reads_them(
    files: Files, names: tuple[str, ...], options: dict[str, datetime]
) -> None:
    """Names and times are those that ``cryptography`` finds."""
    encoded = der(files.issue(*names, **cast("Any", options)))
    expected = x509.load_der_x509_certificate(encoded)
    found = read_certificate(encoded)
    alternatives = expected.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(found.dns_names) == alternatives.get_values_for_type(x509.DNSName)
    assert (found.not_before, found.not_after) == (expected.not_valid_before_utc, expected.not_valid_after_utc)


@given(st.data())
def test_broken_certificates(files: Files, data: st.DataObject) -> None:
    """Whatever is changed in a certificate, it is read or refused with a ValueError."""
    encoded = bytearray(der(files.server))
    for _ in range(data.draw(st.integers(1, 3))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    length = data.draw(st.integers(0, len(encoded)))
    for mangled in (bytes(encoded), bytes(encoded[:length])):
        try:
            read_certificate(mangled)
        except ValueError:
            continue


@given(st.binary(max_size=200))
def test_no_certificates(data: bytes) -> None:
    """Any bytes are refused with a ValueError."""
    with pytest.raises(ValueError, match=r"\w"):
        read_certificate(data)


def test_files_that_are_wrong(files: Files, tmp_path: Path) -> None:
    """Each is refused in one line that names the file, and what is wrong with it."""
    chain, key = files.server.files
    nothing = tmp_path / "nothing.pem"
    nothing.write_text("no PEM here")
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
    locked = encrypted(files.server, tmp_path, b"secret")
    other = files.client.files[1]
    gone = str(tmp_path / "gone.pem")
    weak = too_weak(tmp_path)
    cases = [
        (Certificate(gone, key), f"TLS: cannot read the certificate file {gone}: no such file or directory"),
        (Certificate(chain, gone), f"TLS: cannot read the key file {gone}: no such file or directory"),
        (Certificate(tmp_path, key), f"TLS: cannot read the certificate file {tmp_path}: is a directory"),
        (Certificate(nothing, key), f"TLS: {nothing} holds no certificate in PEM format"),
        (Certificate(broken, key), f"TLS: the certificate in {broken} is broken: "),
        (Certificate(chain, nothing), f"TLS: {nothing} holds no private key that fits, in PEM format"),
        (Certificate(chain), f"TLS: {chain} holds no private key that fits, in PEM format"),
        (Certificate(chain, other), f"TLS: the key in {other} does not belong to the certificate in {chain}"),
        (Certificate(chain, locked), f"TLS: the key in {locked} is encrypted, and no password was given for it"),
        (Certificate(chain, locked, "wrong"), f"TLS: the password given for the key in {locked} is wrong"),
        (Certificate(weak), f"TLS: the certificate in {weak} is too weak to be used; "),
    ]
    for certificate, message in cases:
        with pytest.raises(StartError) as raised:
            load_certificate(fresh_server(), certificate)
        assert str(raised.value).startswith(message)
        assert "\n" not in str(raised.value)
    for path, message in (
        (gone, f"TLS: cannot read the CA file {gone}: no such file or directory"),
        (str(nothing), f"TLS: {nothing} holds no CA certificate in PEM format"),
    ):
        with pytest.raises(StartError) as raised:
            load_trusted(fresh_server(), path)
        assert str(raised.value) == message


def test_files_that_are_right(files: Files, tmp_path: Path) -> None:
    """An encrypted key with its password, and a key in the file of its certificate, with text around both."""
    chain, key = files.server.files
    locked = Certificate(chain, encrypted(files.server, tmp_path, b"secret"), "secret")
    both = tmp_path / "both.pem"
    both.write_text("a comment\n" + Path(chain).read_text() + Path(key).read_text())
    for certificate in (locked, Certificate(both)):
        assert load_certificate(fresh_server(), certificate).dns_names == ("localhost",)
    assert "secret" not in repr(locked)


def test_who_a_certificate_says_it_is() -> None:
    """The first URI, else the first DNS name, else the common name."""

    def peer(uris: tuple[str, ...], names: tuple[str, ...]) -> PeerCertificate:
        at = datetime.now(UTC)
        return PeerCertificate("common", names, uris, (), "CN=x", "01", at, at, "00")

    assert peer(("spiffe://example/a", "other:x"), ("a.example",)).identity == "spiffe://example/a"
    assert peer((), ("a.example", "b.example")).identity == "a.example"
    assert peer((), ()).identity == "common"


async def test_what_a_client_certificate_says(files: Files) -> None:
    """All of it is what ``cryptography`` reads in it."""
    client = files.issue(
        "a.example", "b.example", "192.0.2.1", common_name='a "client"', organization_name="Client, Inc"
    )
    expected = x509.load_der_x509_certificate(der(client))
    async with (
        serving(TLS(files.server, client_auth="required", client_ca=files.ca)) as server,
        connected(server, files.client_context(client)),
    ):
        found = (await server.upper()).info.certificate
        assert found is not None
        assert (found.dns_names, found.ip_addresses, found.uris) == (("a.example", "b.example"), ("192.0.2.1",), ())
        assert found.common_name == 'a "client"'
        assert int(found.serial, 16) == expected.serial_number
        assert (found.not_before, found.not_after) == (expected.not_valid_before_utc, expected.not_valid_after_utc)
        assert found.fingerprint == expected.fingerprint(cast("Any", expected.signature_hash_algorithm)).hex()
        issuer = {part.partition("=")[0]: part.partition("=")[2] for part in found.issuer.split(",")}
        assert issuer["O"] == expected.issuer.get_attributes_for_oid(x509.NameOID.ORGANIZATION_NAME)[0].value


# Settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"certificates": []}, "TLS: certificates must name at least one"),
        ({"client_auth": "always"}, "TLS: client_auth must be none, optional or required"),
        ({"client_auth": "required"}, "TLS: client_auth needs a client_ca"),
        ({"client_ca": "ca.pem"}, "TLS: client_ca needs a client_auth"),
        ({"minimum_version": "1.1"}, "TLS: minimum_version must be 1.2 or 1.3"),
        ({"handshake_timeout": 0}, "TLS: handshake_timeout must be more than 0"),
        ({"handshakes_at_once": 0}, "TLS: handshakes_at_once must be at least 1"),
        ({"reload_interval": 0}, "TLS: reload_interval must be more than 0"),
        ({"alpn": "h2"}, "TLS: alpn must be a sequence of names"),
        ({"alpn": [""]}, "TLS: alpn names are 1 to 255 ASCII bytes"),
    ],
)
def test_settings_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    """They are refused when they are made."""
    with pytest.raises(ValueError, match="^" + message):
        TLS(**{"certificates": Certificate("a.pem"), **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"verify": False, "ca": "ca.pem"}, "ClientTLS: ca makes no sense without verify"),
        ({"minimum_version": "1.0"}, "ClientTLS: minimum_version must be 1.2 or 1.3"),
        ({"handshake_timeout": -1}, "ClientTLS: handshake_timeout must be more than 0"),
        ({"handshakes_at_once": 0}, "ClientTLS: handshakes_at_once must be at least 1"),
        ({"sessions": -1}, "ClientTLS: sessions must be at least 0"),
        ({"reload_interval": 0}, "ClientTLS: reload_interval must be more than 0"),
    ],
)
def test_client_settings_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    """They are refused when they are made."""
    with pytest.raises(ValueError, match="^" + message):
        ClientTLS(**options)


async def test_settings_that_cannot_start(files: Files) -> None:
    """A side that cannot be made says why, and nothing runs."""
    nameless = files.issue("127.0.0.1")
    for settings, message in (
        (TLS(files.server, ciphers="NONE-SUCH"), "TLS: ciphers 'NONE-SUCH' select none; one that works: 'ECDHE"),
        (TLS([files.server, nameless]), f"TLS: no host name is written in {nameless.files[0]}; give it names="),
        (TLS(Certificate("/gone.pem")), "TLS: cannot read the certificate file /gone.pem: no such file or directory"),
    ):
        with pytest.raises(StartError) as raised:
            await ServerSide(settings).start()
        assert str(raised.value).startswith(message)
    side = ClientSide(ClientTLS(ca=files.ca))
    await side.fresh()
    with pytest.raises(ValueError, match="server_hostname must be set to call /run/x"):
        side.target("/run/x.sock", 0)
    assert client_side(ClientTLS(ca=files.ca)) is client_side(ClientTLS(ca=files.ca))


async def test_a_certificate_that_has_expired_is_served_with_a_warning(files: Files) -> None:
    """It is for the operator to know; clients without verification still get something."""
    old = files.issue("localhost", not_before=datetime(2019, 1, 1), not_after=datetime(2020, 1, 1))  # noqa: DTZ001
    new = files.issue("localhost", not_before=datetime(2090, 1, 1), not_after=datetime(2091, 1, 1))  # noqa: DTZ001
    with capture_logs() as logs:
        side = ServerSide(TLS([old, new]))
        await side.start()
        await side.stop()
    assert [(entry["event"], entry["log_level"], entry["certificate"]) for entry in logs] == [
        ("certificate has expired", "warning", old.files[0]),
        ("certificate is not valid yet", "warning", new.files[0]),
    ]


# Who is served which


@pytest.mark.both_loops
async def test_certificates_by_name(files: Files) -> None:
    """The name asked for decides, exactly or by its wildcard; everybody else gets the first."""
    first = files.issue("first.example")
    second = files.issue("Second.example", "*.wild.example")
    third = files.issue("whatever.example")
    third = Certificate(third.chain, third.key, names=["given.example"])
    async with serving(TLS([first, second, third], alpn=["x"])) as server:
        context = ssl.create_default_context(cafile=files.ca)
        context.check_hostname = False
        context.set_alpn_protocols(["x"])
        for name, expected in {
            "first.example": first,
            "second.example": second,
            "SECOND.example": second,
            "a.wild.example": second,
            "a.b.wild.example": first,
            "wild.example": first,
            "given.example": third,
            "whatever.example": first,
            "127.0.0.1": first,  # an address is no name: nothing is asked for
        }.items():
            async with connected(server, context, name) as (reader, writer):
                assert await echoed(reader, writer)
                shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
                assert shown == der(expected), name
                info = server.uppers[-1].info
                assert (info.server_name, info.alpn) == (None if name == "127.0.0.1" else name.lower(), "x")


# Resumption


def session_of(server: Server, context: ssl.SSLContext, session: ssl.SSLSession | None) -> ssl.SSLSession | None:
    """Call, say something, and give the session to resume by."""
    with blocking(server, context, session=session) as sock:
        sock.sendall(b"hello")
        assert sock.recv(5) == b"hello"
        assert sock.session_reused is (session is not None)
        return sock.session


@pytest.mark.both_loops
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_sessions_are_resumed(files: Files, version: ssl.TLSVersion) -> None:
    """The second call of a client that kept its session is resumed, and counted."""
    async with serving(TLS(files.server)) as server:
        context = files.client_context(maximum_version=version)
        session = await asyncio.wait_for(asyncio.to_thread(session_of, server, context, None), WAIT)
        await asyncio.wait_for(asyncio.to_thread(session_of, server, context, session), WAIT)
        found = server.side.statistics()
        assert (found["handshakes"], found["resumed"]) == (2, 1)
        assert [upper.info.resumed for upper in server.uppers] == [False, True]


async def test_sessions_without_tickets(files: Files) -> None:
    """Where tickets are switched off, clients get none."""
    async with serving(TLS(files.server, session_tickets=False)) as server:
        context = files.client_context()
        session = await asyncio.wait_for(asyncio.to_thread(session_of, server, context, None), WAIT)
        assert session is not None
        assert not session.has_ticket


@pytest.mark.both_loops
@pytest.mark.parametrize("version", ["1.2", "1.3"])
async def test_our_client_resumes(files: Files, version: str) -> None:
    """Calls to the same server resume its session; only so many servers' are kept, those used last."""
    context = files.server_context(files.issue("a.example", "b.example", "c.example"))
    if version == "1.2":
        context.maximum_version = ssl.TLSVersion.TLSv1_2

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    port = listener.sockets[0].getsockname()[1]
    side = ClientSide(ClientTLS(ca=files.ca, sessions=2))
    await side.fresh()
    resumed = []
    for host in ("a.example", "a.example", "b.example", "a.example", "c.example", "b.example"):
        async with calling(port, side.target(host, port)) as upper:
            await eventually(lambda: upper.received == b"hello")
            resumed.append(upper.info.resumed)
    assert resumed == [False, True, False, True, False, False]
    assert [host for host, _, _ in side.sessions] == ["c.example", "b.example"]
    side.target("c.example", port).failed()
    assert len(side.sessions) == 1
    listener.close()


# Files that change


def replace(target: Certificate, source: Certificate) -> None:
    """Put the files of ``source`` in place of ``target``'s, as an operator does: each at once."""
    for old, new in zip(target.files, source.files, strict=True):
        shutil.copyfile(new, old + ".new")
        os.replace(old + ".new", old)


@pytest.mark.both_loops
async def test_certificates_are_replaced_while_running(files: Files) -> None:
    """The next handshake gets the new one, connections keep theirs, and the log says until when it is valid."""
    served, other = files.issue("localhost"), files.issue("localhost")
    async with serving(TLS(served, reload_interval=0.05)) as server:
        context = files.client_context()
        async with connected(server, context) as (reader, writer):
            first = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            assert first == der(served)
            with capture_logs() as logs:
                replace(served, other)
                await eventually(lambda: server.side.statistics()["reloads"] == 1)
            async with connected(server, context) as (_, later):
                assert later.get_extra_info("ssl_object").getpeercert(binary_form=True) == der(other)
            assert await echoed(reader, writer)
        until = read_certificate(der(other)).not_after.isoformat()
        assert [(entry["event"], entry["not_after"]) for entry in logs if entry["event"] == "certificate loaded"] == [
            ("certificate loaded", until)
        ]


async def test_half_of_a_change_changes_nothing(files: Files) -> None:
    """A chain whose key has not come yet is not served; that is said once, and all is well when the key is there."""
    served, other = files.issue("localhost"), files.issue("localhost")
    side = ServerSide(TLS(served, reload_interval=1000))
    await side.start()
    before = side.current
    assert not await side.check()
    with capture_logs() as logs:
        shutil.copyfile(other.files[0], served.files[0])
        for _ in range(3):
            assert not await side.check()
        assert side.current is before
        Path(served.files[1]).unlink()
        for _ in range(3):
            assert not await side.check()
        shutil.copyfile(other.files[1], served.files[1])
        assert await side.check()
        assert not await side.check()
    assert [entry["event"] for entry in logs] == [
        "certificates not reloaded, the old ones are kept",
        "certificates not reloaded, the old ones are kept",
        "certificate loaded",
    ]
    assert "does not belong" in logs[0]["reason"]
    assert "no such file" in logs[1]["reason"]
    found = side.statistics()
    assert (found["reloads"], found["reloads_failed"]) == (1, 2)
    await side.stop()


async def test_files_that_change_while_they_are_read(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read may be of two states, so it is not taken; the next look takes the last one."""
    served, other, third = files.issue("localhost"), files.issue("localhost"), files.issue("localhost")
    side = ServerSide(TLS(served, reload_interval=1000))
    await side.start()
    before = side.current
    load = side.load

    def slow() -> Any:
        found = load()
        replace(served, third)
        return found

    monkeypatch.setattr(side, "load", slow)
    replace(served, other)
    assert not await side.check()
    assert side.current is before
    monkeypatch.setattr(side, "load", load)
    assert await side.check()
    assert side.current.own[0].not_after == read_certificate(der(third)).not_after
    await side.stop()


async def test_looking_goes_on_after_an_error(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody thought of is logged, and does not end the looking."""
    side = ServerSide(TLS(files.issue("localhost"), reload_interval=0.01))
    monkeypatch.setattr(side, "check", lambda: 1 / 0)
    with capture_logs() as logs:
        await side.start()
        await eventually(lambda: len(logs) > 1)
        await side.stop()
    assert logs[0]["event"] == "certificates could not be checked"


async def test_the_clients_own_files_are_followed(files: Files, tmp_path: Path) -> None:
    """A new CA is trusted from the next call on, and sessions that were made with the old one are forgotten."""
    ca = str(tmp_path / "ca.pem")
    files.foreign.cert_pem.write_to_path(ca)
    side = ClientSide(ClientTLS(ca=ca, reload_interval=0.001))
    async with serving(TLS(files.server)) as server:
        await side.fresh()
        async with calling(server.port, side.target("localhost", server.port)) as upper:
            await upper.owner.end()
        files.authority.cert_pem.write_to_path(ca)
        await asyncio.sleep(0.002)
        side.sessions[("x", 1, "x")] = cast("Any", object())
        await side.fresh()
        assert not side.sessions
        async with calling(server.port, side.target("localhost", server.port)) as upper:
            assert upper.info.certificate is not None


def test_other_kinds_of_keys(files: Files, tmp_path: Path) -> None:
    """A certificate with an RSA key is loaded as well, from one file with its key first."""
    leaf = files.authority.issue_cert("rsa.example", key_type=trustme.KeyType.RSA)
    both = tmp_path / "rsa.pem"
    leaf.private_key_and_cert_chain_pem.write_to_path(both)
    assert load_certificate(fresh_server(), Certificate(both)).dns_names == ("rsa.example",)
