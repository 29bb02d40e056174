"""The middleware that ships: one file each, each a class whose object is the middleware.

::

    app = App(middleware=[RequestId(), Compression()])
    admin = app.group("/admin", middleware=[BasicAuth(check)])

The first is the outermost. ``forebay routes --middleware`` shows the order for every route.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forebay.http.middleware.access_fields import AccessFields
    from forebay.http.middleware.basic_auth import BasicAuth
    from forebay.http.middleware.bearer_auth import BearerAuth
    from forebay.http.middleware.body_limit import BodyLimit
    from forebay.http.middleware.cache import Cache
    from forebay.http.middleware.compression import Compression
    from forebay.http.middleware.cors import CORS
    from forebay.http.middleware.csrf import CSRF
    from forebay.http.middleware.etag import ETag
    from forebay.http.middleware.jwt_auth import JWTAuth
    from forebay.http.middleware.rate_limit import RateLimit
    from forebay.http.middleware.recover import Recover
    from forebay.http.middleware.request_id import RequestId
    from forebay.http.middleware.security_headers import SecurityHeaders
    from forebay.http.middleware.sessions import Sessions
    from forebay.http.middleware.timeout import Timeout
    from forebay.http.middleware.trusted_proxies import TrustedProxies

_HOMES = {
    "AccessFields": "access_fields",
    "BasicAuth": "basic_auth",
    "BearerAuth": "bearer_auth",
    "BodyLimit": "body_limit",
    "CORS": "cors",
    "CSRF": "csrf",
    "Cache": "cache",
    "Compression": "compression",
    "ETag": "etag",
    "JWTAuth": "jwt_auth",
    "RateLimit": "rate_limit",
    "Recover": "recover",
    "RequestId": "request_id",
    "SecurityHeaders": "security_headers",
    "Sessions": "sessions",
    "Timeout": "timeout",
    "TrustedProxies": "trusted_proxies",
}

__all__ = [
    "CORS",
    "CSRF",
    "AccessFields",
    "BasicAuth",
    "BearerAuth",
    "BodyLimit",
    "Cache",
    "Compression",
    "ETag",
    "JWTAuth",
    "RateLimit",
    "Recover",
    "RequestId",
    "SecurityHeaders",
    "Sessions",
    "Timeout",
    "TrustedProxies",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'forebay.http.middleware' has no attribute {name!r}")
    found = getattr(import_module(f"forebay.http.middleware.{_HOMES[name]}"), name)
    globals()[name] = found
    return found
