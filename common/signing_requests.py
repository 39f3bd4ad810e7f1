"""Keys, and requests to certify them (PKCS #10, RFC 2986). Signs no certificate and touches no file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Never

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from common.errors import FedMedError, InputInvalidError, Reason
from common.ids import Digest, digest_of
from common.tls import Caller, parse_caller

CURVE = ec.SECP256R1
# An ECDSA request with one name takes about 500 bytes.
MAX_REQUEST_BYTES = 16 * 2**10

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningRequest:
    """What a request asks for, once its own signature was checked."""

    caller: Caller
    public_key: ec.EllipticCurvePublicKey

    @property
    def key_digest(self) -> Digest:
        """SHA-256 of the key as SubjectPublicKeyInfo."""
        return key_digest(self.public_key)


def make_key() -> ec.EllipticCurvePrivateKey:
    """A new ECDSA P-256 key."""
    return ec.generate_private_key(CURVE())


def make_signing_key() -> ed25519.Ed25519PrivateKey:
    """A new Ed25519 key, with which a site signs its updates."""
    return ed25519.Ed25519PrivateKey.generate()


def private_pem(key: PrivateKey) -> bytes:
    """The key as PKCS #8 without a password: a file's permissions are what guards it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def read_key(pem: bytes, what: str) -> ec.EllipticCurvePrivateKey:
    """The ECDSA key in ``pem``.

    Raises:
        InputInvalidError: CONFIG_INVALID.
    """
    key = _private_key(pem)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InputInvalidError(Reason.CONFIG_INVALID, f"{what}: expected an ECDSA key without a password, as PEM")
    return key


def signing_public_key(pem: bytes, what: str) -> bytes:
    """The 32 raw bytes (RFC 8032, section 5.1.5) of the public half of the Ed25519 key in ``pem``.

    Raises:
        InputInvalidError: CONFIG_INVALID.
    """
    key = _private_key(pem)
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise InputInvalidError(Reason.CONFIG_INVALID, f"{what}: expected an Ed25519 key without a password, as PEM")
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def _private_key(pem: bytes) -> object:
    try:
        return load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None


def key_digest(key: ec.EllipticCurvePublicKey) -> Digest:
    """SHA-256 of the key as SubjectPublicKeyInfo (RFC 5280, section 4.1.2.7)."""
    return digest_of(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def make_request(key: ec.EllipticCurvePrivateKey, caller: Caller) -> bytes:
    """A request, PEM, that names ``caller``; it proves that whoever made it has ``key``."""
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(caller.uri)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(names, critical=False)
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM)


def read_request(pem: bytes) -> SigningRequest:
    """What ``pem`` asks for. Nothing but its key and its one name is looked at.

    Raises:
        InputInvalidError: SIGNING_REQUEST_INVALID, with expected against got.
    """
    if len(pem) > MAX_REQUEST_BYTES:
        _refuse(f"expected at most {MAX_REQUEST_BYTES} bytes, got {len(pem)}")
    try:
        request = x509.load_pem_x509_csr(pem)
        key = request.public_key()
        if not request.is_signature_valid:
            raise InvalidSignature
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        _refuse("expected PKCS #10 as PEM, signed by its own key")
    except (x509.ExtensionNotFound, x509.DuplicateExtension):
        _refuse("expected subject alternative names, got none")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, CURVE):
        _refuse("expected an ECDSA key on the curve P-256")
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(list(names)) != 1 or len(uris) != 1:
        _refuse(f"expected one URI and no other name, got {len(list(names))} names")
    try:
        return SigningRequest(caller=parse_caller(uris[0]), public_key=key)
    except FedMedError as error:
        _refuse(error.message)


def _refuse(message: str) -> Never:
    raise InputInvalidError(Reason.SIGNING_REQUEST_INVALID, f"signing request: {message}") from None
