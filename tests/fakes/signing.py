"""Sites that sign, with keys that a test's own root certified, and a coordinator that knows the root."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from cryptography import x509

from common.ids import SiteName
from common.signing import RELEASE_FILES, UPDATE_FILES, SigningKey, UpdateSignature, load_signing_key
from common.tls import Caller, Role
from coordinator.adapters.pki.ca import CA_CERTIFICATE_FILE, create_ca
from coordinator.adapters.pki.key_certification import make_signing_key
from coordinator.adapters.pki.signing_keys import KnownSigningKeys
from coordinator.app.check_signature import statement_of
from coordinator.app.update_intake import UploadClaim
from coordinator.domain.values import Run
from tests.fakes.coordinator_world import site_caller


@dataclass(frozen=True)
class Signers:
    """A root in ``folder``, and the keys that it certified, each made when it is first asked for."""

    folder: Path

    def __post_init__(self) -> None:
        if not (self.folder / "ca").exists():
            create_ca(self.folder / "ca", "demo")

    @property
    def root_pem(self) -> bytes:
        """The certificate that a third party has."""
        return (self.folder / "ca" / CA_CERTIFICATE_FILE).read_bytes()

    @property
    def root(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.root_pem)

    @property
    def known(self) -> KnownSigningKeys:
        """What a coordinator that trusts the root knows."""
        return KnownSigningKeys(trust_bundle_pem=lambda: self.root_pem)

    def key_of(self, site: SiteName) -> SigningKey:
        """The site's key."""
        return _key(self.folder, site_caller(site))

    @property
    def release_key(self) -> SigningKey:
        """The coordinator's key for releases."""
        return _key(self.folder, Caller(name=SiteName("coordinator"), role=Role.COORDINATOR, consortium="demo"))

    def signed(self, site: SiteName, run: Run, round_number: int, claim: UploadClaim) -> UploadClaim:
        """The site's claim with its signature."""
        return replace(claim, signature=self.signature(site, run, round_number, claim))

    def signature(self, site: SiteName, run: Run, round_number: int, claim: UploadClaim) -> UpdateSignature:
        """The site's signature over what it claims."""
        assert claim.update is not None
        return self.key_of(site).sign_update(statement_of(run, round_number, claim.digest, claim.update))


@cache
def _key(folder: Path, holder: Caller) -> SigningKey:
    identity = folder / "signing" / f"{holder.role}-{holder.name}"
    identity.mkdir(parents=True, exist_ok=True)
    make_signing_key(folder / "ca", holder, identity)
    key = load_signing_key(identity, RELEASE_FILES if holder.role is Role.COORDINATOR else UPDATE_FILES)
    assert key is not None
    return key
