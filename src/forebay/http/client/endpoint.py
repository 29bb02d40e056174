"""Where connections lead: what of a URL decides which of them can be used."""

from __future__ import annotations

from dataclasses import dataclass

from forebay.engine.address import Address
from forebay.http.client.url import URL

__all__ = ["Endpoint", "endpoint_of", "unix_endpoint"]


@dataclass(frozen=True, slots=True, eq=False)
class Endpoint:
    """A server, as its client knows it. Compared by identity: a client has one for each that it knows.

    :param scheme: ``http`` or ``https``.
    :param authority: what the ``host`` field says.
    :param address: where to connect to.
    :param host: whose certificate is expected, under https.
    """

    scheme: str
    authority: str
    address: Address
    host: str

    @property
    def secure(self) -> bool:
        """Whether TLS is spoken."""
        return self.scheme == "https"

    @property
    def name(self) -> str:
        """As in logs and errors."""
        if self.address.scheme == "unix":
            return str(self.address)
        return f"{self.scheme}://{self.authority}"

    def __str__(self) -> str:
        return self.name


def endpoint_of(url: URL) -> Endpoint:
    """The server that ``url`` names."""
    return Endpoint(url.scheme, url.authority, Address("tcp", url.host, url.port), url.host)


def unix_endpoint(path: str, authority: str = "localhost") -> Endpoint:
    """A server that listens on a UNIX socket.

    :param authority: what it is called in the ``host`` field.
    """
    return Endpoint("http", authority, Address("unix", path, 0), authority)
