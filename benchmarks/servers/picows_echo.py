"""WebSocket echo with picows on uvloop, as its documentation has it.

``python -m benchmarks.servers.picows_echo PORT``
"""

from __future__ import annotations

import sys

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server


class Echo(WSListener):
    """Every message goes back."""

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Send it back, without a copy."""
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        else:
            transport.send(frame.msg_type, frame.get_payload_as_memoryview())


def listener(request: WSUpgradeRequest) -> WSListener:
    """For every path."""
    return Echo()


async def serve(port: int) -> None:
    """Serve on ``port`` until the process is ended."""
    server = await ws_create_server(listener, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
