"""Who is who: identities as certificates with a URI name, and mutual TLS 1.3 between them. Issues no certificate.

A name is ``spiffe://<consortium>/<role>/<name>``, the only URI in the certificate's subject alternative names
(SPIFFE X.509-SVID, section 2). gRPC is imported inside functions: :func:`harden_tls` must come before it.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from common.chunks import MAX_MESSAGE_BYTES
from common.errors import FedMedError, InputInvalidError, Reason, UnauthenticatedError
from common.files import read_private
from common.ids import Role as Role
from common.ids import SiteName, check_name

if TYPE_CHECKING:
    import grpc
    from grpc.aio import ServicerContext

KEY_FILE = "key.pem"
# A key that is being certified; it is the identity's from the moment that the certificate is its own.
NEXT_KEY_FILE = "next_key.pem"
CERTIFICATE_FILE = "certificate.pem"
TRUST_BUNDLE_FILE = "trust_bundle.pem"

# gRPC has no option for the least TLS version. This suite is one of TLS 1.2 with RSA; every key here is ECDSA, so no
# TLS 1.2 handshake can end well, and TLS 1.3 chooses from suites of its own.
_CIPHER_VARIABLE = "GRPC_SSL_CIPHER_SUITES"
_CIPHER_SUITES = "ECDHE-RSA-AES256-GCM-SHA384"

# What reading a stranger's certificate may raise.
MALFORMED = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
)
_ECDSA_ALONE = "expected ECDSA keys; any other, RSA above all, would let peers fall back to TLS 1.2"

# A peer that does not finish the handshake in so long is let go; gRPC's own two minutes let silence pile up.
HANDSHAKE_SECONDS = 10
_PING_SECONDS = 30
_COMMON_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # A dead peer behind a firewall that drops silently is noticed within 40 s.
    ("grpc.keepalive_time_ms", _PING_SECONDS * 1000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # What a peer may send ahead of what was read of its stream; while a message is waited for, as much of it as is
    # missing. By default gRPC measures the link and lets this grow, on a fast one to some 20 MB a stream.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 2**18),
)
CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    *_COMMON_OPTIONS,
    # While gRPC waits before it connects again, every call fails at once: how long to wait is the callers' to say.
    ("grpc.initial_reconnect_backoff_ms", 250),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)
SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    *_COMMON_OPTIONS,
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1000),
    # Less than the clients' interval: otherwise the server ends their connections with "too_many_pings".
    ("grpc.http2.min_ping_interval_without_data_ms", _PING_SECONDS * 1000 // 2),
    ("grpc.keepalive_permit_without_calls", 1),
    # A second coordinator on the same port must fail instead of taking half of the connections.
    ("grpc.so_reuseport", 0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who a certificate names."""

    name: SiteName
    role: Role
    consortium: str

    @property
    def uri(self) -> str:
        """The name as it stands in the certificate."""
        return f"spiffe://{self.consortium}/{self.role}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a process proves itself with, and whom it trusts; PEM. The key is not in the ``repr``.

    The certificate's issuers stand behind it, where it was not signed by a root.
    """

    key_pem: bytes = field(repr=False)
    certificate_pem: bytes
    trust_bundle_pem: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Whom a connection's certificate names, and which certificate it is (the serial in lower-case hex)."""

    caller: Caller
    serial: str
    valid_from: datetime
    expires_at: datetime


def harden_tls() -> None:
    """Leave TLS 1.3 as the only version that gRPC can agree on in this process. Call it before grpc is imported.

    Raises:
        RuntimeError: grpc is imported already, and reads no setting any more.
    """
    if os.environ.get(_CIPHER_VARIABLE) == _CIPHER_SUITES:
        return
    if "grpc" in sys.modules:
        raise RuntimeError("harden_tls must run before grpc is imported")
    os.environ[_CIPHER_VARIABLE] = _CIPHER_SUITES


def parse_caller(uri: str) -> Caller:
    """The caller whom ``uri`` names.

    Raises:
        UnauthenticatedError: CERTIFICATE_INVALID.
    """
    match = re.fullmatch(r"spiffe://([^/]+)/([^/]+)/([^/]+)", uri)
    if match is None or match[2] not in set(Role):
        _refuse(f"expected 'spiffe://<consortium>/<role>/<name>', got {uri[:120]!r}")
    try:
        consortium = check_name(match[1], "consortium")
        name = SiteName(check_name(match[3], "name"))
    except InputInvalidError as error:
        _refuse(error.message)
    return Caller(name=name, role=Role(match[2]), consortium=consortium)


def caller_from_certificate(pem: bytes) -> Caller:
    """The caller whom the certificate names. That a CA we trust signed it is the handshake's part.

    Raises:
        UnauthenticatedError: CERTIFICATE_INVALID, unless it holds exactly one URI, and that names a caller.
    """
    return _read_certificate(pem).caller


def caller_from_context(context: ServicerContext[Any, Any], now: datetime | None = None) -> Caller:
    """The caller at the other end of an rpc; raises as `peer_from_context`."""
    return peer_from_context(context, now).caller


def peer_from_context(context: ServicerContext[Any, Any], now: datetime | None = None) -> Peer:
    """Who is at the other end of an rpc; a connection that outlives its certificate names nobody any more.

    Raises:
        UnauthenticatedError: CERTIFICATE_INVALID.
    """
    chain = [bytes(pem) for pem in context.auth_context().get("x509_pem_cert", ())]
    if len(chain) != 1:
        _refuse(f"expected one certificate, got {len(chain)}")
    peer = _read_certificate(chain[0])
    if (now or datetime.now(UTC)) > peer.expires_at:
        _refuse(f"expected one that is valid now, got one that expired at {peer.expires_at.isoformat()}")
    return peer


@lru_cache(maxsize=1024)  # every rpc asks, and a connection sends the same bytes each time
def _read_certificate(pem: bytes) -> Peer:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except MALFORMED:
        _refuse("expected an X.509 certificate with subject alternative names")
    if len(uris) != 1:
        _refuse(f"expected one URI, got {len(uris)}")
    return Peer(
        caller=parse_caller(uris[0]),
        serial=f"{certificate.serial_number:x}",
        valid_from=certificate.not_valid_before_utc,
        expires_at=certificate.not_valid_after_utc,
    )


def _refuse(message: str) -> Never:
    raise UnauthenticatedError(Reason.CERTIFICATE_INVALID, f"certificate: {message}") from None


def load_identity(folder: Path) -> Identity:
    """Read ``key.pem``, ``certificate.pem`` and ``trust_bundle.pem``; check that they can serve.

    A process that died while it put a renewed certificate in place left its key as ``next_key.pem``.

    Raises:
        InputInvalidError: CONFIG_INVALID, with what to do about it.
    """
    try:
        certificate_pem = (folder / CERTIFICATE_FILE).read_bytes()
        trust_bundle_pem = (folder / TRUST_BUNDLE_FILE).read_bytes()
        certificate = _checked(folder, certificate_pem, trust_bundle_pem)
        key_pem = _key_of(folder, certificate)
    except OSError as error:
        raise _invalid(f"{error.filename}: {error.strerror}") from None
    return Identity(key_pem=key_pem, certificate_pem=certificate_pem, trust_bundle_pem=trust_bundle_pem)


def _checked(folder: Path, certificate_pem: bytes, trust_bundle_pem: bytes) -> x509.Certificate:
    """The identity's own certificate, after a look at it, at its issuers behind it, and at the roots."""
    try:
        chain = x509.load_pem_x509_certificates(certificate_pem)
        keys = [each.public_key() for each in (*chain, *x509.load_pem_x509_certificates(trust_bundle_pem))]
    except MALFORMED:
        raise _invalid(f"{folder}: expected certificates as PEM") from None
    if not all(isinstance(key, EllipticCurvePublicKey) for key in keys):
        raise _invalid(f"{folder}: {_ECDSA_ALONE}")
    return chain[0]


def fingerprints_of(pem: bytes) -> list[str]:
    """SHA-256 of each CA certificate in ``pem``, as people read it out: pairs of hex digits.

    Raises:
        InputInvalidError: CONFIG_INVALID, it is none, or has a key that is not ECDSA.
    """
    try:
        certificates = x509.load_pem_x509_certificates(pem)
        keys = [each.public_key() for each in certificates]
    except MALFORMED:
        raise _invalid("CA certificate: expected certificates as PEM") from None
    if not all(isinstance(key, EllipticCurvePublicKey) for key in keys):
        raise _invalid(f"CA certificate: {_ECDSA_ALONE}")
    return [each.fingerprint(SHA256()).hex(":").upper() for each in certificates]


def _key_of(folder: Path, certificate: x509.Certificate) -> bytes:
    for name in (KEY_FILE, NEXT_KEY_FILE):
        try:
            key_pem = read_private(folder / name)
            key = load_pem_private_key(key_pem, password=None)
        except FileNotFoundError:
            if name == KEY_FILE and not (folder / NEXT_KEY_FILE).exists():
                raise
            continue
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise _invalid(f"{folder / name}: expected a key as PEM, without a password") from None
        if not isinstance(key, EllipticCurvePrivateKey):
            raise _invalid(f"{folder / name}: {_ECDSA_ALONE}")
        if key.public_key() == certificate.public_key():
            return key_pem
    raise _invalid(f"{folder}: {CERTIFICATE_FILE} belongs to another key than {KEY_FILE}; issue the identity again")


def _invalid(message: str) -> FedMedError:
    return InputInvalidError(Reason.CONFIG_INVALID, message)


def server_credentials(current: Callable[[], Identity], *, clients_are_known: bool = True) -> grpc.ServerCredentials:
    """TLS for a server, mutual unless its clients have no certificate yet.

    Whoever shows no certificate of the trust bundle gets no connection. ``current`` is asked at each new connection, by
    threads of gRPC: it gives the certificate that is shown then, and the roots that count.
    """
    harden_tls()
    import grpc

    def configuration(identity: Identity) -> grpc.ServerCertificateConfiguration:
        pair = (identity.key_pem, identity.certificate_pem)
        roots = identity.trust_bundle_pem if clients_are_known else None
        return grpc.ssl_server_certificate_configuration([pair], roots)

    lock, shown = threading.Lock(), current()

    def changed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal shown
        with lock:
            identity = current()
            if identity == shown:  # given again at each connection, it makes gRPC free twice under many handshakes
                return None
            shown = identity
        return configuration(identity)

    # None is "no change" by gRPC's own documentation; its type stubs do not know.
    return grpc.dynamic_ssl_server_credentials(configuration(shown), changed, clients_are_known)  # type: ignore[arg-type]


def channel_credentials(identity: Identity) -> grpc.ChannelCredentials:
    """Mutual TLS for a client, which trusts the trust bundle and nothing that the machine trusts."""
    harden_tls()
    import grpc

    return grpc.ssl_channel_credentials(
        root_certificates=identity.trust_bundle_pem,
        private_key=identity.key_pem,
        certificate_chain=identity.certificate_pem,
    )
