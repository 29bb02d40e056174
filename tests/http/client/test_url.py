"""URLs: what is read and what is refused, references (RFC 3986 section 5.4), and that nothing adds a line to a head."""

from __future__ import annotations

from decimal import Decimal
from enum import Enum
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.http.client.content import Content
from forebay.http.client.endpoint import endpoint_of
from forebay.http.client.request import ClientRequest
from forebay.http.client.url import URL, encode_fields, parse_url, split_userinfo
from forebay.http.headers import MutableHeaders

LONG = ".".join(["a" * 63] * 3) + "." + "b" * 61

READ = [
    # text: scheme, host, port, authority, target, fragment
    ("http://a", "http", "a", 80, "a", "/", ""),
    ("http://a/", "http", "a", 80, "a", "/", ""),
    ("https://a/", "https", "a", 443, "a", "/", ""),
    ("HTTP://EXAMPLE.org/Path", "http", "example.org", 80, "example.org", "/Path", ""),
    ("http://a:80/", "http", "a", 80, "a", "/", ""),
    ("http://a:443/", "http", "a", 443, "a:443", "/", ""),
    ("https://a:443/", "https", "a", 443, "a", "/", ""),
    ("https://a:80/", "https", "a", 80, "a:80", "/", ""),
    ("http://a:/", "http", "a", 80, "a", "/", ""),
    ("http://a:08080/", "http", "a", 8080, "a:8080", "/", ""),
    ("http://a:65535/", "http", "a", 65535, "a:65535", "/", ""),
    ("http://a:1", "http", "a", 1, "a:1", "/", ""),
    ("http://a?", "http", "a", 80, "a", "/?", ""),
    ("http://a?b=c", "http", "a", 80, "a", "/?b=c", ""),
    ("http://a#b", "http", "a", 80, "a", "/", "b"),
    ("http://a/b?c?d#e#f", "http", "a", 80, "a", "/b?c?d", "e%23f"),
    ("http://127.0.0.1:8000/", "http", "127.0.0.1", 8000, "127.0.0.1:8000", "/", ""),
    ("http://127.0.0.1./", "http", "127.0.0.1", 80, "127.0.0.1", "/", ""),
    ("http://[::1]/", "http", "::1", 80, "[::1]", "/", ""),
    ("http://[::1]:/", "http", "::1", 80, "[::1]", "/", ""),
    ("https://[::1]:8443/", "https", "::1", 8443, "[::1]:8443", "/", ""),
    ("http://[2001:DB8:0:0::1]/", "http", "2001:db8::1", 80, "[2001:db8::1]", "/", ""),
    ("http://my_service.local/", "http", "my_service.local", 80, "my_service.local", "/", ""),
    ("http://a.example./", "http", "a.example.", 80, "a.example.", "/", ""),
    ("http://1a/", "http", "1a", 80, "1a", "/", ""),
    ("http://1.a/", "http", "1.a", 80, "1.a", "/", ""),
    (f"http://{LONG}/", "http", LONG, 80, LONG, "/", ""),
    ("http://bücher.example/", "http", "xn--bcher-kva.example", 80, "xn--bcher-kva.example", "/", ""),
    ("http://BÜCHER.example:81/", "http", "xn--bcher-kva.example", 81, "xn--bcher-kva.example:81", "/", ""),
    ("http://例え。jp/", "http", "xn--r8jz45g.jp", 80, "xn--r8jz45g.jp", "/", ""),
    ("http://a/b c", "http", "a", 80, "a", "/b%20c", ""),
    ("http://a/ü?ü#ü", "http", "a", 80, "a", "/%C3%BC?%C3%BC", "%C3%BC"),
    ("http://a/%C3%bc%2F", "http", "a", 80, "a", "/%C3%bc%2F", ""),
    ("http://a/100%", "http", "a", 80, "a", "/100%25", ""),
    ("http://a/%zz%4", "http", "a", 80, "a", "/%25zz%254", ""),
    ("http://a/?x=100%&y=%20", "http", "a", 80, "a", "/?x=100%25&y=%20", ""),
    ('http://a/<>"{}|^`[]\\', "http", "a", 80, "a", "/%3C%3E%22%7B%7D%7C%5E%60%5B%5D%5C", ""),
    ("http://a/:@!$&'()*+,;=-._~", "http", "a", 80, "a", "/:@!$&'()*+,;=-._~", ""),
    ("http://a/?a[]=1", "http", "a", 80, "a", "/?a%5B%5D=1", ""),
    ("http://a/?u=http://b/?c", "http", "a", 80, "a", "/?u=http://b/?c", ""),
    ("http://a//b//c", "http", "a", 80, "a", "//b//c", ""),
    ("http://a/b/../c/./d", "http", "a", 80, "a", "/c/d", ""),
    ("http://a/../..", "http", "a", 80, "a", "/", ""),
    ("http://a/b/..?../c", "http", "a", 80, "a", "/?../c", ""),
    ("http://a/...", "http", "a", 80, "a", "/...", ""),
    ("http://a/b@c:d", "http", "a", 80, "a", "/b@c:d", ""),
    ("http://a?b@c", "http", "a", 80, "a", "/?b@c", ""),
    ("http://a/\u2028", "http", "a", 80, "a", "/%E2%80%A8", ""),
]


@pytest.mark.parametrize(("text", "scheme", "host", "port", "authority", "target", "fragment"), READ)
def test_what_is_read(text: str, scheme: str, host: str, port: int, authority: str, target: str, fragment: str) -> None:
    """Its parts; and what it becomes is read as the same again."""
    url = parse_url(text)
    found = (url.scheme, url.host, url.port, url.authority, url.target, url.fragment)
    assert found == (scheme, host, port, authority, target, fragment)
    assert parse_url(str(url)) == url
    assert url.origin == f"{scheme}://{authority}"
    assert url.secure is (scheme == "https")
    assert (url.path, url.query) == (target.partition("?")[0], target.partition("?")[2])


REFUSED = [
    ("", "must be like http://"),
    ("a", "must be like http://"),
    ("/a", "must be like http://"),
    ("//a/", "must be like http://"),
    ("a:80", "must be like http://"),
    ("http:a", "must be like http://"),
    ("http:/a", "must be like http://"),
    ("http://", "must be like http://"),
    ("http:///a", "must be like http://"),
    ("http://?a", "must be like http://"),
    ("ftp://a/", "must be like http://"),
    ("httpx://a/", "must be like http://"),
    ("unix:///a", "must be like http://"),
    ("javascript:alert(1)", "must be like http://"),
    ("http://:80/", "must be the name of a host"),
    ("http://u@a/", "must be without a user"),
    ("http://u:p@a/", "must be without a user"),
    ("http://@a/", "must be without a user"),
    ("http://a:0/", "port '0' must be a number from 1"),
    ("http://a:65536/", "port '65536' must be"),
    ("http://a:-1/", "port '-1' must be"),
    ("http://a:+1/", r"port '\+1' must be"),
    ("http://a:8x/", "port '8x' must be"),
    ("http://a:٨/", "port '٨' must be"),
    (f"http://a:{'9' * 5000}/", "port '99999999999999999999' must be"),
    ("http://a:80:80/", "port '80:80' must be"),
    ("http://::1/", "must be"),
    ("http://[::1/", "must be like"),
    ("http://[::1]a/", "must be like"),
    ("http://[::1]80/", "must be like"),
    ("http://[]/", "no IPv6 address"),
    ("http://[a]/", "no IPv6 address"),
    ("http://[127.0.0.1]/", "no IPv6 address"),
    ("http://[v1.a]/", "no IPv6 address"),
    ("http://[fe80::1%eth0]/", "a zone makes sense"),
    ("http://[fe80::1%25eth0]/", "a zone makes sense"),
    ("http://a..b/", "must be the name of a host"),
    ("http://.a/", "must be the name of a host"),
    ("http://-a/", "must be the name of a host"),
    ("http://a b/", "must be the name of a host"),
    ("http://a%20b/", "must be the name of a host"),
    ("http://a%00/", "must be the name of a host"),
    ("http://a\\b/", "must be the name of a host"),
    ("http://a\\@b/", "must be without a user"),
    ("http://a,b/", "must be the name of a host"),
    ("http://*/", "must be the name of a host"),
    (f"http://{'a' * 64}/", "must be the name of a host"),
    (f"http://{LONG}b/", "must be the name of a host"),
    ("http://a℀b/", "must be the name of a host"),  # which IDNA makes a/b of
    ("http://a＃b/", "must be the name of a host"),
    ("http://ü..b/", "no name of a host"),
    ("http://straße.example/", "xn--"),  # which is strasse.example to some, and another host to others
    ("http://a\u200db.example/", "xn--"),
    (f"http://{'ü' * 300}/", "too long"),
    ("http://127.1/", "no IPv4 address"),
    ("http://2130706433/", "no IPv4 address"),
    ("http://0x7f.1/", "no IPv4 address"),
    ("http://0x/", "no IPv4 address"),
    ("http://127.0.0.01/", "no IPv4 address"),
    ("http://256.0.0.1/", "no IPv4 address"),
    ("http://1.2.3.4.5/", "no IPv4 address"),
    (" http://a/", "blanks around"),
    ("http://a/ ", "blanks around"),
    ("http://a/\r\nx: y", r"character '\\r' at 9"),
    ("http://a/\n", r"character '\\n' at 9"),
    ("http://a\t/", r"character '\\t' at 8"),
    ("ht\ntp://a/", r"character '\\n' at 2"),
    ("http://a/\0", r"character '\\x00'"),
    ("http://a/?\x7f", r"character '\\x7f'"),
    ("http://a/#\x1b", r"character '\\x1b'"),
    ("http://a/\x85", r"character '\\x85'"),
    ("http://a/\ud800", r"character '\\ud800'"),
]


@pytest.mark.parametrize(("text", "match"), REFUSED)
def test_what_is_refused(text: str, match: str) -> None:
    """With an error that says what is wrong with it."""
    with pytest.raises(ValueError, match=match):
        parse_url(text)


def test_errors_tell_no_passwords() -> None:
    """Nor are they endless."""
    shapes = ("http://{}@a/", "ftp://{}@a/", "http://{}@a/\r\n", "//{}@a")
    raw = (
        "http://user:secret/x@a/",
        "http://user:secret?@a/",
        "http://user:secret#p@ss@a/",
        "http://user:secret/\n@a/",
    )
    for text in (*(shape.format("user:secret") for shape in shapes), *raw):
        with pytest.raises(ValueError, match=r"\*\*\*@a") as e:
            parse_url(text)
        assert "secret" not in str(e.value)
    with pytest.raises(ValueError, match="must be like") as e:
        parse_url("x" * 1_000_000)
    assert len(str(e.value)) < 400


# RFC 3986 section 5.4, against http://a/b/c/d;p?q
REFERENCES = {
    "http://g/x": "http://g/x",
    "g": "http://a/b/c/g",
    "./g": "http://a/b/c/g",
    "g/": "http://a/b/c/g/",
    "/g": "http://a/g",
    "//g": "http://g/",
    "?y": "http://a/b/c/d;p?y",
    "g?y": "http://a/b/c/g?y",
    "#s": "http://a/b/c/d;p?q#s",
    "g#s": "http://a/b/c/g#s",
    "g?y#s": "http://a/b/c/g?y#s",
    ";x": "http://a/b/c/;x",
    "g;x": "http://a/b/c/g;x",
    "g;x?y#s": "http://a/b/c/g;x?y#s",
    "": "http://a/b/c/d;p?q",
    ".": "http://a/b/c/",
    "./": "http://a/b/c/",
    "..": "http://a/b/",
    "../": "http://a/b/",
    "../g": "http://a/b/g",
    "../..": "http://a/",
    "../../": "http://a/",
    "../../g": "http://a/g",
    "../../../g": "http://a/g",
    "../../../../g": "http://a/g",
    "/./g": "http://a/g",
    "/../g": "http://a/g",
    "g.": "http://a/b/c/g.",
    ".g": "http://a/b/c/.g",
    "g..": "http://a/b/c/g..",
    "..g": "http://a/b/c/..g",
    "./../g": "http://a/b/g",
    "./g/.": "http://a/b/c/g/",
    "g/./h": "http://a/b/c/g/h",
    "g/../h": "http://a/b/c/h",
    "g;x=1/./y": "http://a/b/c/g;x=1/y",
    "g;x=1/../y": "http://a/b/c/y",
    "g?y/./x": "http://a/b/c/g?y/./x",
    "g?y/../x": "http://a/b/c/g?y/../x",
    "g#s/./x": "http://a/b/c/g#s/./x",
    "g#s/../x": "http://a/b/c/g#s/../x",
}


@pytest.mark.parametrize(("reference", "expected"), REFERENCES.items())
def test_references(reference: str, expected: str) -> None:
    """Each example of RFC 3986 section 5.4.1 and 5.4.2 that is of HTTP."""
    url = parse_url("http://a/b/c/d;p?q").join(reference)
    assert f"{url}#{url.fragment}".rstrip("#") == expected


@pytest.mark.parametrize("reference", ["g:h", "http:g", "https:/g", "mailto:a@b", "//", "///g", "//u@g", "/\n", "\0"])
def test_references_to_nowhere(reference: str) -> None:
    """Other schemes, and those without a host: ``http:g`` is read strictly (RFC 3986 section 5.2.2)."""
    with pytest.raises(ValueError, match="URL"):
        parse_url("http://a/b/c/d;p?q").join(reference)


def test_references_from_the_server_as_a_whole() -> None:
    """``*`` is no path to go on from."""
    server = parse_url("http://a:81").with_target("*")
    assert str(server) == "http://a:81"
    assert [server.join(one).target for one in ("b", "?c", "/d", "")] == ["/b", "/?c", "/d", "*"]


@given(st.text(alphabet="abg./;?=#:@%-_é ", max_size=30))
def test_references_lead_where_others_say(reference: str) -> None:
    """As the standard library resolves them, where that is strict enough, and to a URL that is one."""
    base = parse_url("https://h/b/c/d;p?q")
    try:
        url = base.join(reference)
    except ValueError:
        return
    assert parse_url(str(url)) == url
    parts = urlsplit(str(url))
    assert (parts.hostname, parts.port or 443) == (url.host, url.port)
    segments = url.path.split("/")
    assert not {".", ".."} & set(segments)


def test_other_targets() -> None:
    """A path and a query that are encoded as in a URL."""
    url = parse_url("https://a:444/b?c#d")
    assert str(url.with_target("/x y?z=ü")) == "https://a:444/x%20y?z=%C3%BC"
    assert url.with_target("/x#f").fragment == "f"
    assert url.with_target("/x/../y").target == "/y"
    assert url.with_target("//evil.example/").authority == "a:444"
    assert url.with_target("//evil.example/").target == "//evil.example/"
    for target in ("", "x", "?x", "http://b/", "**", "/\r\n", "/\0"):
        with pytest.raises(ValueError, match="URL"):
            url.with_target(target)


class Level(Enum):
    """Members that are no text."""

    LOW = 1
    HIGH = "x"


class Colour(str, Enum):  # noqa: UP042 - what programs have that are older than StrEnum
    """Members that are text, of which ``str()`` says ``Colour.RED``."""

    RED = "red"


def test_fields_of_the_query() -> None:
    """Are added behind what is there; lists are several, None is empty."""
    assert parse_url("http://a/b?c=1#f", {"d": [1, 2], "e f": None}).target == "/b?c=1&d=1&d=2&e+f="
    assert parse_url("http://a/b", [("x", "1&2"), ("x", "ü")]).target == "/b?x=1%262&x=%C3%BC"
    assert (
        parse_url("http://a/b", {"t": True, "f": False, "n": 1.5, "d": Decimal("1.10")}).query
        == "t=true&f=false&n=1.5&d=1.10"
    )
    assert parse_url("http://a/b", {"a": list(Level), "b": Colour.RED}).query == "a=1&a=x&b=red"
    assert parse_url("http://a/b", {}).target == "/b"
    assert parse_url("http://a/b?", {"x": 1}).target == "/b?x=1"
    assert parse_url("http://a/b", {"x": "\r\nhost: b"}).target == "/b?x=%0D%0Ahost%3A+b"


@pytest.mark.parametrize("value", [b"1", {"a": 1}, [[1]], {1}])
def test_fields_that_are_none(value: Any) -> None:
    """What would be sent as Python writes it is refused by name."""
    with pytest.raises(TypeError, match="field 'x': must be text"):
        parse_url("http://a/", {"x": value})
    with pytest.raises(TypeError, match="fields of type str"):
        parse_url("http://a/", "x=1")  # type: ignore[arg-type]  # what is refused
    with pytest.raises(ValueError, match="must be Unicode"):
        encode_fields({"x": "\ud800"})


@given(st.lists(st.tuples(st.text(min_size=1), st.text())))
def test_fields_arrive(fields: list[tuple[str, str]]) -> None:
    """As they were given, whatever is in them."""
    assert parse_qsl(parse_url("http://a/", fields).query, keep_blank_values=True) == fields


@pytest.mark.parametrize(
    ("text", "without", "user"),
    [
        ("http://a/", "http://a/", None),
        ("http://u:p@a/", "http://a/", ("u", "p")),
        ("http://u@a:81/x", "http://a:81/x", ("u", "")),
        ("http://:p@a", "http://a", ("", "p")),
        ("http://@a/", "http://a/", ("", "")),
        ("http://u%40x:p%3Aq:r@a/", "http://a/", ("u@x", "p:q:r")),
        ("http://u:p@q@a/", "http://a/", ("u", "p@q")),
        ("http://u:%C3%BC@a?x", "http://a?x", ("u", "ü")),
        ("http://a/x@y", "http://a/x@y", None),
        ("http://a?x@y", "http://a?x@y", None),
        ("http://a#x@y", "http://a#x@y", None),
        ("a@b", "a@b", None),
        ("/x://u@a", "/x://a", ("u", "")),
    ],
)
def test_userinfo(text: str, without: str, user: tuple[str, str] | None) -> None:
    """Is taken out, and decoded."""
    assert split_userinfo(text) == (without, user)


@pytest.mark.parametrize(
    "text", ["http://u%0D%0A@a/", "http://u:p%00@a/", "http://u:\n@a/", "http://u:%FF@a/", "http://u\\@a/"]
)
def test_userinfo_that_is_none(text: str) -> None:
    """Controls, what is no text, and what others end the host at: some would say that this one is u."""
    with pytest.raises(ValueError, match=r"\*\*\*@a.*its user (and|or) password must be"):
        split_userinfo(text)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("http://a/x", "http://a:80/y", True),
        ("http://a/", "HTTP://A/", True),
        ("http://bücher.example/", "http://xn--bcher-kva.example/", True),
        ("http://[::1]/", "http://[0:0::1]/", True),
        ("http://a/", "https://a/", False),
        ("http://a:443/", "https://a/", False),
        ("http://a/", "http://a:81/", False),
        ("http://a/", "http://a./", False),
        ("http://a/", "http://b.a/", False),
    ],
)
def test_origins(one: str, other: str, same: bool) -> None:
    """RFC 6454 section 4: scheme, host and port, however they are written."""
    assert parse_url(one).same_origin(parse_url(other)) is same


def test_a_url_by_hand() -> None:
    """Cannot hold what would be a line of its own."""
    assert str(URL("http", "a", 80, "a", "/x")) == "http://a/x"
    for target in ("", "x", "/ ", "/\r\n", "/x\n", "/ü", "*x"):
        with pytest.raises(ValueError, match="URL target"):
            URL("http", "a", 80, "a", target)
    for authority in ("", "a b", "a\r\nx:", "a/b", "u@a", "ü"):
        with pytest.raises(ValueError, match="URL authority"):
            URL("http", "a", 80, authority, "/")


@given(
    st.sampled_from(["GET", "POST"]) | st.text(max_size=20),
    st.text(max_size=50).map("/{}".format) | st.text(max_size=20).map("?{}".format) | st.text(max_size=20),
    st.dictionaries(st.text(max_size=8), st.text(max_size=20), max_size=3),
    st.dictionaries(
        st.sampled_from(["x-a", "X-B", "Host", "content-type", "Content-Length"]) | st.text(max_size=8),
        st.sampled_from(["a", "a b", ""]) | st.text(max_size=20),
        max_size=2,
    ),
    st.sampled_from(["", "text/plain"]) | st.text(max_size=20),
)
def test_no_input_adds_a_line(
    method: str, target: str, params: dict[str, str], headers: dict[str, str], kind: str
) -> None:
    """Whatever a program puts into a request: it is refused, or the head has the lines it should have."""
    try:
        url = parse_url(f"http://a{target}", params)
        if target.startswith("/"):
            url = url.with_target(target)
        request = ClientRequest("GET", url, MutableHeaders(headers), Content(b"a", kind)).copy(method=method)
        head = request.head(endpoint_of(url))
    except ValueError:
        return
    lines = head.split(b"\r\n")
    left_out = {"content-length", "transfer-encoding"}
    own = [name for name in headers if name.lower() not in left_out]
    added = 3 + bool(kind and "content-type" not in {name.lower() for name in own})
    assert len(lines) == added + len(own) - ("host" in {name.lower() for name in own}) + 1
    assert lines[0].count(b" ") == 2
    assert not any(b"\r" in line or b"\n" in line or b"\0" in line for line in lines)
