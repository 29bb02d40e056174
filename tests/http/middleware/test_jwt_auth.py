"""JSON Web Tokens: good ones, forged ones, keys that change. Over a real server."""

from __future__ import annotations

import asyncio
import hmac
import json
from base64 import urlsafe_b64encode
from functools import partial
from hashlib import sha256
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey
from structlog.testing import capture_logs

from forebay.http import App, Request
from forebay.http.jwks import JWKS, KeysUnavailable
from forebay.http.middleware import JWTAuth
from tests.http.middleware.served import serving
from tests.support import eventually

SECRET = "s" * 64
NOW = 1_700_000_000
RSA = RSAKey.generate_key(2048, {"kid": "r1", "use": "sig", "alg": "RS256"})
EC = ECKey.generate_key("P-256", {"kid": "e1"})
ED = OKPKey.generate_key("Ed25519")
PEM = RSA.as_pem(private=False).decode()
CLAIMS = {"sub": "ann", "exp": NOW + 60, "iss": "https://id.example", "aud": "shop", "scope": "read write"}


def token(key: Any = None, algorithm: str = "HS256", *, without: str = "", header: Any = None, **claims: Any) -> str:
    """A signed token."""
    made = {name: value for name, value in (CLAIMS | claims).items() if name != without}
    key = key or OctKey.import_key(SECRET)
    return jwt.encode({"alg": algorithm} | (header or {}), made, key, algorithms=[algorithm])


def b64(data: bytes | dict[str, Any]) -> str:
    """As in a token."""
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def hand_made(header: Any, payload: Any = CLAIMS, secret: bytes = SECRET.encode()) -> str:
    """A token whose parts are as given, with an HMAC of them."""
    text = f"{b64(header)}.{b64(payload)}"
    return f"{text}.{b64(hmac.digest(secret, text.encode(), sha256))}"


def jwt_auth(key: Any = SECRET, algorithms: Any = ("HS256",), **options: Any) -> JWTAuth:
    """For the shop."""
    settings: dict[str, Any] = {"issuer": "https://id.example", "audience": "shop", "clock": lambda: NOW}
    return JWTAuth(key, algorithms=list(algorithms), **(settings | options))


def guarded(auth: JWTAuth) -> App[Any]:
    """An application that says who asks."""
    app: App[Any] = App()
    app.middleware(auth)

    @app.get("/")
    async def who(request: Request) -> str:
        return str(request.identity)

    return app


async def status_of(auth: JWTAuth, *tokens: str) -> list[int]:
    """What each token is answered with."""
    async with serving(guarded(auth)) as asker:
        return [(await asker.ask("/", ("authorization", f"Bearer {one}"))).status for one in tokens]


@pytest.mark.parametrize(
    ("key", "algorithm", "signer"),
    [
        (SECRET, "HS256", OctKey.import_key(SECRET)),
        (SECRET.encode(), "HS512", OctKey.import_key(SECRET)),
        (PEM, "RS256", RSA),
        (PEM, "PS256", RSAKey.import_key(RSA.as_pem(private=True))),
        (EC.as_pem(private=False), "ES256", EC),
        (ED.as_pem(private=False), "Ed25519", ED),
        (ED.as_pem(private=False), "EdDSA", None),
        ({"keys": [EC.as_dict(), RSA.as_dict(private=False)]}, "RS256", RSA),
        (EC.as_dict(), "ES256", EC),
    ],
)
async def test_good_tokens(key: Any, algorithm: str, signer: Any) -> None:
    """Each kind of key lets its tokens in, and not those of another signer."""
    auth = jwt_auth(key, [algorithm], scopes=["read"])
    if signer is None:
        with pytest.warns(UserWarning, match="EdDSA"):
            good = token(ED, algorithm)
    else:
        good = token(signer, algorithm)
    async with serving(guarded(auth)) as asker:
        answer = await asker.ask("/", ("authorization", f"Bearer {good}"))
        assert (answer.status, answer.body) == (200, b"ann")
        head, payload, signature = good.split(".")
        forged = f"{head}.{b64(CLAIMS | {'sub': 'eve'})}.{signature}"
        refused = await asker.ask("/", ("authorization", f"Bearer {forged}"))
        assert refused.status == 401
        assert refused.headers["www-authenticate"].startswith('Bearer realm="restricted", error="invalid_token"')
        assert payload not in forged


async def test_forgeries() -> None:
    """none, a public key as a secret, other algorithms, critical extensions, other types, keys in the header, rubbish:
    all refused, none an error."""
    public = PEM.encode()
    none = f"{b64({'alg': 'none'})}.{b64(CLAIMS)}."
    tokens = [
        none,
        none + "AA",
        none.replace(b64({"alg": "none"}), b64({"alg": "None"})) + "AA",
        hand_made({"alg": "HS256"}, secret=public),
        hand_made({"alg": "HS256", "kid": "r1"}, secret=public),
        token(RSAKey.generate_key(2048), "RS256"),
        token(RSAKey.import_key(RSA.as_pem(private=True)), "RS512"),
        token(RSA, "RS256", header={"typ": "logout+jwt"}),
        hand_made({"alg": "RS256", "jwk": EC.as_dict()}),
        hand_made([1]),
        hand_made({"alg": ["RS256"]}),
        hand_made({"alg": "RS256", "kid": 5}),
        hand_made(b"[" * 1000),
        hand_made(b"\xff"),
        "a.b.c",
        "a.b",
        "x" * 8193,
        hand_made({"alg": "RS256", "pad": "x" * 3000}),
    ]
    auth = jwt_auth(PEM, ["RS256"])
    found = await status_of(auth, *tokens)
    assert dict(zip(tokens, found, strict=True)) == dict.fromkeys(tokens, 401)
    assert auth.statistics()["invalid"] == len(tokens)


@pytest.mark.parametrize(
    ("header", "payload", "status"),
    [
        ({"alg": "HS256"}, CLAIMS, 200),
        ({"alg": "HS256", "jku": "https://evil.example", "pad": "x" * 600}, CLAIMS, 200),
        ({"alg": "HS256", "crit": ["exp"], "exp": 1}, CLAIMS, 401),
        ({"alg": "HS256", "crit": []}, CLAIMS, 401),
        ({"alg": "HS256", "crit": ["b64"], "b64": False}, CLAIMS, 401),
        ({"alg": "HS256", "typ": "secevent+jwt"}, CLAIMS, 401),
        ({"alg": "HS256", "kid": "x" * 100}, CLAIMS, 200),
        ({"alg": "HS384"}, CLAIMS, 401),
        ({"alg": "HS256", "pad": "x" * 2000}, CLAIMS, 401),
        ({"alg": "HS256"}, [CLAIMS], 401),
        ({"alg": "HS256"}, b"[" * 3000, 401),
        ({"alg": "HS256"}, b"not JSON", 401),
    ],
)
async def test_headers_of_tokens_that_are_signed(header: Any, payload: Any, status: int) -> None:
    """The signature is right: what the header or the payload says decides."""
    assert await status_of(jwt_auth(), hand_made(header, payload)) == [status]


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"exp": NOW - 29}, 200),
        ({"exp": NOW - 30}, 401),
        ({"exp": "soon"}, 401),
        ({"exp": float(NOW + 1)}, 200),
        ({"without": "exp"}, 401),
        ({"nbf": NOW + 30}, 200),
        ({"nbf": NOW + 31}, 401),
        ({"iat": NOW + 31}, 401),
        ({"iss": "https://evil.example"}, 401),
        ({"without": "iss"}, 401),
        ({"aud": ["other", "shop"]}, 200),
        ({"aud": "shopping"}, 401),
        ({"without": "aud"}, 401),
        ({"sub": 5}, 401),
        ({"header": {"typ": "at+jwt"}}, 200),
        ({"header": {"typ": "application/JWT"}}, 200),
    ],
)
async def test_claims(changes: dict[str, Any], status: int) -> None:
    """Times with 30 seconds of leeway, the issuer, the audience; all that is asked for must be there."""
    assert await status_of(jwt_auth(), token(**changes)) == [status]


async def test_what_else_is_asked_for() -> None:
    """Scopes, claims of one's own, an audience where none is expected, an identity that is refused."""
    assert await status_of(jwt_auth(scopes=["admin"]), token(), token(scope="admin")) == [403, 200]
    assert await status_of(jwt_auth(scopes=["a"]), token(without="scope", scp=["a"]), token(scope=5)) == [200, 403]
    assert await status_of(jwt_auth(required=["exp", "jti"]), token(), token(jti="1")) == [401, 200]
    assert await status_of(jwt_auth(required=[]), token(without="exp")) == [200]
    assert await status_of(jwt_auth(audience=None), token(), token(without="aud")) == [401, 200]
    assert await status_of(jwt_auth(identity=lambda claims: None), token()) == [401]
    assert await status_of(jwt_auth(identity=lambda claims: False), token()) == [401]


async def test_tokens_are_not_logged() -> None:
    """Neither when they are refused, nor why they are at debug."""
    bad = token(exp=1)
    with capture_logs() as logs:
        await status_of(jwt_auth(), bad)
    assert logs
    assert bad not in str(logs)


class Issuer:
    """Gives its keys, slowly if asked to, or fails."""

    def __init__(self, *keys: Any) -> None:
        self.keys = list(keys)
        self.fetches = 0
        self.fails = False
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self) -> bytes:
        self.fetches += 1
        await self.go.wait()
        if self.fails:
            raise ConnectionError("no route")
        return json.dumps({"keys": [key.as_dict(private=False) for key in self.keys]}).encode()


class Clock:
    """Time that is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_fetched_keys_follow_the_issuer() -> None:
    """Fetched when needed, once for all; again for a key that is unknown, but only so often; in the background when
    old; and kept when the issuer cannot be reached."""
    issuer, clock = Issuer(RSA), Clock()
    keys = JWKS(issuer, refresh=300, pause=30, keep=1000, clock=clock)
    auth = jwt_auth(keys, ["RS256", "ES256"])
    old, new, unknown = (
        token(RSA, "RS256", header={"kid": "r1"}),
        token(EC, "ES256", header={"kid": "e1"}),
        token(EC, "ES256", header={"kid": "e2"}),
    )
    async with serving(guarded(auth)) as asker:

        async def ask(one: str) -> int:
            return (await asker.ask("/", ("authorization", f"Bearer {one}"))).status

        issuer.go.clear()
        waiting = asyncio.create_task(keys.keys())
        also = asyncio.create_task(keys.keys())
        await eventually(lambda: issuer.fetches)
        issuer.go.set()
        assert len(await waiting) == len(await also) == 1
        assert (await ask(old), issuer.fetches) == (200, 1)
        assert (await ask(new), issuer.fetches) == (401, 1)  # too soon to ask again
        issuer.keys.append(EC)
        clock.now += 30
        assert (await ask(new), issuer.fetches) == (200, 2)
        for _ in range(20):
            assert await ask(unknown) == 401
        assert issuer.fetches == 2
        clock.now += 300
        assert await ask(old) == 200
        await eventually(lambda: issuer.fetches == 3)
        issuer.fails = True
        clock.now += 300
        with capture_logs() as logs:
            assert await ask(old) == 200
            await eventually(lambda: logs)
            assert (await ask(old), issuer.fetches) == (200, 4)
        assert logs[0]["event"] == "keys not fetched, the last ones are kept"
        clock.now += 701
        answer = await asker.ask("/", ("authorization", f"Bearer {old}"))
        assert (answer.status, answer.headers["retry-after"]) == (503, "30")
        assert keys.statistics() == {"fetches": 5, "failures": 2, "keys": 0}
    await keys.close()


async def test_a_fetch_goes_on_when_its_client_has_left() -> None:
    """Who asks and leaves keeps nobody from the keys, neither from the first nor from new ones."""
    issuer, clock = Issuer(RSA), Clock()
    keys = JWKS(issuer, pause=30, clock=clock)
    for kid, fetches in (("r1", 1), ("e1", 2)):
        issuer.go.clear()
        left = asyncio.create_task(keys.keys_with(kid))
        await eventually(partial(_equal, issuer, fetches))
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        issuer.go.set()
        assert [key.kid for key in await keys.keys_with(kid)] == [kid]
        assert keys.statistics() == {"fetches": fetches, "failures": 0, "keys": fetches}
        issuer.keys.append(EC)
        clock.now += 30


async def test_closing_ends_a_fetch() -> None:
    """Who waits for it is told that there are no keys; the next one may come after a pause."""
    issuer, clock = Issuer(RSA), Clock()
    keys = JWKS(issuer, pause=30, clock=clock)
    issuer.go.clear()
    waiting = asyncio.create_task(keys.keys())
    await eventually(lambda: issuer.fetches)
    await keys.close()
    with pytest.raises(KeysUnavailable):
        await waiting
    issuer.go.set()
    clock.now += 30
    assert len(await keys.keys()) == 1


async def _fetch() -> bytes:
    return b"{}"


@pytest.mark.parametrize(
    "document",
    [
        b"[]",
        b"{}",
        b'{"keys": []}',
        b"x" * 300_000,
        b'{"keys": [{"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"}, 5]}',
    ],
)
async def test_documents_that_are_none(document: bytes) -> None:
    """No keys, and an answer that says so; secrets are not taken from what everybody can read."""

    async def fetch() -> bytes:
        return document

    assert await status_of(jwt_auth(JWKS(fetch), ["RS256"]), token(RSA, "RS256")) == [503]


@pytest.mark.parametrize(
    ("key", "algorithms", "words"),
    [
        (SECRET, ["none"], "must be one of HS256"),
        (SECRET, [], "at least one"),
        (SECRET, "HS256", "must be a list"),
        (SECRET, ["HS256", "RS256"], "could be taken for a secret"),
        (PEM, ["HS256"], "public or private key"),
        ("short", ["HS256"], "a secret of 5 bytes: must have at least 32"),
        ("s" * 33, ["HS512"], "must have at least 64"),
        ("rubbish", ["RS256"], "public RSA key in PEM"),
        (EC.as_pem(private=False), ["RS256"], "public RSA key in PEM"),
        ({"keys": [EC.as_dict()]}, ["RS256"], "none of the keys is for RS256"),
        (JWKS(Issuer()), ["HS256"], "takes secrets"),
    ],
)
def test_keys_and_algorithms_that_do_not_fit(key: Any, algorithms: Any, words: str) -> None:
    """Refused when it is made, not when the first token comes."""
    with pytest.raises(ValueError, match=words) as caught:
        JWTAuth(key, algorithms=algorithms)
    assert SECRET not in str(caught.value)


async def test_optional_and_described() -> None:
    """Nobody may pass; the scheme for OpenAPI; no secret in repr."""
    auth = jwt_auth(optional=True)
    async with serving(guarded(auth)) as asker:
        assert (await asker.ask("/")).body == b"None"
    assert auth.security() == ("jwtAuth", {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"})
    assert repr(auth) == (
        "JWTAuth(<1 keys>, algorithms=['HS256'], issuer='https://id.example', audience='shop', leeway=30, "
        "realm='restricted', optional=True)"
    )
    fetched = jwt_auth(JWKS(_fetch), ["RS256"], audience=None)
    assert repr(fetched).startswith("JWTAuth(JWKS(_fetch, refresh=300), algorithms=['RS256'], issuer=")


def _equal(issuer: Issuer, fetches: int) -> bool:
    return issuer.fetches == fetches
