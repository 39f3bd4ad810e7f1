"""Whose signing key is whose: by the root's certificate that comes with a signature, or by a site's enrolment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cryptography import x509

from common.errors import InputInvalidError
from common.ids import Digest, SiteName
from common.signing import UpdateSignature, fingerprint
from common.signing_certificates import CertifiedKey, read_certified_key
from common.tls import Caller


@dataclass(frozen=True, slots=True)
class KnownSigningKeys:
    """Implements `coordinator.app.check_signature.SigningKeys`.

    A site that enrolled signs with the key that it enrolled with last, and with no other that the root once certified.

    Attributes:
        trust_bundle_pem: The roots that this coordinator trusts, as they are now.
        enrolled_key: The public key (hex) that a site enrolled with; empty for none, or one that was revoked.
        is_key_revoked: By its fingerprint.
    """

    trust_bundle_pem: Callable[[], bytes]
    enrolled_key: Callable[[SiteName], str] = lambda _site: ""
    is_key_revoked: Callable[[Digest], bool] = lambda _key: False

    def is_revoked(self, public_key: str) -> bool:
        """Whether the key counts no more, whosever it is."""
        return self.is_key_revoked(fingerprint(public_key))

    def objection(self, caller: Caller, signature: UpdateSignature) -> str | None:
        """Why the key is not known to be the caller's; None when it is."""
        enrolled = self.enrolled_key(caller.name)
        if enrolled and enrolled != signature.public_key:
            return f"expected {enrolled}, with which {caller.name} enrolled, got {signature.public_key}"
        if signature.certificate_pem:
            return self._objection_to_certificate(caller, signature)
        if not enrolled:
            return "expected one that the root certified, or that the site enrolled with, got one that nobody knows"
        return None

    def _objection_to_certificate(self, caller: Caller, signature: UpdateSignature) -> str | None:
        try:
            certified = self._certified(signature.certificate_pem)
        except InputInvalidError as error:
            return error.message
        if certified.caller != caller:
            return f"expected a certificate of {caller.uri}, got one of {certified.caller.uri}"
        if certified.public_key != signature.public_key:
            return f"expected {certified.public_key}, which the certificate names, got {signature.public_key}"
        return None

    def _certified(self, pem: str) -> CertifiedKey:
        problem = None
        for root in x509.load_pem_x509_certificates(self.trust_bundle_pem()):
            try:
                return read_certified_key(pem, root)
            except InputInvalidError as error:
                problem = error
        assert problem is not None, "a trust bundle holds a certificate"
        raise problem
