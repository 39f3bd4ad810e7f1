"""Servers that are no bucket, or break off: what comes of a connection is up to the test."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

# Is given each connection, and the end of the test to wait for; the connection is closed when it returns.
Treatment = Callable[[socket.socket, threading.Event], None]


@dataclass(slots=True)
class BrokenBucket:
    """A server on loopback; ``connected`` is set by its first connection."""

    treat: Treatment
    connected: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    _listening: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self._listening.getsockname()[1]}"

    def serve(self) -> None:
        """Take connections until the end."""
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                self.connected.set()
                threading.Thread(target=self._treat, args=(connection,), daemon=True).start()

    def end(self) -> None:
        """Take no more."""
        self.ended.set()
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _treat(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            self.treat(connection, self.ended)


@contextmanager
def broken_bucket(treat: Treatment) -> Iterator[BrokenBucket]:
    """A server that treats each connection so."""
    server = BrokenBucket(treat)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.end()
        thread.join()


def answering(answer: bytes) -> Treatment:
    """Every request gets that answer, and then the end of the connection."""

    def treat(connection: socket.socket, ended: threading.Event) -> None:
        _read_request(connection)
        connection.sendall(answer)

    return treat


def silent(connection: socket.socket, ended: threading.Event) -> None:
    """Take everything and say nothing."""
    connection.settimeout(0.1)
    while not ended.is_set():
        with suppress(TimeoutError):
            if not connection.recv(2**16):
                return


def hanging_up(connection: socket.socket, ended: threading.Event) -> None:
    """Close at once what was opened, as a balancer with nobody behind it does."""
    connection.settimeout(5.0)
    connection.recv(2**16)


def spoiling(context: ssl.SSLContext, head: bytes) -> Treatment:
    """Over TLS, ``head``, and then bytes that are no TLS."""

    def treat(connection: socket.socket, ended: threading.Event) -> None:
        secured = context.wrap_socket(connection, server_side=True)
        _read_request(secured)
        secured.sendall(head)
        with socket.socket(fileno=secured.detach()) as bare:
            bare.sendall(b"no record of TLS" * 64)
            ended.wait(1.0)

    return treat


def own_certificate(folder: Path) -> ssl.SSLContext:
    """The context of a server on loopback; who trusts ``folder/ca.pem`` trusts it."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bucket")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "ca.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(key.private_bytes(*plain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "ca.pem", folder / "key.pem")
    return context


def _read_request(connection: socket.socket) -> None:
    """A request, as far as its head goes, and what came with it; the rest is left alone."""
    connection.settimeout(5.0)
    head = b""
    while b"\r\n\r\n" not in head:
        head += connection.recv(2**16)
