"""A program that downloads or uploads a large file.

``python -m tests.http.client.transfer download URL``, or ``upload URL PATH``, prints, as JSON, the SHA-256 of what came
or what the server says, and by how much memory grew at its most.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import sys
import time
from pathlib import Path

from forebay.http.client.client import Client


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {field}")


async def main(what: str, url: str, path: str = "") -> None:
    """Do it."""
    base, _, _ = url.rpartition("/")
    async with Client() as client:
        for _ in range(20):
            await (await client.get(f"{base.removesuffix('/files')}/chunks")).read()
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew (proc(5))
        before, began = _status("VmRSS:"), time.monotonic()
        if what == "download":
            digest = hashlib.sha256()
            size = 0
            async with client.get(url) as response:
                async for piece in response.stream():
                    digest.update(piece)
                    size += len(piece)
            found = {"status": response.status, "sha256": digest.hexdigest(), "size": size}
        else:
            response = await client.put(url, content=Path(path))
            found = {"status": response.status, **(await response.json())}
        print(json.dumps({**found, "grown": _status("VmHWM:") - before, "seconds": time.monotonic() - began}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
