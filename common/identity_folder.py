"""An identity's folder over time: read again when it changes, and a new pair put in it, whole or not at all.

At each instant the folder holds a pair that fits (`common.tls.load_identity` finds it): the next key lies there before
its certificate is asked for, and the certificate is put in place in one step. Asks nobody for a certificate.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from common.certificate_chains import check_chain
from common.errors import FedMedError, InputInvalidError, Reason, UnauthenticatedError
from common.files import make_folder, read_private, sync_folder, write_whole
from common.signing_requests import make_key, make_signing_key, private_pem, read_key, signing_public_key
from common.tls import (
    CERTIFICATE_FILE,
    KEY_FILE,
    MALFORMED,
    NEXT_KEY_FILE,
    TRUST_BUNDLE_FILE,
    Caller,
    Identity,
    caller_from_certificate,
    load_identity,
)

SIGNING_KEY_FILE = "signing_key.pem"
_PRIVATE = 0o600


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifiedIdentity:
    """An identity, and what its certificate says."""

    identity: Identity
    caller: Caller
    valid_from: datetime
    expires_at: datetime
    serial: str


def read_certified(folder: Path) -> CertifiedIdentity:
    """The identity in ``folder``, expired or not.

    Raises:
        InputInvalidError: CONFIG_INVALID, with what to do about it.
        UnauthenticatedError: CERTIFICATE_INVALID, it names nobody.
    """
    identity = load_identity(folder)
    certificate = x509.load_pem_x509_certificate(identity.certificate_pem)
    return CertifiedIdentity(
        identity=identity,
        caller=caller_from_certificate(identity.certificate_pem),
        valid_from=certificate.not_valid_before_utc,
        expires_at=certificate.not_valid_after_utc,
        serial=f"{certificate.serial_number:x}",
    )


class IdentityFolder:
    """The identity in a folder, as it was when it was last whole; may be asked from any thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._seen = _stamps(folder)
        self._certified = read_certified(folder)
        self._problem: FedMedError | None = None

    @property
    def problem(self) -> FedMedError | None:
        """Why what lies in the folder now is not taken; None when it is."""
        return self._problem

    def current(self) -> CertifiedIdentity:
        """The identity, read again if a file of it has changed."""
        with self._lock:
            stamps = _stamps(self.folder)
            if stamps != self._seen:
                self._seen = stamps
                try:
                    self._certified, self._problem = read_certified(self.folder), None
                except FedMedError as error:  # half of it was replaced by hand, say: the last whole one serves
                    self._problem = error
            return self._certified

    def identity(self) -> Identity:
        """The identity alone."""
        return self.current().identity


def _stamps(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """What tells one content of the folder from another: each file is replaced, so its inode or its time is new."""
    stamps = []
    for name in (KEY_FILE, NEXT_KEY_FILE, CERTIFICATE_FILE, TRUST_BUNDLE_FILE):
        with suppress(OSError):
            status = (folder / name).stat()
            stamps.append((name, status.st_ino, status.st_mtime_ns))
    return tuple(stamps)


def prepare_key(folder: Path) -> ec.EllipticCurvePrivateKey:
    """The key to be certified next, on the disk before anybody hears of it; one that waits there is it.

    Raises:
        InputInvalidError: CONFIG_INVALID, it is no key, or others may read it.
    """
    make_folder(folder, 0o700)
    _settle(folder)
    path = folder / NEXT_KEY_FILE
    if not path.exists():
        write_whole(path, private_pem(make_key()), _PRIVATE)
    return read_key(read_private(path), str(path))


def take_certificate(
    folder: Path, caller: Caller, chain_pem: bytes, trust_bundle_pem: bytes, now: datetime
) -> CertifiedIdentity:
    """Adopt what an issuer answered, if it is what was asked for, and who trusts that bundle would trust it ``now``.

    Raises:
        UnauthenticatedError: CERTIFICATE_INVALID, it names another, or no CA of the bundle signed it.
        InputInvalidError: as `adopt_certificate`.
    """
    named = caller_from_certificate(chain_pem)
    if named != caller:
        message = f"certificate: expected one for {caller.uri}, got one for {named.uri}"
        raise UnauthenticatedError(Reason.CERTIFICATE_INVALID, message)
    check_chain(chain_pem, trust_bundle_pem, now)
    adopt_certificate(folder, chain_pem, trust_bundle_pem)
    return read_certified(folder)


def adopt_certificate(folder: Path, chain_pem: bytes, trust_bundle_pem: bytes) -> None:
    """Put the certificate of the prepared key in place; killed anywhere in it, the folder holds one pair or the other.

    Raises:
        InputInvalidError: CONFIG_INVALID, the certificate is not one of the prepared key, or is not well formed.
    """
    certificate = _first_certificate(chain_pem)
    key = read_key(read_private(folder / NEXT_KEY_FILE), NEXT_KEY_FILE)
    if certificate.public_key() != key.public_key():
        raise InputInvalidError(Reason.CONFIG_INVALID, "certificate: expected one of the key that it was asked for")
    write_whole(folder / TRUST_BUNDLE_FILE, trust_bundle_pem)
    write_whole(folder / CERTIFICATE_FILE, chain_pem)
    _settle(folder)


def _settle(folder: Path) -> None:
    """Make the next key the key, if the certificate is its own."""
    next_key = folder / NEXT_KEY_FILE
    if not next_key.exists() or not (folder / CERTIFICATE_FILE).exists():
        return
    certificate = _first_certificate((folder / CERTIFICATE_FILE).read_bytes())
    if read_key(read_private(next_key), str(next_key)).public_key() == certificate.public_key():
        next_key.replace(folder / KEY_FILE)
        sync_folder(folder)


def _first_certificate(pem: bytes) -> x509.Certificate:
    try:
        certificate = x509.load_pem_x509_certificates(pem)[0]
        certificate.public_key()
        return certificate
    except MALFORMED:
        raise InputInvalidError(Reason.CONFIG_INVALID, "certificate: expected PEM, got something else") from None


def prepare_signing_key(folder: Path) -> bytes:
    """The public half (32 bytes) of the Ed25519 key with which updates are signed; made once, and kept for ever.

    Raises:
        InputInvalidError: CONFIG_INVALID, it is no such key, or others may read it.
    """
    make_folder(folder, 0o700)
    path = folder / SIGNING_KEY_FILE
    if not path.exists():
        write_whole(path, private_pem(make_signing_key()), _PRIVATE)
    return signing_public_key(read_private(path), str(path))
