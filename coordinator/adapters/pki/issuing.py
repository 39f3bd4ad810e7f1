"""The issuing CA that the coordinator has beside it. Who may have a certificate is decided before it is asked.

What it issues is noted in the store, so its folder may be one that the coordinator cannot write to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from common.errors import InputInvalidError, NotNowError, Reason
from common.signing_requests import SigningRequest
from coordinator.adapters.pki.ca import CertificateAuthority, load_ca
from coordinator.adapters.pki.certificates import Subject, identity_certificate, validity
from coordinator.app.ports import SignedCertificate
from coordinator.domain.enrolment import IssuedCertificate


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderIssuer:
    """Implements `coordinator.app.ports.CertificateIssuer` over a CA's folder.

    The folder is read at each certificate, so that another CA in it is used from then on.

    Attributes:
        folder: None when this coordinator issues nothing.
        trust_bundle_pem: The roots that members are to trust: those that the coordinator itself trusts now.
    """

    folder: Path | None
    consortium: str
    lifetime: timedelta
    trust_bundle_pem: Callable[[], bytes]

    def sign(self, request: SigningRequest, now: datetime, hosts: tuple[str, ...] = ()) -> SignedCertificate:
        """See the port. A certificate lives no longer than the CA."""
        ca = self._ca()
        if request.caller.consortium != self.consortium:
            message = f"signing request: expected consortium {self.consortium}, got {request.caller.consortium}"
            raise InputInvalidError(Reason.SIGNING_REQUEST_INVALID, message)
        if now >= (until := ca.certificate.not_valid_after_utc):
            message = f"the issuing CA: expected one that is good at {now.isoformat()}, got one that expired at {until}"
            raise NotNowError(Reason.NOT_ISSUING, message)
        lifetime = min(self.lifetime, until - now)
        subject = Subject(caller=request.caller, hosts=hosts)
        certificate = identity_certificate(ca.key, ca.certificate, request.public_key, subject, validity(now, lifetime))
        issued = IssuedCertificate(
            serial=f"{certificate.serial_number:x}",
            name=request.caller.name,
            key_digest=request.key_digest,
            expires_at=certificate.not_valid_after_utc,
        )
        return SignedCertificate(issued=issued, chain_pem=certificate.public_bytes(Encoding.PEM) + ca.issuers_pem)

    def expires_at(self) -> datetime | None:
        """When the CA itself expires; None when there is none."""
        return None if self.folder is None else self._ca().certificate.not_valid_after_utc

    def _ca(self) -> CertificateAuthority:
        if self.folder is None:
            message = "this coordinator has no CA; certificates of this consortium come from elsewhere"
            raise NotNowError(Reason.NOT_ISSUING, message)
        return load_ca(self.folder)
