"""Stands between agents and their coordinator with the keys of both, and writes down what they say in the clear.

A test has every key of its consortium; nobody else could do this: TLS ends here and begins anew, with the coordinator's
certificate towards the agents, and towards the coordinator with that of the agent that called.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from common.tls import CERTIFICATE_FILE, KEY_FILE, TRUST_BUNDLE_FILE

READ_BYTES = 2**16
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_HEADER_BYTES, DATA = 9, 0


@dataclass(slots=True)
class Wiretap:
    """Listens on ``port`` for whoever has an identity below ``folder``, and passes on to ``target``, both on loopback.

    Attributes:
        heard: All that went one way over one connection, for each of them.
    """

    folder: Path
    coordinator: Path
    port: int
    target: int
    heard: list[bytearray] = field(default_factory=list)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Listen."""
        self._loop.run_until_complete(asyncio.start_server(self._pass_on, "127.0.0.1", self.port, ssl=self._server()))
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Hang up."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        assert self._thread is not None
        self._thread.join()
        self._loop.run_until_complete(self._end_connections())
        self._loop.close()

    def said(self) -> Iterator[bytes]:
        """What was said: each connection's bytes, headers and all, and the messages of each call without frames."""
        for content in self.heard:
            yield bytes(content)
            yield from messages(bytes(content))

    def _server(self) -> ssl.SSLContext:
        context = _with_identity(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), self.coordinator)
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    async def _pass_on(self, agent: asyncio.StreamReader, to_agent: asyncio.StreamWriter) -> None:
        certificate = to_agent.get_extra_info("ssl_object").getpeercert(binary_form=True)
        context = _with_identity(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), self._identity_of(certificate))
        with suppress(OSError):
            coordinator, to_coordinator = await asyncio.open_connection(
                "127.0.0.1", self.target, ssl=context, server_hostname="localhost"
            )
            await asyncio.gather(self._pump(agent, to_coordinator), self._pump(coordinator, to_agent))
        to_agent.close()

    async def _end_connections(self) -> None:
        open_connections = [each for each in asyncio.all_tasks() if each is not asyncio.current_task()]
        for each in open_connections:
            each.cancel()
        await asyncio.gather(*open_connections, return_exceptions=True)

    def _identity_of(self, certificate: bytes) -> Path:
        """The folder with the key of that certificate (DER)."""
        for file in self.folder.rglob(CERTIFICATE_FILE):
            leaf = x509.load_pem_x509_certificate(file.read_bytes())
            if leaf.public_bytes(Encoding.DER) == certificate:
                return file.parent
        raise AssertionError("expected a certificate of this consortium's, whose key is here")

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        heard = bytearray()
        self.heard.append(heard)
        with suppress(OSError):
            while content := await source.read(READ_BYTES):
                heard += content
                target.write(content)
                await target.drain()
        target.close()


def _with_identity(context: ssl.SSLContext, identity: Path) -> ssl.SSLContext:
    context.load_cert_chain(identity / CERTIFICATE_FILE, identity / KEY_FILE)
    context.load_verify_locations(identity / TRUST_BUNDLE_FILE)
    context.set_alpn_protocols(["h2"])
    return context


def messages(content: bytes) -> Iterator[bytes]:
    """What HTTP/2 carries in one direction of a connection, by stream (RFC 9113, 4.1)."""
    streams: defaultdict[int, bytearray] = defaultdict(bytearray)
    at = len(PREFACE) if content.startswith(PREFACE) else 0
    while at + FRAME_HEADER_BYTES <= len(content):
        size, kind = int.from_bytes(content[at : at + 3]), content[at + 3]
        stream = int.from_bytes(content[at + 5 : at + FRAME_HEADER_BYTES])
        at += FRAME_HEADER_BYTES
        if kind == DATA:
            streams[stream] += content[at : at + size]
        at += size
    yield from map(bytes, streams.values())
