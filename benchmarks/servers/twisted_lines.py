"""Lines echoed with Twisted: ``python -m benchmarks.servers.twisted_lines PORT``."""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet import epollreactor

epollreactor.install()  # type: ignore[no-untyped-call]  # Twisted's types do not cover it

from twisted.internet import reactor as installed  # noqa: E402  # only now does it name the one that was installed
from twisted.internet.protocol import Factory  # noqa: E402
from twisted.protocols.basic import LineReceiver  # noqa: E402


class EchoLines(LineReceiver):
    """Every line goes back."""

    delimiter = b"\n"

    def lineReceived(self, line: bytes) -> None:  # noqa: N802  # Twisted calls it so
        """Send it back."""
        self.sendLine(line)  # type: ignore[no-untyped-call]  # as above


reactor: Any = installed  # a module to type checkers

if __name__ == "__main__":
    reactor.listenTCP(int(sys.argv[1]), Factory.forProtocol(EchoLines), backlog=1024, interface="127.0.0.1")
    reactor.run()
