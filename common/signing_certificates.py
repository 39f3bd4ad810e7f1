"""Whose signing key it is: certificates of Ed25519 keys that the consortium's root signs itself. Issues none.

Only the root counts, which lies offline: the CA that a running coordinator holds could certify any key as any site's.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509.oid import NameOID, ObjectIdentifier

from common.errors import FedMedError, InputInvalidError, Reason
from common.signing import MAX_CERTIFICATE_BYTES
from common.tls import Caller, caller_from_certificate

# RFC 9336: a certificate for signing documents. No TLS peer takes one with this purpose alone for a connection.
DOCUMENT_SIGNING = ObjectIdentifier("1.3.6.1.5.5.7.3.36")


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifiedKey:
    """A public key (hex) and whose it is."""

    caller: Caller
    public_key: str
    expires_at: datetime


def read_root(pem: bytes) -> x509.Certificate:
    """The consortium's root certificate.

    Raises:
        InputInvalidError: CONFIG_INVALID, unless it is one certificate that signs certificates and is signed by itself.
    """
    problem = "expected the consortium's root certificate (ca_certificate.pem): one, signed by itself"
    try:
        (root,) = x509.load_pem_x509_certificates(pem)
        root.verify_directly_issued_by(root)
        is_ca = root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.InvalidVersion, x509.ExtensionNotFound):
        raise InputInvalidError(Reason.CONFIG_INVALID, problem) from None
    if not is_ca:
        raise InputInvalidError(Reason.CONFIG_INVALID, problem)
    return root


def consortium_of(root: x509.Certificate) -> str:
    """The name that stands in every identity below ``root``; empty for a root that names none."""
    names = root.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return str(names[0].value) if names else ""


def read_certified_key(pem: str, root: x509.Certificate) -> CertifiedKey:
    """The key that ``root`` certifies in ``pem``, which must be written as this project writes it.

    Raises:
        InputInvalidError: CERTIFICATE_INVALID, with what is wrong.
    """
    certificate = _parsed(pem)
    try:
        certificate.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        raise _invalid("expected one that the consortium's root signed itself, got another") from None
    key = certificate.public_key()
    if not isinstance(key, Ed25519PublicKey) or not _is_for_documents(certificate):
        raise _invalid("expected one of an Ed25519 key for signing documents, got one for something else")
    try:
        caller = caller_from_certificate(pem.encode("ascii"))
    except FedMedError as error:
        raise _invalid(error.message) from None
    if caller.consortium != consortium_of(root):
        raise _invalid(f"expected a member of {consortium_of(root)}, got one of {caller.consortium}")
    public_key = key.public_bytes_raw().hex()
    return CertifiedKey(caller=caller, public_key=public_key, expires_at=certificate.not_valid_after_utc)


def _parsed(pem: str) -> x509.Certificate:
    if len(pem) > MAX_CERTIFICATE_BYTES or not pem.isascii():
        raise _invalid(f"expected at most {MAX_CERTIFICATE_BYTES} ASCII characters")
    try:
        (certificate,) = x509.load_pem_x509_certificates(pem.encode("ascii"))
        certificate.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):
        raise _invalid("expected one X.509 certificate in PEM") from None
    return certificate


def _is_for_documents(certificate: x509.Certificate) -> bool:
    try:
        purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return False
    return list(purposes) == [DOCUMENT_SIGNING] and not constraints.ca


def _invalid(message: str) -> InputInvalidError:
    return InputInvalidError(Reason.CERTIFICATE_INVALID, f"signing certificate: {message}")
