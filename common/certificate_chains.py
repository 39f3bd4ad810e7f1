"""Whether who trusts a bundle would trust a chain, before it takes the place of one that works. Reads no file."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from common.errors import Reason, UnauthenticatedError
from common.tls import MALFORMED, fingerprints_of

# A root, an issuing CA or two and the certificate are four; without a bound a peer could keep us busy with signatures.
_MAX_CHAIN = 10


def check_chain(chain_pem: bytes, trust_bundle_pem: bytes, now: datetime) -> None:
    """Refuse a certificate (the first of the chain) that no CA of the bundle signed, itself or by CAs behind it.

    Each must be valid ``now``. The order of the CAs does not count, and any CA of the bundle will do, as in TLS.

    Raises:
        InputInvalidError: CONFIG_INVALID, they are no certificates with ECDSA keys.
        UnauthenticatedError: CERTIFICATE_INVALID.
    """
    fingerprints_of(chain_pem)
    fingerprints_of(trust_bundle_pem)
    own, *issuers = x509.load_pem_x509_certificates(chain_pem)
    if len(issuers) >= _MAX_CHAIN:
        _refuse(f"expected a chain of at most {_MAX_CHAIN}, got {len(issuers) + 1}")
    if not _is_valid(own, now):
        _refuse(f"expected one that is valid at {now.isoformat()}, got another")
    trusted = [each for each in x509.load_pem_x509_certificates(trust_bundle_pem) if _is_valid(each, now)]
    waiting = [each for each in issuers if _is_ca(each) and _is_valid(each, now)]
    while found := [each for each in waiting if _is_signed_by(each, trusted)]:
        trusted += found
        waiting = [each for each in waiting if each not in found]
    if not _is_signed_by(own, trusted):
        _refuse("expected one signed by a CA of the trust bundle that came with it, got another")


def _is_signed_by(certificate: x509.Certificate, issuers: Iterable[x509.Certificate]) -> bool:
    for issuer in issuers:
        with suppress(InvalidSignature, *MALFORMED):
            certificate.verify_directly_issued_by(issuer)
            return True
    return False


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except MALFORMED:
        return False


def _is_valid(certificate: x509.Certificate, now: datetime) -> bool:
    return certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc


def _refuse(message: str) -> None:
    raise UnauthenticatedError(Reason.CERTIFICATE_INVALID, f"certificate: {message}")
