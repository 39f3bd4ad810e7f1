"""A CA of the consortium as a folder: its key, its certificate, and a line for everything it signed. Revokes nothing.

::

    ca_key.pem            ECDSA P-256, mode 0600
    ca_certificate.pem    its certificate; of an issuing CA, those between it and the root behind it
    trust_bundle.pem      of an issuing CA: the roots that everyone trusts; a root is its own
    issued.jsonl          one line a certificate, written before the certificate is handed out
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from common.clock import Clock, SystemClock
from common.errors import InputInvalidError, Reason
from common.files import make_folder, read_private, write_whole
from common.ids import Role, SiteName, check_name
from common.signing_requests import make_key, private_pem, read_key
from common.tls import CERTIFICATE_FILE, KEY_FILE, TRUST_BUNDLE_FILE, Caller
from coordinator.adapters.pki.certificates import (
    CA_LIFETIME,
    IDENTITY_LIFETIME,
    ISSUING_CA_LIFETIME,
    Subject,
    ca_certificate,
    identity_certificate,
    issuing_ca_certificate,
    validity,
)

CA_KEY_FILE = "ca_key.pem"
CA_CERTIFICATE_FILE = "ca_certificate.pem"
ISSUED_FILE = "issued.jsonl"
_PRIVATE = 0o600


@dataclass(frozen=True, slots=True)
class CertificateAuthority:
    """An opened CA; ``above`` are the certificates between its own and the root."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    above: tuple[x509.Certificate, ...] = ()

    @property
    def issuers_pem(self) -> bytes:
        """What stands behind each certificate that it signs: this CA and those above, but no root."""
        chain = (self.certificate, *self.above)
        return b"".join(each.public_bytes(Encoding.PEM) for each in chain if each.subject != each.issuer)

    def trust_bundle_pem(self) -> bytes:
        """The roots that holders of its certificates are to trust.

        Raises:
            InputInvalidError: CONFIG_INVALID, when an issuing CA's folder has none.
        """
        with suppress(FileNotFoundError):
            return (self.folder / TRUST_BUNDLE_FILE).read_bytes()
        if self.certificate.subject != self.certificate.issuer:
            missing = f"{self.folder / TRUST_BUNDLE_FILE}: expected the roots that everyone trusts, got no file"
            raise InputInvalidError(Reason.CONFIG_INVALID, missing)
        return self.certificate.public_bytes(Encoding.PEM)

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
    key = make_key()
    certificate = ca_certificate(key, consortium, validity(SystemClock().now(), lifetime))
    write_whole(ca_folder / CA_KEY_FILE, private_pem(key), _PRIVATE)
    write_whole(ca_folder / CA_CERTIFICATE_FILE, certificate.public_bytes(Encoding.PEM))
    return CertificateAuthority(ca_folder, key, certificate)


def create_issuing_ca(
    root_folder: Path, out_folder: Path, lifetime: timedelta = ISSUING_CA_LIFETIME
) -> CertificateAuthority:
    """Make a CA below the root in ``root_folder``, which may then go back to where nobody reaches it.

    Raises:
        InputInvalidError: CONFIG_INVALID, when the folder holds a CA, or the root may sign none for so long.
    """
    _check_absent(out_folder, (CA_KEY_FILE, CA_CERTIFICATE_FILE))
    root, key = load_ca(root_folder), make_key()
    valid = validity(SystemClock().now(), lifetime)
    certificate = issuing_ca_certificate(root.key, root.certificate, key.public_key(), valid)
    record(root.folder, "issuing-ca", "ca", certificate)
    make_folder(out_folder, 0o700)
    write_whole(out_folder / TRUST_BUNDLE_FILE, root.trust_bundle_pem())
    write_whole(out_folder / CA_KEY_FILE, private_pem(key), _PRIVATE)
    write_whole(out_folder / CA_CERTIFICATE_FILE, certificate.public_bytes(Encoding.PEM) + root.issuers_pem)
    return load_ca(out_folder)


def load_ca(ca_folder: Path) -> CertificateAuthority:
    """Open the CA in ``ca_folder``.

    Raises:
        InputInvalidError: CONFIG_INVALID, when there is none, or others may read its key.
    """
    try:
        key = read_key(read_private(ca_folder / CA_KEY_FILE), str(ca_folder / CA_KEY_FILE))
        certificate, *above = x509.load_pem_x509_certificates((ca_folder / CA_CERTIFICATE_FILE).read_bytes())
    except OSError as error:
        raise InputInvalidError(Reason.CONFIG_INVALID, f"{error.filename}: {error.strerror}") from None
    except ValueError:
        raise InputInvalidError(Reason.CONFIG_INVALID, f"{ca_folder}: expected a CA's PEM files") from None
    if key.public_key() != certificate.public_key():
        raise InputInvalidError(Reason.CONFIG_INVALID, f"{ca_folder}: expected an ECDSA key and its certificate")
    return CertificateAuthority(ca_folder, key, certificate, tuple(above))


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
    record(ca.folder, subject.caller.name, subject.caller.role, certificate)
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
    key = make_key()
    certificate = sign_public_key(ca, key.public_key(), Subject(caller=caller, hosts=tuple(hosts)), lifetime)
    make_folder(out_folder, 0o700)
    write_whole(out_folder / TRUST_BUNDLE_FILE, ca.trust_bundle_pem())
    write_whole(out_folder / KEY_FILE, private_pem(key), _PRIVATE)
    write_whole(out_folder / CERTIFICATE_FILE, certificate.public_bytes(Encoding.PEM) + ca.issuers_pem)
    return caller


def record(ca_folder: Path, name: str, role: str, certificate: x509.Certificate) -> None:
    """Add a line to the CA's book; the serial in hex, the expiry in ISO 8601, UTC."""
    path, expires_at = ca_folder / ISSUED_FILE, certificate.not_valid_after_utc.isoformat()
    line = {"name": name, "role": role, "serial": f"{certificate.serial_number:x}", "expires_at": expires_at}
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
