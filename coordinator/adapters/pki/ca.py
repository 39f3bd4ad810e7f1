"""The consortium's CA as a folder: its key, its certificate, and a line for everything it signed. Revokes nothing.

::

    ca_key.pem            ECDSA P-256, mode 0600
    ca_certificate.pem    what everyone trusts
    issued.jsonl          one line a certificate, written before the certificate is handed out
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from common.clock import Clock, SystemClock
from common.errors import InputInvalidError, Reason
from common.files import make_folder, read_private, write_whole
from common.ids import SiteName, check_name
from common.tls import CERTIFICATE_FILE, KEY_FILE, TRUST_BUNDLE_FILE, Caller, Role
from coordinator.adapters.pki.certificates import (
    CA_LIFETIME,
    CURVE,
    IDENTITY_LIFETIME,
    Subject,
    ca_certificate,
    identity_certificate,
    validity,
)

CA_KEY_FILE = "ca_key.pem"
CA_CERTIFICATE_FILE = "ca_certificate.pem"
ISSUED_FILE = "issued.jsonl"
_PRIVATE = 0o600


@dataclass(frozen=True, slots=True)
class CertificateAuthority:
    """An opened CA."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def consortium(self) -> str:
        """The name that stands in every identity."""
        return str(self.certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value)


def create_ca(ca_folder: Path, consortium: str, lifetime: timedelta = CA_LIFETIME) -> CertificateAuthority:
    """Make a CA of its own for ``consortium``.

    Raises:
        InputInvalidError: NAME_INVALID; or CONFIG_INVALID, when the folder holds one.
    """
    check_name(consortium, "consortium")
    _check_absent(ca_folder, (CA_KEY_FILE, CA_CERTIFICATE_FILE))
    make_folder(ca_folder, 0o700)
    key = ec.generate_private_key(CURVE())
    certificate = ca_certificate(key, consortium, validity(SystemClock().now(), lifetime))
    write_whole(ca_folder / CA_KEY_FILE, _key_pem(key), _PRIVATE)
    write_whole(ca_folder / CA_CERTIFICATE_FILE, certificate.public_bytes(Encoding.PEM))
    return CertificateAuthority(ca_folder, key, certificate)


def load_ca(ca_folder: Path) -> CertificateAuthority:
    """Open the CA in ``ca_folder``.

    Raises:
        InputInvalidError: CONFIG_INVALID, when there is none, or others may read its key.
    """
    try:
        key = load_pem_private_key(read_private(ca_folder / CA_KEY_FILE), password=None)
        certificate = x509.load_pem_x509_certificate((ca_folder / CA_CERTIFICATE_FILE).read_bytes())
    except OSError as error:
        raise InputInvalidError(Reason.CONFIG_INVALID, f"{error.filename}: {error.strerror}") from None
    except (ValueError, TypeError):
        raise InputInvalidError(Reason.CONFIG_INVALID, f"{ca_folder}: expected a CA's PEM files") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise InputInvalidError(Reason.CONFIG_INVALID, f"{ca_folder}: expected an ECDSA key and its certificate")
    return CertificateAuthority(ca_folder, key, certificate)


def sign_public_key(
    ca: CertificateAuthority,
    public_key: ec.EllipticCurvePublicKey,
    subject: Subject,
    lifetime: timedelta = IDENTITY_LIFETIME,
    clock: Clock | None = None,
) -> x509.Certificate:
    """Record and return a certificate that names the owner of ``public_key`` as ``subject``.

    Raises:
        InputInvalidError: CONFIG_INVALID, see :func:`identity_certificate`.
    """
    now = (clock or SystemClock()).now()
    certificate = identity_certificate(ca.key, ca.certificate, public_key, subject, validity(now, lifetime))
    _record(ca.folder / ISSUED_FILE, subject.caller, certificate.serial_number, certificate.not_valid_after_utc)
    return certificate


def issue(
    ca_folder: Path,
    name: str,
    role: Role,
    out_folder: Path,
    hosts: Sequence[str] = (),
    lifetime: timedelta = IDENTITY_LIFETIME,
) -> Caller:
    """Make a key and its certificate in ``out_folder``, as ``common.tls.load_identity`` reads them.

    Raises:
        InputInvalidError: CONFIG_INVALID, when the folder holds an identity; NAME_INVALID.
    """
    _check_absent(out_folder, (KEY_FILE, CERTIFICATE_FILE))
    ca = load_ca(ca_folder)
    caller = Caller(name=SiteName(check_name(name, "name")), role=role, consortium=ca.consortium)
    key = ec.generate_private_key(CURVE())
    certificate = sign_public_key(ca, key.public_key(), Subject(caller=caller, hosts=tuple(hosts)), lifetime)
    make_folder(out_folder, 0o700)
    write_whole(out_folder / TRUST_BUNDLE_FILE, ca.certificate.public_bytes(Encoding.PEM))
    write_whole(out_folder / KEY_FILE, _key_pem(key), _PRIVATE)
    write_whole(out_folder / CERTIFICATE_FILE, certificate.public_bytes(Encoding.PEM))
    return caller


def _record(path: Path, caller: Caller, serial: int, expires_at: datetime) -> None:
    """Add a line; ``serial`` in hex, ``expires_at`` in ISO 8601, UTC."""
    line = {"name": caller.name, "role": caller.role, "serial": f"{serial:x}", "expires_at": expires_at.isoformat()}
    # O_APPEND: one write a line, so that two commands at once do not mix theirs.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, (json.dumps(line) + "\n").encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_absent(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        if (folder / name).exists():
            raise InputInvalidError(Reason.CONFIG_INVALID, f"{folder / name}: exists already, and is not overwritten")


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
