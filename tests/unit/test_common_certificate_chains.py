"""A chain is taken only if who trusts the bundle that came with it would trust it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from common.certificate_chains import check_chain
from common.errors import FedMedError
from common.identity_folder import prepare_key, read_certified, take_certificate
from common.ids import SiteName
from common.signing_requests import read_key
from common.tls import Caller, Role
from coordinator.adapters.pki.ca import create_ca, create_issuing_ca, issue, load_ca, sign_public_key
from coordinator.adapters.pki.certificates import Subject


def now() -> datetime:
    """The time of the test itself: a suite is longer than what a new certificate is dated back."""
    return datetime.now(UTC)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return create_ca(tmp_path / "root", "onco").folder


def identity(ca: Path) -> tuple[bytes, bytes]:
    """The chain and the bundle of a site of that CA."""
    folder = ca.parent / f"north of {ca.name}"
    issue(ca, "north", Role.SITE, folder)
    return (folder / "certificate.pem").read_bytes(), (folder / "trust_bundle.pem").read_bytes()


def test_a_chain_over_an_issuing_ca_is_taken_in_any_order_and_from_any_ca_of_the_bundle(root: Path) -> None:
    issuing, other = create_issuing_ca(root, root.parent / "issuing"), create_ca(root.parent / "other", "onco")
    chain, bundle = identity(issuing.folder)
    check_chain(chain, other.trust_bundle_pem() + bundle, now())
    check_chain(chain + other.certificate.public_bytes(Encoding.PEM), bundle, now())
    check_chain(chain, issuing.certificate.public_bytes(Encoding.PEM), now())


def test_a_chain_that_lacks_a_ca_or_is_of_another_is_refused(root: Path) -> None:
    chain, bundle = identity(create_issuing_ca(root, root.parent / "issuing").folder)
    other = create_ca(root.parent / "other", "onco")  # of the same name, with another key
    own = x509.load_pem_x509_certificate(chain).public_bytes(Encoding.PEM)
    for left, trusted in [(own, bundle), (chain, other.trust_bundle_pem())]:
        with pytest.raises(FedMedError, match="signed by a CA of the trust bundle"):
            check_chain(left, trusted, now())


def test_a_certificate_that_is_not_valid_now_is_refused(root: Path) -> None:
    chain, bundle = identity(root)
    for at in (now() - timedelta(days=1), now() + timedelta(days=8)):
        with pytest.raises(FedMedError, match="valid at"):
            check_chain(chain, bundle, at)


def test_a_member_does_not_sign_for_others(root: Path) -> None:
    chain, bundle = identity(root)
    north, key = x509.load_pem_x509_certificate(chain), ec.generate_private_key(ec.SECP256R1())
    by = read_certified(root.parent / "north of root").identity.key_pem
    forged = signed_by(by, north, key.public_key())
    with pytest.raises(FedMedError, match="signed by a CA of the trust bundle"):
        check_chain(forged + chain, bundle, now())


def test_whoever_is_sent_a_certificate_that_nobody_would_trust_keeps_the_identity_that_it_has(root: Path) -> None:
    identity(root)
    folder = root.parent / "north of root"
    before, bundle = read_certified(folder), (folder / "trust_bundle.pem").read_bytes()
    next_key = prepare_key(folder).public_key()
    north = x509.load_pem_x509_certificate(before.identity.certificate_pem)
    strange = signed_by(before.identity.key_pem, north, ed25519.Ed25519PrivateKey.generate().public_key())
    for chain in (signed_by(before.identity.key_pem, north, next_key), strange, b"no certificate"):
        with pytest.raises(FedMedError):
            take_certificate(folder, before.caller, chain, bundle, now())
    assert read_certified(folder) == before


def test_a_certificate_in_another_name_is_not_taken(root: Path) -> None:
    identity(root)
    folder = root.parent / "north of root"
    before = read_certified(folder)
    key = prepare_key(folder).public_key()
    south = Caller(name=SiteName("south"), role=Role.SITE, consortium="onco")
    chain = sign_public_key(load_ca(root), key, Subject(caller=south)).public_bytes(Encoding.PEM)
    with pytest.raises(
        FedMedError, match="expected one for spiffe://onco/site/north, got one for spiffe://onco/site/s"
    ):
        take_certificate(folder, before.caller, chain, before.identity.trust_bundle_pem, now())
    assert read_certified(folder) == before


def signed_by(
    key_pem: bytes, issuer: x509.Certificate, key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
) -> bytes:
    """A certificate of ``key`` with the names of ``issuer``, signed with the key of one that is no CA."""
    signer = read_key(key_pem, "key")
    names = issuer.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return (
        x509.CertificateBuilder()
        .subject_name(issuer.subject)
        .issuer_name(issuer.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(issuer.not_valid_before_utc)
        .not_valid_after(issuer.not_valid_after_utc)
        .add_extension(names, critical=False)
        .sign(signer, SHA256())
        .public_bytes(Encoding.PEM)
    )
