"""WebSocket load with one message in flight on each connection.

``python -m benchmarks.websocket_load PORT CONNECTIONS BYTES SECONDS KIND``

KIND is ``binary`` or ``text``. Frames are masked once, before the load. A server's echo of a message is as long as it
can be known to be, so that after the first one of each connection, which is compared, bytes are counted.
"""

from __future__ import annotations

import sys

from benchmarks.echo_load import LoadError, open_connections, report
from benchmarks.processes import raise_descriptor_limit
from benchmarks.websocket_client import BINARY, TEXT, client_frame, echoes, server_frame

KINDS = {"binary": BINARY, "text": TEXT}


def main() -> None:
    """Print the outcome in the form of wrk.lua."""
    port, connections, size = (int(argument) for argument in sys.argv[1:4])
    payload, opcode = b"x" * size, KINDS[sys.argv[5]]
    raise_descriptor_limit()
    try:
        opened = open_connections(port, connections, echoes(payload, opcode))
    except LoadError as error:
        sys.exit(str(error))
    report(opened, client_frame(payload, opcode), float(sys.argv[4]), len(server_frame(payload, opcode)))


if __name__ == "__main__":
    main()
