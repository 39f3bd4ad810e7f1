"""The roots that a folder trusts, one more or one less: how a consortium goes from one root to the next."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from common.errors import InputInvalidError, Reason
from common.files import write_whole
from common.tls import TRUST_BUNDLE_FILE, fingerprints_of


def trust(folder: Path, root_pem: bytes) -> list[str]:
    """Let ``folder`` trust the roots in ``root_pem``, too; returns the fingerprints of all that it trusts.

    Raises:
        InputInvalidError: CONFIG_INVALID, they are no ECDSA certificates of CAs.
    """
    fingerprints_of(root_pem)
    known = _bundle(folder)
    new = [each for each in x509.load_pem_x509_certificates(root_pem) if each not in known]
    for each in new:
        if not _is_ca(each):
            raise InputInvalidError(Reason.CONFIG_INVALID, "root: expected a CA's certificate, got another")
    return _write(folder, [*known, *new])


def distrust(folder: Path, fingerprint: str) -> list[str]:
    """Let ``folder`` trust the root of that SHA-256 fingerprint no more; returns the fingerprints of those left.

    Raises:
        InputInvalidError: CONFIG_INVALID, it is not among them, or is the last.
    """
    known = _bundle(folder)
    wanted = fingerprint.replace(":", "").upper()
    kept = [each for each in known if fingerprints_of(each.public_bytes(Encoding.PEM))[0].replace(":", "") != wanted]
    if len(kept) == len(known) or not kept:
        expected = "expected the fingerprint of one of several roots"
        raise InputInvalidError(Reason.CONFIG_INVALID, f"{folder / TRUST_BUNDLE_FILE}: {expected}, got {fingerprint}")
    return _write(folder, kept)


def _bundle(folder: Path) -> list[x509.Certificate]:
    path = folder / TRUST_BUNDLE_FILE
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except (ValueError, OSError):
        raise InputInvalidError(Reason.CONFIG_INVALID, f"{path}: expected certificates as PEM") from None


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _write(folder: Path, roots: list[x509.Certificate]) -> list[str]:
    pem = b"".join(each.public_bytes(Encoding.PEM) for each in roots)
    write_whole(folder / TRUST_BUNDLE_FILE, pem)
    return fingerprints_of(pem)
