"""The router's rules as a table: for each set of routes, what takes which request, with which parameters.

A line is ``METHOD path -> METHOD route  parameters``, or ``-> 404``, or ``-> 405`` with the methods that would be
taken. What stands before the first slash of a path or a route is its host.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Any, NamedTuple
from uuid import UUID

import pytest

from forebay.http.converters import Converter
from forebay.http.router import Router

IDENTITY = "12345678-1234-1234-1234-1234567890ab"

TABLE = """
# literals
GET /
GET /users
GET /users/
GET /users/me
GET /users/me/
GET /a/b/c/d
GET //
GET /a//b
GET /café
GET /a b
GET /x.y~z
GET /50%
GET /%41
GET /a+b
GET /(1)
GET /Users/Me
---
GET /                                      -> GET /
GET /users                                 -> GET /users
GET /users/                                -> GET /users/
GET /users//                               -> 404
GET /users/me                              -> GET /users/me
GET /users/me/                             -> GET /users/me/
GET /users/me//                            -> 404
GET /users/m                               -> 404
GET /users/mee                             -> 404
GET /USERS                                 -> 404
GET /Users/Me                              -> GET /Users/Me
GET /a/b/c/d                               -> GET /a/b/c/d
GET /a/b/c                                 -> 404
GET /a/b/c/d/e                             -> 404
GET /a                                     -> 404
GET //                                     -> GET //
GET ///                                    -> 404
GET /a//b                                  -> GET /a//b
GET /a/b                                   -> 404
GET /a///b                                 -> 404
GET /%75sers                               -> GET /users
GET /%75%73%65%72%73                       -> GET /users
GET /users%2F                              -> 404
GET /users%2Fme                            -> 404
GET /users%2fme                            -> 404
GET /caf%C3%A9                             -> GET /café
GET /caf%c3%a9                             -> GET /café
GET /café                                  -> GET /café
GET /cafe%CC%81                            -> 404
GET /a%20b                                 -> GET /a b
GET /a+b                                   -> GET /a+b
GET /a%2Bb                                 -> GET /a+b
GET /x.y~z                                 -> GET /x.y~z
GET /x%2Ey%7Ez                             -> GET /x.y~z
GET /(1)                                   -> GET /(1)
GET /%281%29                               -> GET /(1)
GET /50%25                                 -> GET /50%
GET /%41                                   -> 404
GET /A                                     -> 404
GET /%2541                                 -> GET /%41
GET /users;v=1                             -> 404
GET /%2F                                   -> 404

# one parameter of each kind
GET /int/{v:int}
GET /float/{v:float}
GET /uuid/{v:uuid}
GET /str/{v}
GET /named/{v:str}
GET /path/{v:path}
GET /day/{v:day}
GET /even/{v:even}
---
GET /int/0                                 -> GET /int/{v:int}                           v=0
GET /int/42                                -> GET /int/{v:int}                           v=42
GET /int/-7                                -> GET /int/{v:int}                           v=-7
GET /int/007                               -> GET /int/{v:int}                           v=7
GET /int/-0                                -> GET /int/{v:int}                           v=0
GET /int/%34%32                            -> GET /int/{v:int}                           v=42
GET /int/9223372036854775807               -> GET /int/{v:int}                           v=2**63 - 1
GET /int/9223372036854775808               -> 404
GET /int/-9223372036854775808              -> GET /int/{v:int}                           v=-(2**63)
GET /int/-9223372036854775809              -> 404
GET /int/+1                                -> 404
GET /int/1.0                               -> 404
GET /int/1e3                               -> 404
GET /int/0x10                              -> 404
GET /int/1_000                             -> 404
GET /int/%201                              -> 404
GET /int/1%20                              -> 404
GET /int/1%0A                              -> 404
GET /int/%D9%A1                            -> 404
GET /int/%C2%B2                            -> 404
GET /int/                                  -> 404
GET /int                                   -> 404
GET /int/-                                 -> 404
GET /int/--1                               -> 404
GET /float/1                               -> GET /float/{v:float}                       v=1.0
GET /float/-2.5                            -> GET /float/{v:float}                       v=-2.5
GET /float/1e3                             -> GET /float/{v:float}                       v=1000.0
GET /float/1E-3                            -> GET /float/{v:float}                       v=0.001
GET /float/1e400                           -> 404
GET /float/nan                             -> 404
GET /float/inf                             -> 404
GET /float/.5                              -> 404
GET /float/5.                              -> 404
GET /float/1,5                             -> 404
GET /uuid/12345678-1234-1234-1234-1234567890ab -> GET /uuid/{v:uuid}                         v=IDENTITY
GET /uuid/12345678-1234-1234-1234-1234567890AB -> GET /uuid/{v:uuid}                         v=IDENTITY
GET /uuid/123456781234123412341234567890ab -> 404
GET /uuid/12345678-1234-1234-1234-1234567890ab0 -> 404
GET /uuid/%7B12345678-1234-1234-1234-1234567890ab%7D -> 404
GET /str/bob                               -> GET /str/{v}                               v='bob'
GET /str/BOB                               -> GET /str/{v}                               v='BOB'
GET /str/a%2Fb                             -> GET /str/{v}                               v='a/b'
GET /str/%2F                               -> GET /str/{v}                               v='/'
GET /str/a+b                               -> GET /str/{v}                               v='a+b'
GET /str/a%20b                             -> GET /str/{v}                               v='a b'
GET /str/%252F                             -> GET /str/{v}                               v='%2F'
GET /str/%C3%A9                            -> GET /str/{v}                               v='é'
GET /str/%F0%9F%90%9F                      -> GET /str/{v}                               v='🐟'
GET /str/a;b=c,d                           -> GET /str/{v}                               v='a;b=c,d'
GET /str/{v}                               -> GET /str/{v}                               v='{v}'
GET /str/a/b                               -> 404
GET /str/a/                                -> 404
GET /str/                                  -> 404
GET /str//                                 -> 404
GET /named/7                               -> GET /named/{v:str}                         v='7'
GET /path/a                                -> GET /path/{v:path}                         v='a'
GET /path/a/b/c                            -> GET /path/{v:path}                         v='a/b/c'
GET /path/a/                               -> GET /path/{v:path}                         v='a/'
GET /path/a//b                             -> GET /path/{v:path}                         v='a//b'
GET /path/a%2Fb/c                          -> GET /path/{v:path}                         v='a/b/c'
GET /path/%2Fa                             -> GET /path/{v:path}                         v='/a'
GET /path/%C3%A9/%20                       -> GET /path/{v:path}                         v='é/ '
GET /path/                                 -> 404
GET /path                                  -> 404
GET /path//a                               -> 404
GET /day/2024-02-29                        -> GET /day/{v:day}                           v=date(2024, 2, 29)
GET /day/2023-02-29                        -> 404
GET /day/today                             -> 404
GET /even/4                                -> GET /even/{v:even}                         v=4
GET /even/5                                -> 404
GET /even/x                                -> 404

# which of several takes it
GET /{v:path}
GET /{v}
GET /{v:even}
GET /{v:day}
GET /{v:uuid}
GET /{v:float}
GET /{v:int}
GET /7
---
GET /7                                     -> GET /7
GET /%37                                   -> GET /7
GET /07                                    -> GET /{v:int}                               v=7
GET /8                                     -> GET /{v:int}                               v=8
GET /8.0                                   -> GET /{v:float}                             v=8.0
GET /9223372036854775808                   -> GET /{v:float}                             v=9223372036854775808.0
GET /12345678-1234-1234-1234-1234567890ab  -> GET /{v:uuid}                              v=IDENTITY
GET /2024-01-02                            -> GET /{v:day}                               v=date(2024, 1, 2)
GET /+4                                    -> GET /{v:even}                              v=4
GET /+5                                    -> GET /{v}                                   v='+5'
GET /x                                     -> GET /{v}                                   v='x'
GET /x%2Fy                                 -> GET /{v}                                   v='x/y'
GET /x/y                                   -> GET /{v:path}                              v='x/y'
GET /7/                                    -> GET /{v:path}                              v='7/'
GET /                                      -> 404
GET //x                                    -> 404

# literal, parameter and rest, mixed
GET /users/me
GET /users/{id:int}
GET /users/{name}
GET /users/{id:int}/posts
GET /users/{name}/posts/{post:int}
GET /users/{name}/{rest:path}
GET /users/me/settings
GET /{section}/me/about
GET /{rest:path}
---
GET /users/me                              -> GET /users/me
GET /users/7                               -> GET /users/{id:int}                        id=7
GET /users/bob                             -> GET /users/{name}                          name='bob'
GET /users/7/posts                         -> GET /users/{id:int}/posts                  id=7
GET /users/bob/posts                       -> GET /users/{name}/{rest:path}              name='bob', rest='posts'
GET /users/7/posts/3                       -> GET /users/{name}/posts/{post:int}         name='7', post=3
GET /users/7/posts/x                       -> GET /users/{name}/{rest:path}              name='7', rest='posts/x'
GET /users/7/posts/                        -> GET /users/{name}/{rest:path}              name='7', rest='posts/'
GET /users/me/settings                     -> GET /users/me/settings
GET /users/me/posts/4                      -> GET /users/{name}/posts/{post:int}         name='me', post=4
GET /users/me/other                        -> GET /users/{name}/{rest:path}              name='me', rest='other'
GET /users/me/                             -> GET /{rest:path}                           rest='users/me/'
GET /users/me//                            -> GET /{rest:path}                           rest='users/me//'
GET /groups/me/about                       -> GET /{section}/me/about                    section='groups'
GET /users/me/about                        -> GET /users/{name}/{rest:path}              name='me', rest='about'
GET /users                                 -> GET /{rest:path}                           rest='users'
GET /users/                                -> GET /{rest:path}                           rest='users/'
GET /                                      -> 404

# choices that are taken back
GET /a/b/c
GET /a/{x}/d
GET /{x}/b/e
GET /{x:int}/b/f
GET /{x}/{y}/g
GET /a/{x:int}/{y}/h
GET /a/{x}/{y:int}/i
GET /s/{rest:path}
GET /s/{x}/end
GET /s/{x:int}/{y:int}/end
---
GET /a/b/c                                 -> GET /a/b/c
GET /a/b/d                                 -> GET /a/{x}/d                               x='b'
GET /a/b/e                                 -> GET /{x}/b/e                               x='a'
GET /a/b/f                                 -> 404
GET /1/b/f                                 -> GET /{x:int}/b/f                           x=1
GET /1/b/e                                 -> GET /{x}/b/e                               x='1'
GET /1/b/g                                 -> GET /{x}/{y}/g                             x='1', y='b'
GET /a/b/g                                 -> GET /{x}/{y}/g                             x='a', y='b'
GET /a/1/2/h                               -> GET /a/{x:int}/{y}/h                       x=1, y='2'
GET /a/1/2/i                               -> GET /a/{x}/{y:int}/i                       x='1', y=2
GET /a/1/z/i                               -> 404
GET /a/z/2/h                               -> 404
GET /s/1/2/end                             -> GET /s/{x:int}/{y:int}/end                 x=1, y=2
GET /s/1/z/end                             -> GET /s/{rest:path}                         rest='1/z/end'
GET /s/1/end                               -> GET /s/{x}/end                             x='1'
GET /s/1/2/3/end                           -> GET /s/{rest:path}                         rest='1/2/3/end'
GET /s/1/end/                              -> GET /s/{rest:path}                         rest='1/end/'
GET /s                                     -> 404

# methods
GET /items
POST /items
HEAD /items
GET /items/{id:int}
PUT /items/{id:int}
DELETE /items/{any}
PATCH /items/special
OPTIONS /items/special
GET /only
HEAD /{rest:path}
* /mount/{rest:path}
GET /mount/health
POST /mount/{rest:path}
* /whole
---
GET /items                                 -> GET /items
POST /items                                -> POST /items
HEAD /items                                -> HEAD /items
PUT /items                                 -> 405 GET HEAD OPTIONS POST
OPTIONS /items                             -> 405 GET HEAD OPTIONS POST
get /items                                 -> 405 GET HEAD OPTIONS POST
GET /items/1                               -> GET /items/{id:int}                        id=1
HEAD /items/1                              -> GET /items/{id:int}                        id=1
PUT /items/1                               -> PUT /items/{id:int}                        id=1
DELETE /items/1                            -> DELETE /items/{any}                        any='1'
POST /items/1                              -> 405 DELETE GET HEAD OPTIONS PUT
PATCH /items/1                             -> 405 DELETE GET HEAD OPTIONS PUT
DELETE /items/x                            -> DELETE /items/{any}                        any='x'
GET /items/x                               -> 405 DELETE HEAD OPTIONS
HEAD /items/x                              -> HEAD /{rest:path}                          rest='items/x'
PATCH /items/special                       -> PATCH /items/special
OPTIONS /items/special                     -> OPTIONS /items/special
DELETE /items/special                      -> DELETE /items/{any}                        any='special'
GET /items/special                         -> 405 DELETE HEAD OPTIONS PATCH
GET /only                                  -> GET /only
HEAD /only                                 -> GET /only
HEAD /%6Fnly                               -> GET /only
GET /nothing                               -> 405 HEAD OPTIONS
GET /mount/a/b                             -> * /mount/{rest:path}                       rest='a/b'
PURGE /mount/a                             -> * /mount/{rest:path}                       rest='a'
OPTIONS /mount/a                           -> * /mount/{rest:path}                       rest='a'
HEAD /mount/a                              -> * /mount/{rest:path}                       rest='a'
POST /mount/a                              -> POST /mount/{rest:path}                    rest='a'
GET /mount/health                          -> GET /mount/health
HEAD /mount/health                         -> GET /mount/health
POST /mount/health                         -> POST /mount/{rest:path}                    rest='health'
DELETE /mount/health                       -> * /mount/{rest:path}                       rest='health'
GET /mount                                 -> 405 HEAD OPTIONS
BREW /whole                                -> * /whole
HEAD /whole                                -> * /whole

# hosts
GET api.example.com/v
GET {tenant}.example.com/v
GET *.example.com/v
GET *.eu.example.com/v
GET {tenant}.eu.example.com/v
GET /v
GET api.example.com/api/{id:int}
GET {tenant}.example.com/api/{name}
GET *.example.com/{rest:path}
POST /v
DELETE api.example.com/v
GET {tenant}.example.com/users/{id:int}
GET [::1]/v
GET localhost/v
GET 127.0.0.1/v
---
GET api.example.com/v                      -> GET api.example.com/v
GET API.Example.COM/v                      -> GET api.example.com/v
GET api.example.com:8080/v                 -> GET api.example.com/v
GET api.example.com:/v                     -> GET api.example.com/v
GET api.example.com./v                     -> GET api.example.com/v
GET api.example.com.:80/v                  -> GET api.example.com/v
GET acme.example.com/v                     -> GET {tenant}.example.com/v                 tenant='acme'
GET ACME.example.com:1/v                   -> GET {tenant}.example.com/v                 tenant='acme'
GET a.b.example.com/v                      -> GET *.example.com/v
GET a.b.c.example.com/v                    -> GET *.example.com/v
GET a.eu.example.com/v                     -> GET {tenant}.eu.example.com/v              tenant='a'
GET a.b.eu.example.com/v                   -> GET *.eu.example.com/v
GET eu.example.com/v                       -> GET {tenant}.example.com/v                 tenant='eu'
GET example.com/v                          -> GET /v
GET xexample.com/v                         -> GET /v
GET example.com.evil.net/v                 -> GET /v
GET api.example.com.evil.net/v             -> GET /v
GET api.example.org/v                      -> GET /v
GET .example.com/v                         -> GET /v
GET a..example.com/v                       -> GET /v
GET com/v                                  -> GET /v
GET /v                                     -> GET /v
GET [::1]/v                                -> GET [::1]/v
GET [::1]:8080/v                           -> GET [::1]/v
GET [::2]:8080/v                           -> GET /v
GET localhost:8080/v                       -> GET localhost/v
GET a.localhost/v                          -> GET /v
GET 127.0.0.1:80/v                         -> GET 127.0.0.1/v
GET api.example.com/api/7                  -> GET api.example.com/api/{id:int}           id=7
GET api.example.com/api/x                  -> GET {tenant}.example.com/api/{name}        tenant='api', name='x'
GET api.example.com/other                  -> GET *.example.com/{rest:path}              rest='other'
GET acme.example.com/api/x                 -> GET {tenant}.example.com/api/{name}        tenant='acme', name='x'
GET acme.example.com/users/7               -> GET {tenant}.example.com/users/{id:int}    tenant='acme', id=7
GET acme.example.com/users/x               -> GET *.example.com/{rest:path}              rest='users/x'
GET a.b.eu.example.com/x                   -> GET *.example.com/{rest:path}              rest='x'
GET example.com/api/7                      -> 404
GET example.org/other                      -> 404
HEAD api.example.com/v                     -> GET api.example.com/v
POST api.example.com/v                     -> POST /v
POST a.b.example.com/v                     -> POST /v
DELETE api.example.com/v                   -> DELETE api.example.com/v
DELETE acme.example.com/v                  -> 405 GET HEAD OPTIONS POST
PUT api.example.com/v                      -> 405 DELETE GET HEAD OPTIONS POST
PUT api.example.com/other                  -> 405 GET HEAD OPTIONS
PUT example.org/v                          -> 405 GET HEAD OPTIONS POST

# hosts and every method
* admin.example.com/{rest:path}
GET admin.example.com/health
GET /{rest:path}
POST /health
---
GET admin.example.com/x                    -> * admin.example.com/{rest:path}            rest='x'
POST admin.example.com/health              -> * admin.example.com/{rest:path}            rest='health'
GET admin.example.com/health               -> GET admin.example.com/health
HEAD admin.example.com/health              -> GET admin.example.com/health
GET admin.example.com/                     -> 404
GET www.example.com/x                      -> GET /{rest:path}                           rest='x'
POST www.example.com/x                     -> 405 GET HEAD OPTIONS
POST www.example.com/health                -> POST /health

# slashes
GET /with/
GET /without
GET /both
GET /both/
GET /p/{id:int}
GET /q/{id:int}/
---
GET /with                                  -> 404
GET /with/                                 -> GET /with/
GET /without                               -> GET /without
GET /without/                              -> 404
GET /both                                  -> GET /both
GET /both/                                 -> GET /both/
GET /p/1                                   -> GET /p/{id:int}                            id=1
GET /p/1/                                  -> 404
GET /q/1/                                  -> GET /q/{id:int}/                           id=1
GET /q/1                                   -> 404
GET /q//                                   -> 404
"""


class Case(NamedTuple):
    """One line of the table."""

    routes: tuple[str, ...]
    method: str
    host: str
    path: str
    expected: str
    params: dict[str, Any]


def read(table: str) -> Iterator[Case]:
    """The cases of all sections, each with the routes of its section."""
    for section in table.split("\n\n"):
        head, _, lines = section.strip().partition("\n---\n")
        routes = tuple(head.splitlines()[1:])
        for line in lines.splitlines():
            request, _, outcome = line.partition(" -> ")
            method, _, target = request.rstrip().partition(" ")
            host, path = split(target)
            route, _, params = outcome.partition("  ")
            scope = {"date": date, "IDENTITY": UUID(IDENTITY)}
            yield Case(routes, method, host, path, route.strip(), eval(f"dict({params.strip()})", scope))


def split(target: str) -> tuple[str, str]:
    """Host and path."""
    host, slash, path = target.partition("/")
    return host, slash + path


def even(text: str) -> int:
    """An even number, with or without a sign."""
    value = int(text)
    if value % 2:
        raise ValueError("odd")
    return value


OWN = {"day": Converter(date.fromisoformat, date.isoformat, date), "even": Converter(even, str, int)}
CASES = list(read(TABLE))


def router_of(routes: tuple[str, ...]) -> Router[str]:
    """A router with ``routes``, each registered as its own value."""
    router: Router[str] = Router(OWN)
    for route in routes:
        method, _, target = route.partition(" ")
        host, pattern = split(target)
        assert router.add(method, pattern, route, host or None) is None
    return router


def test_the_table_is_as_long_as_it_should_be() -> None:
    """At least 150 cases, none of them twice."""
    assert len(CASES) >= 150
    assert len({case[:4] for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.method} {case.host}{case.path}")
def test_a_line_of_the_table(case: Case) -> None:
    """``find`` and ``explain`` say what the table says; what takes nothing is 404, or 405 with what would be taken."""
    router = router_of(case.routes)
    request = case.method, case.path.encode(), case.host.encode()
    found = router.find(*request)
    explanation = router.explain(*request)
    if case.expected.startswith("40"):
        assert found is None
        assert explanation.taken is None
        status, *methods = case.expected.split()
        assert router.allowed(*request[1:]) == methods
        assert bool(methods) == (status == "405")
        return
    assert found == (case.expected, case.params or None)
    assert explanation.taken is not None
    assert (explanation.taken.value, explanation.params) == (case.expected, case.params)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.method} {case.host}{case.path}")
def test_the_order_of_registration_makes_no_difference(case: Case) -> None:
    """The same routes the other way round take the same requests."""
    request = case.method, case.path.encode(), case.host.encode()
    there, back = router_of(case.routes), router_of(case.routes[::-1])
    assert back.find(*request) == there.find(*request)
    assert back.allowed(*request[1:]) == there.allowed(*request[1:])
