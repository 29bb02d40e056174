"""The line between a supervisor and one of its workers: messages, and open sockets, over a UNIX socket pair.

On the wire a message is a frame: 4 bytes of length, big-endian, then a MessagePack array. A descriptor travels as
``SCM_RIGHTS`` with the first byte of the frame that announces it, so it is there no later than its message.

Both ends run the same code. Each may :meth:`~ControlChannel.send` a notice, make a :meth:`~ControlChannel.request`,
and :meth:`~ControlChannel.post` something of which only the latest matters. Everything is bounded: a frame, what waits
to be sent, and every wait for an answer. Whatever is malformed ends the channel, and ``reason`` says what it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from forebay.errors import (
    ConfigError,
    ConnectionClosed,
    ForebayError,
    FrameTooLong,
    FramingError,
    Overloaded,
    Problem,
    StartError,
)

__all__ = ["MAXIMUM_FRAME", "Assignment", "Beat", "ControlChannel", "Failure", "Message"]

T = TypeVar("T")

MAXIMUM_FRAME = 64 * 1024 * 1024
"""Bytes of the longest message either end sends or accepts."""

_MAXIMUM_QUEUED = 2 * MAXIMUM_FRAME
_READ_SIZE = 256 * 1024
_MAXIMUM_FDS = 16
_LENGTH = struct.Struct("!I")
_REPLY = "reply"


class Assignment(msgspec.Struct, frozen=True, array_like=True):
    """What a worker is: the first message it is sent."""

    name: str
    entry: str  # "module:function"
    args: dict[str, Any]
    drain_timeout: float
    beat: float = 1.0  # seconds between two beats
    core: int | None = None  # the one it stays on


class Beat(msgspec.Struct, frozen=True, array_like=True):
    """Sent regularly by a worker whose event loop runs. That it comes is what matters most."""

    lag: float = 0.0  # the longest of the event loop since the beat before, in seconds
    accepted: int = 0  # connections, so far


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """An error on its way to the other process."""

    message: str
    file: str = ""  # these two: of a ConfigError
    problems: tuple[Problem, ...] = ()

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """What can be told of ``error`` in one line; of a :class:`ConfigError`, everything."""
        if isinstance(error, ConfigError):
            return cls(_one_line(str(error)), error.file, error.problems)
        if isinstance(error, ForebayError):
            return cls(_one_line(str(error)))
        return cls(_one_line(f"{type(error).__name__}: {error}".removesuffix(": ")))

    def error(self, who: str) -> ForebayError:
        """The error again: a :class:`ConfigError` as it was, anything else as a :class:`StartError` of ``who``."""
        if self.problems:
            return ConfigError(self.file, self.problems)
        return StartError(f"{who}: {self.message}" if who else self.message)


def _one_line(text: str) -> str:
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())


class Message(msgspec.Struct, frozen=True, array_like=True):
    """A frame's content. ``id`` is 0 for a notice, and the same number in a request and in its reply."""

    kind: str
    id: int
    has_socket: bool  # whether one came along
    failure: Failure | None
    body: msgspec.Raw

    def decode(self, type: type[T]) -> T:  # noqa: A002 (msgspec's word for it)
        """The body as ``type``.

        :raises FramingError: it is something else.
        """
        try:
            return msgspec.msgpack.decode(self.body, type=type)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise FramingError(f"malformed {self.kind!r} message: {error}") from error


Answer = tuple[Message, socket.socket | None]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode


class ControlChannel:
    """One end.

    :param sock: a connected UNIX stream socket; the channel owns it from here on.
    :param on_message: called on the loop with each notice and request. It must not block, answers a request with
        :meth:`reply`, now or later, and may raise :class:`FramingError`, which ends the channel.
    :param who: the other end's name, for errors.

    ``ended`` is set, once and for good, when nothing can be sent or received any more; ``reason`` then says why.
    """

    __slots__ = (
        "_buffer",
        "_idle",
        "_last_id",
        "_loop",
        "_on_message",
        "_out",
        "_posts",
        "_queued",
        "_received",
        "_requests",
        "_sent",
        "_sock",
        "ended",
        "reason",
        "who",
    )

    def __init__(self, sock: socket.socket, on_message: Callable[[Message], None], *, who: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._on_message = on_message
        self.who = who
        self.ended = asyncio.Event()
        self.reason = ""
        self._buffer = bytearray()
        self._received: deque[int] = deque()  # descriptors whose message is not complete yet
        self._out: deque[tuple[bytes, int | None]] = deque()  # frames, each with a descriptor of ours to send along
        self._queued = 0  # bytes in _out
        self._sent = 0  # bytes of _out[0] that are gone
        self._posts: dict[str, msgspec.Raw] = {}
        self._idle = asyncio.Event()  # unset while the loop is to tell us that the socket takes more
        self._idle.set()
        self._requests: dict[int, asyncio.Future[Answer]] = {}
        self._last_id = 0
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), self._readable)

    def __repr__(self) -> str:
        state = f"ended: {self.reason}" if self.ended.is_set() else "open"
        return f"<ControlChannel to {self.who} {state} queued={self._queued} requests={len(self._requests)}>"

    def send(self, kind: str, body: object = None) -> None:
        """Send a notice.

        :raises ConnectionClosed: the channel ended.
        :raises FrameTooLong: the message is longer than ``MAXIMUM_FRAME``.
        :raises Overloaded: the other end has not read for so long that too much is queued.
        """
        self._write(_frame(kind, 0, body))

    def post(self, kind: str, body: msgspec.Raw) -> None:
        """Send a notice once all else is sent, unless a newer one of its kind takes its place before.

        :raises ConnectionClosed: the channel ended.
        """
        if self.ended.is_set():
            raise self._closed()
        self._posts[kind] = body
        if self._idle.is_set():
            self._flush()

    def unpost(self, kind: str) -> None:
        """Forget the posted notice of this kind if it is still unsent: what is sent next is newer."""
        self._posts.pop(kind, None)

    async def request(self, kind: str, body: object = None, *, timeout: float) -> Message:
        """Send a request and return its reply.

        :raises TimeoutError: there was none within ``timeout`` seconds.
        :raises ConfigError, StartError: the other end answered with this failure.
        :raises ConnectionClosed, FrameTooLong, Overloaded: it could not be sent, or not be answered.
        """
        reply, sock = await self._request(kind, body, timeout)
        if sock is not None:
            sock.close()
        return reply

    async def request_socket(self, kind: str, body: object = None, *, timeout: float) -> socket.socket:
        """Send a request whose reply brings a socket, and return that. Raises what :meth:`request` does."""
        _, sock = await self._request(kind, body, timeout)
        if sock is None:
            raise FramingError(f"{self.who}: the reply to {kind!r} brought no socket")
        return sock

    async def _request(self, kind: str, body: object, timeout: float) -> Answer:
        self._last_id += 1
        number = self._last_id
        self._write(_frame(kind, number, body))
        answer: asyncio.Future[Answer] = self._loop.create_future()
        self._requests[number] = answer
        try:
            async with asyncio.timeout(timeout):
                reply, sock = await answer
        finally:
            self._requests.pop(number, None)
        if reply.failure is not None:
            raise reply.failure.error("")
        return reply, sock

    def reply(
        self,
        request: Message,
        body: object = None,
        *,
        failure: Failure | None = None,
        sock: socket.socket | None = None,
    ) -> None:
        """Answer a request: with a body, a failure, or a socket, which stays the caller's.

        Does nothing when the channel has ended: nobody waits for the answer any more.

        :raises FrameTooLong, Overloaded: as for :meth:`send`.
        """
        if not self.ended.is_set():
            self._write(_frame(_REPLY, request.id, body, failure, has_socket=sock is not None), sock)

    async def flush(self, timeout: float) -> None:
        """Return when everything is sent, the channel ended, or ``timeout`` seconds are over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._idle.wait()

    def close(self, reason: str = "closed") -> None:
        """End the channel now; what is unsent is dropped. Idempotent."""
        if self.ended.is_set():
            return
        self.reason = reason
        self.ended.set()
        self._drop_output()
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        for fd in self._received:
            os.close(fd)
        self._received.clear()
        self._buffer.clear()
        for answer in self._requests.values():
            if not answer.done():
                answer.set_exception(self._closed())

    def _closed(self) -> ConnectionClosed:
        return ConnectionClosed(f"the channel to {self.who} is closed: {self.reason}")

    # Writing: try at once, and let the loop call back when the socket is full.

    def _write(self, frame: bytes, sock: socket.socket | None = None) -> None:
        if self.ended.is_set():
            raise self._closed()
        if self._queued + len(frame) > _MAXIMUM_QUEUED:
            raise Overloaded("channel", f"{self.who} does not read: {self._queued} bytes are waiting to be sent")
        # A duplicate, because the caller may close its socket before the frame's turn comes.
        self._out.append((frame, os.dup(sock.fileno()) if sock is not None else None))
        self._queued += len(frame)
        if self._idle.is_set():
            self._flush()

    def _flush(self) -> None:
        try:
            while self._out or self._posts:
                if not self._out:
                    kind = next(iter(self._posts))
                    frame = _frame(kind, 0, self._posts.pop(kind))
                    self._out.append((frame, None))
                    self._queued += len(frame)
                self._send_first()
        except BlockingIOError:
            if self._idle.is_set():
                self._idle.clear()
                self._loop.add_writer(self._sock.fileno(), self._flush)
        except OSError:
            # The other end is gone. What it sent before may still be unread: only the reader ends the channel.
            self._drop_output()
        else:
            self._now_idle()

    def _now_idle(self) -> None:
        if not self._idle.is_set():
            self._idle.set()
            self._loop.remove_writer(self._sock.fileno())

    def _drop_output(self) -> None:
        self._now_idle()
        for _, fd in self._out:
            if fd is not None:
                os.close(fd)
        self._out.clear()
        self._posts.clear()
        self._queued = self._sent = 0

    def _send_first(self) -> None:
        frame, fd = self._out[0]
        rest = memoryview(frame)[self._sent :]
        if fd is None:
            self._sent += self._sock.send(rest)
        else:
            self._sent += socket.send_fds(self._sock, [rest], [fd])
            os.close(fd)
            self._out[0] = (frame, None)
        if self._sent == len(frame):
            self._out.popleft()
            self._queued -= len(frame)
            self._sent = 0

    # Reading

    def _readable(self) -> None:
        try:
            data, fds, flags, _ = socket.recv_fds(self._sock, _READ_SIZE, _MAXIMUM_FDS)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.close(os.strerror(error.errno or 0).lower())
            return
        for fd in fds:
            os.set_inheritable(fd, False)  # as every descriptor of Python's is, but for these
            self._received.append(fd)
        if flags & socket.MSG_CTRUNC or len(self._received) > _MAXIMUM_FDS:
            self.close("more descriptors than messages announced")
        elif not data:
            self.close("cut in the middle of a message" if self._buffer else "end of stream")
        else:
            self._buffer += data
            try:
                self._take_frames()
            except FramingError as error:
                self.close(str(error))

    def _take_frames(self) -> None:
        buffer = self._buffer
        while len(buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer)
            if not 0 < length <= MAXIMUM_FRAME:
                raise FramingError(f"a frame of {length} bytes; 1 to {MAXIMUM_FRAME} are allowed")
            end = _LENGTH.size + length
            if len(buffer) < end:
                return
            frame = bytes(memoryview(buffer)[_LENGTH.size : end])
            del buffer[:end]
            try:
                message = _decode(frame)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise FramingError(f"malformed frame: {error}") from error
            self._dispatch(message)  # may close us, which empties the buffer

    def _dispatch(self, message: Message) -> None:
        sock = None
        if message.has_socket:
            if not self._received:
                raise FramingError(f"a {message.kind!r} message announced a socket that did not come")
            sock = socket.socket(fileno=self._received.popleft())
        answer = self._requests.pop(message.id, None) if message.kind == _REPLY else None
        if answer is not None and not answer.done():
            answer.set_result((message, sock))
            return
        if sock is not None:  # nobody waits for it any more, or ever did
            sock.close()
        if message.kind != _REPLY:
            self._on_message(message)


def _frame(kind: str, number: int, body: object, failure: Failure | None = None, *, has_socket: bool = False) -> bytes:
    raw = body if isinstance(body, msgspec.Raw) else msgspec.Raw(_encode(body))
    content = _encode(Message(kind, number, has_socket, failure, raw))
    if len(content) > MAXIMUM_FRAME:
        raise FrameTooLong(f"a {kind!r} message of {len(content)} bytes; at most {MAXIMUM_FRAME} are allowed")
    return _LENGTH.pack(len(content)) + content
