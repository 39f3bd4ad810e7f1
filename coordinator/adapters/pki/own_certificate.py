"""Keeps the coordinator's own certificate alive: renewed by its own CA, or taken up when replaced."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from cryptography import x509
from structlog.typing import FilteringBoundLogger

from common.clock import Clock
from common.errors import FedMedError
from common.identity_folder import CertifiedIdentity, IdentityFolder, prepare_key, take_certificate
from common.logging import log_fault
from common.rotation import is_alarming, renewal_due_at, seconds_to_next_look
from common.signing_requests import SigningRequest
from coordinator.adapters.pki.issuing import FolderIssuer


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnCertificate:
    """The coordinator's identity folder, and the CA that may renew what is in it; without one, others do that."""

    folder: IdentityFolder
    issuer: FolderIssuer
    clock: Clock
    log: FilteringBoundLogger

    async def keep(self) -> None:
        """For ever: renew it at two thirds of its life."""
        while True:
            try:
                await asyncio.to_thread(self.look)
            except Exception as error:  # the next look tries again
                log_fault(self.log, "certificate_not_renewed", error)
            now = self.folder.current()
            await asyncio.sleep(seconds_to_next_look(now.valid_from, now.expires_at, self.clock.now()))

    def look(self) -> CertifiedIdentity:
        """Renew the certificate if it is time; returns the identity as it is now."""
        before = self.folder.current()
        if self.folder.problem is not None:
            self.log.warning("identity_not_taken", reason=self.folder.problem.reason)
        if self.issuer.folder is not None and self.clock.now() >= renewal_due_at(before.valid_from, before.expires_at):
            try:
                self._renew(before)
            except (FedMedError, OSError) as error:  # a folder that cannot be written to, say
                log_fault(self.log, "certificate_not_renewed", error, expires_at=before.expires_at.isoformat())
        after = self.folder.current()
        if after.expires_at > before.expires_at:
            self.log.info("certificate_renewed", expires_at=after.expires_at.isoformat())
        elif is_alarming(after.valid_from, after.expires_at, self.clock.now()):
            self.log.error("certificate_expires", expires_at=after.expires_at.isoformat())
        return after

    def _renew(self, before: CertifiedIdentity) -> None:
        key = prepare_key(self.folder.folder)
        request = SigningRequest(caller=before.caller, public_key=key.public_key())
        now = self.clock.now()
        signed = self.issuer.sign(request, now, hosts_of(before))
        bundle_pem = before.identity.trust_bundle_pem
        take_certificate(self.folder.folder, before.caller, signed.chain_pem, bundle_pem, now)


def hosts_of(identity: CertifiedIdentity) -> tuple[str, ...]:
    """The names and addresses that a coordinator's certificate is good for."""
    certificate = x509.load_pem_x509_certificate(identity.identity.certificate_pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = (str(address) for address in names.get_values_for_type(x509.IPAddress))
    return (*names.get_values_for_type(x509.DNSName), *addresses)
