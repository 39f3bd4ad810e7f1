"""Certifies signing keys where the root's key is: a site's, for its updates, and the coordinator's, for releases.

A running coordinator cannot do it: of the CA that it may hold, no certificate of a signing key counts.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding

from common.clock import SystemClock
from common.errors import InputInvalidError, Reason
from common.files import write_whole
from common.signing import (
    RELEASE_FILES,
    UPDATE_FILES,
    KeyFiles,
    fingerprint,
    load_signing_key,
    new_key_pem,
)
from common.tls import Caller, Role
from coordinator.adapters.pki.ca import load_ca, record
from coordinator.adapters.pki.certificates import Validity, signing_certificate
from coordinator.domain.enrolment import BACKDATING


def key_files_of(role: Role) -> KeyFiles | None:
    """Where a holder of that role keeps a signing key; None for a role that signs nothing."""
    return {Role.SITE: UPDATE_FILES, Role.COORDINATOR: RELEASE_FILES}.get(role)


def is_root(ca_folder: Path) -> bool:
    """Whether that CA's certificate is signed by itself; raises as `load_ca`."""
    certificate = load_ca(ca_folder).certificate
    try:
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def certify_key(root_folder: Path, caller: Caller, public_key: str) -> str:
    """The root's certificate (PEM) that ``public_key`` (hex) is ``caller``'s, good for as long as the root itself.

    Whoever runs this has compared the key's fingerprint with its holder, by a way that the coordinator has no hand in.

    Raises:
        InputInvalidError: CONFIG_INVALID, the folder holds no root; FIELD_INVALID, it is no public key.
    """
    fingerprint(public_key)  # is it one at all
    root = load_ca(root_folder)
    if not is_root(root_folder):
        message = f"{root_folder}: expected the root, whose certificate is signed by itself, got a CA below it"
        raise InputInvalidError(Reason.CONFIG_INVALID, message)
    valid = Validity(not_before=SystemClock().now() - BACKDATING, not_after=root.certificate.not_valid_after_utc)
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
    certificate = signing_certificate(root.key, root.certificate, key, caller, valid)
    record(root.folder, caller.name, f"{caller.role} signing key", certificate)
    return certificate.public_bytes(Encoding.PEM).decode("ascii")


def make_signing_key(root_folder: Path, caller: Caller, identity_folder: Path) -> None:
    """Put a signing key and the root's certificate of it into an identity folder; a key that is there stays.

    Raises:
        InputInvalidError: as `certify_key`; or CONFIG_INVALID, the key that is there is none.
    """
    files = key_files_of(caller.role)
    if files is None:
        return
    if not (identity_folder / files.key).exists():
        write_whole(identity_folder / files.key, new_key_pem(), 0o600)
    key = load_signing_key(identity_folder, files)
    assert key is not None, "it was written above, or was there"
    certificate = certify_key(root_folder, caller, key.public_key)
    write_whole(identity_folder / files.certificate, certificate.encode("ascii"))
