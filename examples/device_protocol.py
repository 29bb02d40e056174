"""What devices and :mod:`examples.device_gateway` say to each other: MessagePack, each message after its length."""

from __future__ import annotations

import hashlib
import hmac
import os

import msgspec

from forebay import framing

LONGEST_MESSAGE = 16 * 1024  # bytes

FRAMING = framing.LengthPrefixed(2, maximum=LONGEST_MESSAGE)

_SECRET = os.environ.get("DEVICE_SECRET", "good enough to try it out").encode()


class Message(msgspec.Struct, tag_field="type", tag=str.lower, frozen=True):
    """Any of them; on the wire a map, whose ``type`` is the name in lower case."""


class Login(Message, frozen=True):
    """Device: who it is. Its first message."""

    device: str
    token: str


class Welcome(Message, frozen=True):
    """Gateway: the login was right."""


class Refused(Message, frozen=True):
    """Gateway: it was not, or another connection has taken the device's place. The connection is closed."""

    reason: str


class Reading(Message, frozen=True):
    """Device: what it measured."""

    values: dict[str, float]


class Command(Message, frozen=True):
    """Gateway: do something, and acknowledge it under this number."""

    number: int
    name: str


class Acknowledge(Message, frozen=True):
    """Device: a command was done, or why not."""

    number: int
    error: str = ""


class Ping(Message, frozen=True):
    """Gateway: are you there?"""


class Pong(Message, frozen=True):
    """Device: yes."""


encode = msgspec.msgpack.Encoder().encode
login_of = msgspec.msgpack.Decoder(Login)
from_device = msgspec.msgpack.Decoder(Reading | Acknowledge)
from_gateway = msgspec.msgpack.Decoder(Welcome | Refused | Command)

PING, PONG = encode(Ping()), encode(Pong())  # compared as bytes: the engine answers them without decoding


def token_of(device: str) -> str:
    """The token a device logs in with: only who knows ``DEVICE_SECRET`` can make one."""
    return hmac.new(_SECRET, device.encode(), hashlib.sha256).hexdigest()
