"""Challenges as servers send them, and Digest's answers, against RFC 9110 section 11 and RFC 7616."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.http.client.auth_challenges import Challenge, parse_challenges, parse_parameters
from forebay.http.client.digest_rules import DigestSession, choose

RFC_7616_3_9_1 = (
    'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm={}, '
    'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
)
RFC_7616_3_9_2 = (
    'Digest realm="api@example.org", qop="auth", algorithm=SHA-512-256, '
    'nonce="5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK", '
    'opaque="HRPCssKJSGjCrkzDg8OhwpzCiGPChXYjwrI2QmXDnsOS", charset=UTF-8, userhash=true'
)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param(['Basic realm="a"'], [("basic", {"realm": "a"}, None)], id="11.6.1 one"),
        pytest.param(["Basic realm=a"], [("basic", {"realm": "a"}, None)], id="11.2 a token for a quoted string"),
        pytest.param(["BASIC Realm=a"], [("basic", {"realm": "a"}, None)], id="11.1 names in any case"),
        pytest.param(
            ['Basic realm="simple", Newauth realm="apps", type=1, title="Login to \\"apps\\""'],
            [
                ("basic", {"realm": "simple"}, None),
                ("newauth", {"realm": "apps", "type": "1", "title": 'Login to "apps"'}, None),
            ],
            id="11.6.1 the example of two in one field",
        ),
        pytest.param(
            ['Basic realm="a"', "Bearer"],
            [("basic", {"realm": "a"}, None), ("bearer", {}, None)],
            id="11.6.1 in two fields",
        ),
        pytest.param(["Negotiate"], [("negotiate", {}, None)], id="11.3 a scheme alone"),
        pytest.param(
            ["Negotiate, Basic realm=a"], [("negotiate", {}, None), ("basic", {"realm": "a"}, None)], id="then another"
        ),
        pytest.param(["Negotiate YII=="], [("negotiate", {}, "YII==")], id="11.2 token68"),
        pytest.param(
            ["Negotiate YII==, X a=b"], [("negotiate", {}, "YII=="), ("x", {"a": "b"}, None)], id="token68 and more"
        ),
        pytest.param(['X a = b , c= "d,e"'], [("x", {"a": "b", "c": "d,e"}, None)], id="11.2 blanks around ="),
        pytest.param([", ,Basic realm=a,,"], [("basic", {"realm": "a"}, None)], id="5.6.1 empty elements"),
        pytest.param(
            ['X a="b, Digest realm=c"'], [("x", {"a": "b, Digest realm=c"}, None)], id="a challenge in quotes"
        ),
        pytest.param(["X a=b, a=c"], [], id="11.2 a name twice"),
        pytest.param(['X a="b'], [], id="an open quote"),
        pytest.param(['X a=b, c="d'], [], id="an open quote, later"),
        pytest.param(["X a=b Y c=d"], [], id="no comma between"),
        pytest.param(["Basic realm=a; y=1"], [], id="not a list"),
        pytest.param(['Y c=d, X a="b', "Z"], [("y", {"c": "d"}, None), ("z", {}, None)], id="only that value"),
        pytest.param(["", "=", "???=", '"'], [], id="nothing"),
    ],
)
def test_challenges(values: list[str], expected: list[tuple[str, dict[str, str], str | None]]) -> None:
    """RFC 9110 section 11.6.1: what is well-formed is found, wherever it is."""
    assert [(one.scheme, one.parameters, one.token) for one in parse_challenges(values)] == expected


def test_there_is_an_end_to_challenges() -> None:
    """However many a server sends."""
    assert len(parse_challenges([", ".join(f"x{number} a=b" for number in range(10_000))])) == 32


TOKENS = st.text(alphabet="abcXYZ019!#-._~", min_size=1, max_size=8)
TEXTS = st.text(alphabet='abc ,="\\;é\t', max_size=12)


@given(
    st.lists(st.tuples(TOKENS, st.dictionaries(TOKENS.map(str.lower), TEXTS, max_size=4)), max_size=5),
    st.booleans(),
)
def test_what_is_written_is_read(challenges: list[tuple[str, dict[str, str]]], together: bool) -> None:
    """Any challenges, in one field or in several, are the ones that are found."""
    written = []
    for scheme, parameters in challenges:
        quoted = [
            f'{name}="{value}"'
            for name, value in ((n, v.replace("\\", "\\\\").replace('"', '\\"')) for n, v in parameters.items())
        ]
        written.append(f"{scheme} {', '.join(quoted)}".strip())
    found = parse_challenges([", ".join(written)] if together else written)
    assert [(one.scheme, one.parameters) for one in found] == [
        (scheme.lower(), parameters) for scheme, parameters in challenges
    ]


@given(st.lists(st.text(max_size=60), max_size=3))
def test_any_text_is_read(values: list[str]) -> None:
    """Nothing raises, and no challenge comes from nowhere."""
    for challenge in parse_challenges(values):
        assert any(challenge.scheme in value.lower() for value in values)
    for value in values:
        parse_parameters(value)


# -- Digest


def one(value: str) -> Challenge:
    """The only challenge of ``value``."""
    (challenge,) = parse_challenges([value])
    return challenge


def answered(header: str) -> dict[str, str]:
    """The parameters of an answer."""
    return one(header).parameters


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_the_example_with_two_algorithms(algorithm: str, response: str) -> None:
    """RFC 7616 section 3.9.1."""
    challenge = one(RFC_7616_3_9_1.format(algorithm))
    session = DigestSession(
        challenge, "Mufasa", "Circle of Life", cnonce="f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
    )
    header, _ = session.answer("GET", "/dir/index.html", b"")
    assert answered(header) == {
        "username": "Mufasa",
        "realm": "http-auth@example.org",
        "uri": "/dir/index.html",
        "algorithm": algorithm,
        "nonce": "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
        "nc": "00000001",
        "cnonce": "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
        "qop": "auth",
        "response": response,
        "opaque": "FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS",
    }


@pytest.mark.skipif("sha512_256" not in hashlib.algorithms_available, reason="this OpenSSL has no SHA-512/256")
def test_the_example_with_a_hashed_user_name() -> None:
    """RFC 7616 section 3.9.2, with the values of erratum 4897: those in the text are of another function."""
    cnonce = "NTg6RKcb9boFIAS3KrFK9BGeh+iDa/sm6jUMp2wds69v"
    session = DigestSession(one(RFC_7616_3_9_2), "Jäsøn Doe", "Secret, or not?", cnonce=cnonce)
    found = answered(session.answer("GET", "/doe.json", b"")[0])
    assert found["username"] == "793263caabb707a56211940d90411ea4a575adeccb7e360aeb624ed06ece9b0b"
    assert found["response"] == "3798d4131c277846293534c3edc11bd8a5e4cdcbff78b05db9d95eeb1cec68a5"
    assert found["userhash"] == "true"


def test_a_user_name_that_is_not_ascii() -> None:
    """RFC 7616 section 3.4: in its extended form where it is not hashed; one with quotes is quoted."""
    challenge = one('Digest realm="r", nonce="n", qop=auth, charset=UTF-8')
    assert (
        "username*=UTF-8''J%C3%A4s%C3%B8n%20Doe,"
        in DigestSession(challenge, "Jäsøn Doe", "x").answer("GET", "/", b"")[0]
    )
    name = DigestSession(challenge, "ä/~*'", "x").answer("GET", "/", b"")[0]
    assert "username*=UTF-8''%C3%A4%2F~%2A%27," in name, "RFC 5987 section 3.2.1: attr-char has neither / nor *"
    assert 'username="a\\"b\\\\c",' in DigestSession(challenge, 'a"b\\c', "x").answer("GET", "/", b"")[0]


def md5(text: str) -> str:
    """As in the formulas."""
    return hashlib.md5(text.encode()).hexdigest()


def test_a_session_key_is_made_once() -> None:
    """RFC 7616 section 3.4.2: -sess hashes the first nonces in, and keeps that; each answer counts one more."""
    session = DigestSession(one('Digest realm="r", nonce="n", qop=auth, algorithm=MD5-sess'), "u", "p", cnonce="c")
    key = md5(md5("u:r:p") + ":n:c")
    for count in ("00000001", "00000002"):
        found = answered(session.answer("GET", "/", b"")[0])
        assert found["nc"] == count
        assert found["response"] == md5(f"{key}:n:{count}:c:auth:{md5('GET:/')}")
    session.follow("next")
    found = answered(session.answer("GET", "/", b"")[0])
    assert (found["nonce"], found["nc"], found["algorithm"]) == ("next", "00000001", "MD5-sess")
    assert found["response"] == md5(f"{key}:next:00000001:c:auth:{md5('GET:/')}")


def test_content_is_hashed_where_the_server_wants_that_only() -> None:
    """RFC 7616 section 3.4.3: auth-int; not where content is not in memory."""
    session = DigestSession(one('Digest realm="r", nonce="n", qop="auth-int"'), "u", "p", cnonce="c")
    found = answered(session.answer("POST", "/x", b"content")[0])
    second = md5(f"POST:/x:{md5('content')}")
    assert (found["qop"], found["response"]) == ("auth-int", md5(f"{md5('u:r:p')}:n:00000001:c:auth-int:{second}"))
    assert not session.can_answer(None)
    with pytest.raises(ValueError, match="auth-int needs content"):
        session.answer("POST", "/x", None)


def test_a_server_without_quality_of_protection() -> None:
    """RFC 7616 section 3.4.1, for servers as old as RFC 2069."""
    found = answered(DigestSession(one('Digest realm="r", nonce="n"'), "u", "p").answer("GET", "/", None)[0])
    assert found.keys() == {"username", "realm", "nonce", "uri", "response"}
    assert found["response"] == md5(f"{md5('u:r:p')}:n:{md5('GET:/')}")


@pytest.mark.parametrize(
    ("offered", "md5_allowed", "content", "expected"),
    [
        pytest.param(["MD5", "SHA-256"], True, True, "SHA-256", id="3.7 the strongest"),
        pytest.param(["SHA-256", "MD5"], True, True, "SHA-256", id="3.7 in any order"),
        pytest.param(["SHA-256", "SHA-256-sess"], True, True, "SHA-256", id="3.7 of equals the first"),
        pytest.param(["sha-256"], True, True, "sha-256", id="3.3 in any case"),
        pytest.param(["MD5"], False, True, None, id="MD5 refused"),
        pytest.param(["MD5", "MD5-sess", "SHA-256"], False, True, "SHA-256", id="MD5 refused, there is another"),
        pytest.param(["SHA-1"], True, True, None, id="3.3 an algorithm that nobody knows"),
        pytest.param([], True, True, None, id="none"),
    ],
)
def test_which_challenge_is_answered(
    offered: list[str], md5_allowed: bool, content: bool, expected: str | None
) -> None:
    """RFC 7616 section 3.7."""
    challenges = parse_challenges([f'Digest realm="r", nonce="n", qop="auth", algorithm={name}' for name in offered])
    found = choose(challenges, md5=md5_allowed, content=content)
    assert (found.parameters["algorithm"] if found is not None else None) == expected


@pytest.mark.parametrize(
    ("value", "content", "answerable"),
    [
        pytest.param('Digest realm="r", nonce="n"', False, True, id="MD5 where nothing is said"),
        pytest.param('Digest realm="r", nonce="n", qop="auth-int"', True, True, id="auth-int"),
        pytest.param('Digest realm="r", nonce="n", qop="auth-int"', False, False, id="auth-int without content"),
        pytest.param('Digest realm="r", nonce="n", qop="auth-int,auth"', False, True, id="either"),
        pytest.param('Digest realm="r", nonce="n", qop="other"', True, False, id="another quality"),
        pytest.param('Digest realm="r"', True, False, id="no nonce"),
        pytest.param('Digest nonce="n"', True, False, id="no realm"),
        pytest.param('Basic realm="r", nonce="n"', True, False, id="another scheme"),
    ],
)
def test_what_can_be_answered(value: str, content: bool, answerable: bool) -> None:
    """RFC 7616 section 3.3: what a challenge has to have."""
    assert (choose([one(value)], md5=True, content=content) is not None) is answerable


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        pytest.param("{right}", True, id="right"),
        pytest.param("{right}, cnonce=c, nc=00000001, qop=auth", True, id="with what it is of"),
        pytest.param("{right}, cnonce=other", False, id="of another cnonce"),
        pytest.param("{right}, nc=00000002", False, id="of another request"),
        pytest.param("rspauth=0123", False, id="wrong"),
        pytest.param("nextnonce=x", None, id="not said"),
        pytest.param("rspauth=0123, qop=auth-int", None, id="of the content, which has not come"),
    ],
)
def test_whether_a_server_knows_the_password(said: str, verdict: bool | None) -> None:
    """RFC 7616 section 3.5: rspauth is as the response, without the method."""
    session = DigestSession(one('Digest realm="r", nonce="n", qop=auth'), "u", "p", cnonce="c")
    _, proof = session.answer("GET", "/", b"")
    assert proof is not None
    right = 'rspauth="' + md5(f"{md5('u:r:p')}:n:00000001:c:auth:{md5(':/')}") + '"'
    information = parse_parameters(said.format(right=right))
    assert information is not None
    assert proof.check(information) is verdict


def test_secrets_are_not_shown() -> None:
    """Neither the password nor what does for it."""
    session = DigestSession(one('Digest realm="r", nonce="n", qop=auth'), "u", "s3cret")
    assert "s3cret" not in repr(session)
    assert md5("u:r:s3cret") not in repr(session)
