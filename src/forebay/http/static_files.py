"""A folder of files as an endpoint: index files, pages of single-page applications, files compressed beforehand.

::

    app.mount("/assets", StaticFiles("dist/assets", immutable=r"-[0-9a-f]{8}\\."))
    app.mount("/", StaticFiles("dist", fallback="index.html"))

Ranges, conditional requests, entity tags and sendfile are :class:`~forebay.http.files.FileResponse`'s. As there, files
are looked for and opened on the loop, and what was found is looked at again after a second.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

from forebay.engine.loop import now
from forebay.errors import HTTPError
from forebay.http.files import FileResponse, guess_type
from forebay.http.messages import Request, Response

__all__ = ["StaticFiles"]

_ENDINGS = {"br": ".br", "zstd": ".zst", "gzip": ".gz"}
_ALLOW = "GET, HEAD, OPTIONS"
_YEAR = 31_536_000  # seconds; RFC 8246 section 2 has it in its example
_MOST_FOUND = 1024  # answers to "what is at this path?" that are remembered
_REFUSED = re.compile(r"[\\\0]")  # a separator on other systems; the end of a name in C
_SAFE = "!$%&'()*+,-./:;=?@_~"  # of RFC 3986, and "%": what is encoded stays as it is


class _Found:
    """A file, as it is answered. ``siblings``: the same content compressed, as (coding, path)."""

    __slots__ = ("cache_control", "content_type", "path", "siblings", "valid_until")

    def __init__(
        self, path: str, content_type: str, siblings: Sequence[tuple[str, str]], cache_control: str, valid_until: float
    ) -> None:
        self.path = path
        self.content_type = content_type
        self.siblings = siblings
        self.cache_control = cache_control
        self.valid_until = valid_until


class StaticFiles:
    """Serves the files of one folder, to be mounted: ``app.mount("/static", StaticFiles("static"))``.

    Answers GET and HEAD (405 for others; OPTIONS is answered with ``allow``). 404 for what is not there, is no regular
    file, or is none of the client's business: paths with ``..``, empty segments, a backslash or NUL, names that begin
    with a dot (but for ``/.well-known/``, RFC 8615), and symbolic links that lead out of the folder. Whoever may write
    to the folder can swap a link between the check and the opening: that must not be a client. Folders are never
    listed; one with an index file is answered with that, at the path that ends with a slash (308 to it, without).

    :param directory: the folder. It may be a symbolic link that is replaced while it is served.
    :param index: the file that stands for its folder; None: none does.
    :param fallback: a file, relative to the folder, that answers when a browser navigates to what is not there, so that
        the page's script can decide: a GET or HEAD whose ``Accept`` names ``text/html``, for a path whose last segment
        has no dot. It is sent with ``cache-control: no-cache``.
    :param precompressed: of ``br``, ``zstd`` and ``gzip``, the best first: for clients that take it,
        ``app.js.br``, ``app.js.zst`` or ``app.js.gz`` is sent for ``app.js`` when it lies beside it and is not older
        (RFC 9110 section 12.5.3).
    :param max_age: seconds for which caches may use a file without asking; 0 (the default): they ask each time, and get
        a 304 as long as it is the same (``no-cache``); None: no ``cache-control``, and they guess.
    :param immutable: regular expression, searched for in the path below the folder: such a file never changes under its
        name, so it is kept for a year and not asked for again (RFC 8246). Meant for names with a hash in them.
    :param hidden: serve names that begin with a dot, too.
    :param follow_symlinks: serve what links lead to, wherever that is.
    :param valid_for: seconds for which what was found is believed.
    :param clock: seconds; for tests.
    :raises ValueError: there is no such folder, or another argument makes no sense.
    """

    __slots__ = (
        "_clock", "_codings", "_fallback", "_follow_symlinks", "_found", "_hidden", "_immutable", "_index", "_max_age",
        "_valid_for", "directory",
    )  # fmt: skip

    def __init__(
        self,
        directory: str | Path,
        *,
        index: str | None = "index.html",
        fallback: str | None = None,
        precompressed: Sequence[str] = ("br", "zstd", "gzip"),
        max_age: int | None = 0,
        immutable: str | re.Pattern[str] | None = None,
        hidden: bool = False,
        follow_symlinks: bool = False,
        valid_for: float = 1.0,
        clock: Callable[[], float] = now,
    ) -> None:
        self.directory = str(directory)
        if not os.path.isdir(self.directory):
            raise ValueError(f"StaticFiles directory {self.directory!r}: must be an existing folder")
        if index is not None and (not index or "/" in index or _REFUSED.search(index)):
            raise ValueError(f"StaticFiles index {index!r}: must be the name of a file, such as 'index.html', or None")
        self._hidden = hidden
        if fallback is not None and not self._is_fit(fallback):
            raise ValueError(
                f"StaticFiles fallback {fallback!r}: must be the path of a file below the folder, such as 'index.html'"
            )
        if isinstance(precompressed, str) or (unknown := [one for one in precompressed if one not in _ENDINGS]):
            wrong = precompressed if isinstance(precompressed, str) else unknown[0]
            raise ValueError(f"StaticFiles precompressed {wrong!r}: must be a list of {', '.join(_ENDINGS)}")
        if max_age is not None and max_age < 0:
            raise ValueError(f"StaticFiles max_age {max_age}: must be 0 seconds or more, or None")
        if not valid_for >= 0:
            raise ValueError(f"StaticFiles valid_for {valid_for}: must be 0 seconds or more")
        try:
            self._immutable = None if immutable is None else re.compile(immutable)
        except re.error as error:
            raise ValueError(f"StaticFiles immutable {immutable!r}: is no regular expression: {error}") from None
        self._index = index
        self._fallback = fallback
        self._codings = tuple(precompressed)
        self._max_age = max_age
        self._follow_symlinks = follow_symlinks
        self._valid_for = valid_for
        self._clock = clock
        self._found: dict[str, _Found] = {}

    def __repr__(self) -> str:
        fallback = f", fallback={self._fallback!r}" if self._fallback is not None else ""
        return f"StaticFiles({self.directory!r}{fallback})"

    async def respond(self, request: Request, path: str) -> Response:
        """The answer to a request.

        :param path: what is left of the request's path behind the mount's prefix and its slash, decoded. It may be
            anything.
        :raises HTTPError: 404, 405; 403 where the server may not look.
        """
        if request.method not in ("GET", "HEAD"):
            if request.method == "OPTIONS":
                return Response(status=204, headers={"allow": _ALLOW})
            raise HTTPError(405, f"{request.method} is not one of {_ALLOW}", headers=[("allow", _ALLOW)])
        if path and not self._is_fit(path.removesuffix("/")):
            raise _nothing()
        if path and not path.endswith("/"):
            found = self._find(path)
            if found is not None:
                return self._send(request, found)
        if self._index is not None:
            folder = path if not path or path.endswith("/") else f"{path}/"
            found = self._find(folder + self._index)
            if found is not None:
                if folder == path and (path or request.raw_path.endswith(b"/")):
                    return self._send(request, found)
                return _to_the_slash(request)
        if self._fallback is not None and "." not in path.rpartition("/")[2]:
            if not _navigates(request):
                raise _nothing(("vary", "accept"))  # caches may keep a 404, too
            found = self._find(self._fallback)
            if found is not None:
                response = self._send(request, found)
                response.headers.add_to_list("vary", "accept")
                response.headers["cache-control"] = "no-cache"
                return response
        raise _nothing()

    # -- where it is

    def _is_fit(self, path: str) -> bool:
        """Whether ``path`` can be the name of something that may be served."""
        if _REFUSED.search(path):
            return False
        for place, name in enumerate(path.split("/")):
            if not name or name in (".", ".."):
                return False
            if name[0] == "." and not self._hidden and (place or name != ".well-known"):
                return False
        return True

    def _find(self, path: str) -> _Found | None:
        """The file at ``path``, which is fit; None: there is none.

        :raises HTTPError: 403, the server may not look.
        """
        at = self._clock()
        found = self._found.get(path)
        if found is not None:
            if at < found.valid_until:
                return found
            del self._found[path]
        try:
            found = self._look(path, at)
        except PermissionError:
            raise HTTPError(403, "this may not be read") from None
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO):  # none of the client's fault
                raise
            return None
        except ValueError:  # a name that the file system cannot have
            return None
        if found is not None:
            while len(self._found) >= _MOST_FOUND:
                del self._found[next(iter(self._found))]
            self._found[path] = found
        return found

    def _look(self, path: str, at: float) -> _Found | None:
        """:raises OSError: it cannot be looked at, most often because it is not there."""
        root = os.path.realpath(self.directory)
        where = self._resolve(root, path)
        if where is None:
            return None
        status = os.stat(where)
        if not stat.S_ISREG(status.st_mode):
            return None
        siblings = []
        for coding in self._codings:
            try:
                sibling = self._resolve(root, path + _ENDINGS[coding])
                status_there = None if sibling is None else os.stat(sibling)
            except OSError:
                continue
            if sibling is None or status_there is None or not stat.S_ISREG(status_there.st_mode):
                continue
            if int(status_there.st_mtime) >= int(status.st_mtime):  # compressors keep the time, often in seconds only
                siblings.append((coding, sibling))
        return _Found(where, guess_type(path), siblings, self._cache_control(path), at + self._valid_for)

    def _resolve(self, root: str, path: str) -> str | None:
        """Where ``path`` leads to; None: out of the folder."""
        where = os.path.join(root, path)
        if self._follow_symlinks:
            return where
        where = os.path.realpath(where, strict=True)
        return where if where.startswith(os.path.join(root, "")) else None

    def _cache_control(self, path: str) -> str:
        if self._immutable is not None and self._immutable.search(path):
            return f"max-age={_YEAR}, immutable"
        if self._max_age is None:
            return ""
        return f"max-age={self._max_age}" if self._max_age else "no-cache"  # "public" would be said of secrets, too

    # -- how it is sent

    def _send(self, request: Request, found: _Found) -> FileResponse:
        headers = {"content-type": found.content_type}
        if found.cache_control:
            headers["cache-control"] = found.cache_control
        path = found.path
        if found.siblings:
            headers["vary"] = "accept-encoding"
            accepted = ",".join(request.headers.get_all("accept-encoding"))
            if accepted:
                coding = _choose(accepted, [coding for coding, _ in found.siblings])
                if coding is not None:
                    path = dict(found.siblings)[coding]
                    headers["content-encoding"] = coding
        return FileResponse(path, headers=headers)


def _nothing(*headers: tuple[str, str]) -> HTTPError:
    return HTTPError(404, "there is nothing at this path", headers=headers)


def _to_the_slash(request: Request) -> Response:
    """308 to the same path with a slash behind it. The reference is relative to the request's own path, so it cannot
    name another host, whatever the path begins with (RFC 3986 sections 4.2 and 5.2), and is right behind proxies that
    have cut off a prefix."""
    last = request.raw_path.rpartition(b"/")[2]
    location = f"./{quote(last, safe=_SAFE)}/"
    if request.exchange.query:
        location += "?" + quote(request.exchange.query, safe=_SAFE)
    return Response(status=308, headers={"location": location})


def _navigates(request: Request) -> bool:
    """Whether a browser wants a page, rather than a script an image or data."""
    accepted = _weights(",".join(request.headers.get_all("accept")))
    return accepted.get("text/html", 0.0) > 0


def _choose(accepted: str, codings: Sequence[str]) -> str | None:
    """The coding the client likes best, ours being the order among equals; None: it would rather have none (RFC 9110
    section 12.5.3)."""
    weights = _weights(accepted)
    if "x-gzip" in weights:
        weights.setdefault("gzip", weights["x-gzip"])
    others = weights.get("*", 0.0)
    best, most = None, max(weights.get("identity", 0.0), 0.0)
    for coding in codings:
        weight = weights.get(coding, others)
        if weight > 0 and (weight > most or (best is None and weight >= most)):
            best, most = coding, weight
    return best


def _weights(value: str) -> dict[str, float]:
    """The elements of an ``Accept`` or ``Accept-Encoding``, in lower case, with their weights (RFC 9110 section
    12.4.2). One whose weight is none has 0."""
    weights: dict[str, float] = {}
    for element in value.lower().split(","):
        name, *parameters = [part.strip(" \t") for part in element.split(";")]
        if not name:
            continue
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                weight = float(parameter[2:]) if re.fullmatch(r"0(\.\d{0,3})?|1(\.0{0,3})?", parameter[2:]) else 0.0
        weights[name] = max(weight, weights.get(name, 0.0))
    return weights
