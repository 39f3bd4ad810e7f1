"""What this machine can do at best: a round's bytes over bare gRPC streams, hashed at both ends, written and synced.

``N`` clients at once, each a process, fetch a file and send one of the same size over mutual TLS in chunks of the
wire's size. The server hashes what it sends and what comes, writes what comes to a file and syncs it. No protobuf, no
store, no checks, no aggregation: what a round needs beyond these seconds is the system's.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from common.tls import Role, harden_tls

harden_tls()  # before anything imports grpc: TLS 1.3 only
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc.aio  # noqa: E402

from common.chunks import chunk_ranges  # noqa: E402
from common.tls import (  # noqa: E402
    CHANNEL_OPTIONS,
    SERVER_OPTIONS,
    channel_credentials,
    load_identity,
    server_credentials,
)
from coordinator.adapters.pki.ca import create_ca, issue  # noqa: E402
from demo.prepare import COORDINATOR_HOSTS  # noqa: E402

_FETCH, _SEND = "/raw.Limit/Fetch", "/raw.Limit/Send"


def raw_seconds(clients: int, size_bytes: int) -> float:
    """Seconds from the moment at which all clients are connected until all are served."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        create_ca(folder / "ca", "raw")
        issue(folder / "ca", "coordinator", Role.COORDINATOR, folder / "server", hosts=COORDINATOR_HOSTS)
        issue(folder / "ca", "client", Role.SITE, folder / "client")
        (folder / "adapter").write_bytes(os.urandom(size_bytes))
        server = _start(stack, "serve", str(folder))
        port = _says(server)
        assert port, "the server did not start"
        started = [_start(stack, "call", str(folder), port, str(number)) for number in range(clients)]
        for client in started:
            _says(client)
        began = time.monotonic()
        for client in started:
            _tell(client)
        for client in started:
            assert _says(client) == "done"
        return time.monotonic() - began


def _start(stack: ExitStack, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.raw_limit", *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


def _says(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


class _RawStreams(grpc.GenericRpcHandler):
    """Serves the file to everyone, and writes what everyone sends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    def service(self, details: Any) -> Any:
        """The two calls; bytes go as they are."""
        if details.method == _FETCH:
            return grpc.unary_stream_rpc_method_handler(self._fetch)
        return grpc.stream_unary_rpc_method_handler(self._take)

    async def _fetch(self, _request: bytes, _context: Any) -> AsyncIterator[bytes]:
        async for content in _chunks(self._folder / "adapter"):
            yield content

    async def _take(self, contents: AsyncIterator[bytes], _context: Any) -> bytes:
        self._count += 1
        digest = hashlib.sha256()
        with (self._folder / f"update-{self._count}").open("wb") as file:
            async for content in contents:
                await asyncio.to_thread(_keep, file, digest, content)
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
        return digest.digest()


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    digest = hashlib.sha256()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for start, length in chunk_ranges(os.fstat(descriptor).st_size, 0):
            content = await asyncio.to_thread(_hashed, descriptor, digest, start, length)
            yield content
    finally:
        os.close(descriptor)


def _hashed(descriptor: int, digest: Any, start: int, length: int) -> bytes:
    content = os.pread(descriptor, length, start)
    digest.update(content)
    return content


def _keep(file: Any, digest: Any, content: bytes) -> None:
    file.write(content)
    digest.update(content)


async def _serve(folder: Path) -> None:
    server = grpc.aio.server(options=SERVER_OPTIONS)
    server.add_generic_rpc_handlers((_RawStreams(folder),))
    identity = load_identity(folder / "server")
    port = server.add_secure_port("127.0.0.1:0", server_credentials(lambda: identity))
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


async def _call(folder: Path, port: str, number: str) -> None:
    credentials = channel_credentials(load_identity(folder / "client"))
    async with grpc.aio.secure_channel(f"localhost:{port}", credentials, options=CHANNEL_OPTIONS) as channel:
        await channel.channel_ready()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        digest = hashlib.sha256()
        fetched = folder / f"fetched-{number}"
        with fetched.open("wb") as file:
            fetch: Any = channel.unary_stream(_FETCH)
            async for content in fetch(b""):
                await asyncio.to_thread(_keep, file, digest, content)
        send: Any = channel.stream_unary(_SEND)
        await send(_chunks(fetched))
        print("done", flush=True)


if __name__ == "__main__":
    what, where = sys.argv[1], Path(sys.argv[2])
    asyncio.run(_serve(where) if what == "serve" else _call(where, *sys.argv[3:]))
