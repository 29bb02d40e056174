"""A Django project in one file, as its users deploy it: by ``get_asgi_application``."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from django.conf import settings  # type: ignore[import-untyped]
from django.core.asgi import get_asgi_application  # type: ignore[import-untyped]
from django.http import (  # type: ignore[import-untyped]
    FileResponse,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseNotAllowed,
    HttpResponseRedirect,
    JsonResponse,
    StreamingHttpResponse,
)
from django.urls import path  # type: ignore[import-untyped]

settings.configure(
    SECRET_KEY="not a secret",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=[
        "django.middleware.common.CommonMiddleware",
        "django.middleware.gzip.GZipMiddleware",
        f"{__name__}.Plain",
    ],
    DEBUG=bool(os.environ.get("DEBUG_DJANGO")),
    LOGGING_CONFIG=None,
)


done: dict[str, str] = {}


class Plain:
    """A middleware that knows nothing of coroutines: requests go through threads for its sake."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        response["x-plain"] = "was here"
        return response


async def item(request: HttpRequest, id: int) -> HttpResponse:  # noqa: A002
    if request.method not in ("GET", "HEAD"):
        return HttpResponseNotAllowed(["GET", "HEAD"])
    return JsonResponse({"id": id, "q": request.GET.get("q")})


def form(request: HttpRequest) -> HttpResponse:
    return JsonResponse(sorted((k, v) for k, values in request.POST.lists() for v in values), safe=False)


def upload(request: HttpRequest) -> HttpResponse:
    file = request.FILES["file"]
    content = file.read()
    answer = [file.name, file.content_type, len(content), hashlib.sha256(content).hexdigest()]
    return JsonResponse(answer, safe=False)


def raw(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(len(request.body)), content_type="text/plain")


async def stream(request: HttpRequest) -> HttpResponseBase:
    async def pieces() -> AsyncIterator[str]:
        for number in range(20):
            yield f"line {number}\n" * 500
            await asyncio.sleep(0)

    return StreamingHttpResponse(pieces(), content_type="text/plain")


def slow_stream(request: HttpRequest) -> HttpResponseBase:
    return StreamingHttpResponse((b"%d " % number * 1000 for number in range(20)), content_type="text/plain")


async def events(request: HttpRequest, key: str) -> HttpResponseBase:
    """Server-sent events, until nobody listens."""

    async def pieces() -> AsyncIterator[str]:
        try:
            while True:
                yield "data: tick\n\n"
                await asyncio.sleep(0.02)
        finally:
            done[key] = "done"

    return StreamingHttpResponse(pieces(), content_type="text/event-stream")


async def long_poll(request: HttpRequest, key: str) -> HttpResponse:
    """Is cancelled when its client leaves."""
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        done[key] = "done"
        raise
    return HttpResponse("nobody waits for this")


def outcome(request: HttpRequest, key: str) -> HttpResponse:
    return HttpResponse(done.get(key, "not yet"))


def redirect(request: HttpRequest) -> HttpResponse:
    return HttpResponseRedirect("/items/1")


def cookies(request: HttpRequest) -> HttpResponse:
    response = HttpResponse(request.COOKIES.get("c", ""))
    response.set_cookie("a", "1")
    response.set_cookie("b", "2", httponly=True)
    return response


def nothing(request: HttpRequest) -> HttpResponse:
    return HttpResponse(status=204)


def file(request: HttpRequest) -> HttpResponseBase:
    return FileResponse(Path(__file__).open("rb"), filename="source.py", as_attachment=True)


def error(request: HttpRequest) -> HttpResponse:
    raise LookupError("secret")


urlpatterns = [
    path("items/<int:id>", item),
    path("form", form),
    path("upload", upload),
    path("raw", raw),
    path("stream", stream),
    path("slow-stream", slow_stream),
    path("events/<str:key>", events),
    path("long-poll/<str:key>", long_poll),
    path("background/<str:key>", outcome),
    path("redirect", redirect),
    path("cookies", cookies),
    path("nothing", nothing),
    path("file", file),
    path("error", error),
]

app = get_asgi_application()
