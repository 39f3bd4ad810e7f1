from __future__ import annotations

import ipaddress
import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID as Purpose

from common.errors import FedMedError, InputInvalidError, Reason, UnauthenticatedError
from common.ids import SiteName
from common.tls import Caller, Role, caller_from_certificate, load_identity, parse_caller
from coordinator.adapters.pki.ca import (
    ISSUED_FILE,
    CertificateAuthority,
    create_ca,
    create_issuing_ca,
    issue,
    load_ca,
    sign_public_key,
)
from coordinator.adapters.pki.certificates import IDENTITY_LIFETIME, Subject


@pytest.fixture
def ca(tmp_path: Path) -> CertificateAuthority:
    return create_ca(tmp_path / "ca", "onco")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "identity"


def certificate_in(folder: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / "certificate.pem").read_bytes())


def purposes_of(certificate: x509.Certificate) -> set[x509.ObjectIdentifier]:
    return set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


@pytest.mark.parametrize("role", [Role.SITE, Role.EVALUATOR, Role.OPERATOR])
def test_an_issued_identity_names_its_caller_and_loads(ca: CertificateAuthority, out: Path, role: Role) -> None:
    caller = issue(ca.folder, "north", role, out)
    assert caller == Caller(name=SiteName("north"), role=role, consortium="onco")
    assert caller_from_certificate(load_identity(out).certificate_pem) == caller
    assert purposes_of(certificate_in(out)) == {Purpose.CLIENT_AUTH}


def test_a_coordinators_identity_may_serve_under_its_hosts(ca: CertificateAuthority, out: Path) -> None:
    issue(ca.folder, "coordinator", Role.COORDINATOR, out, ["localhost", "127.0.0.1", "::1"])
    certificate = certificate_in(out)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    addresses = [ipaddress.ip_address(address) for address in ("127.0.0.1", "::1")]
    assert names.get_values_for_type(x509.IPAddress) == addresses
    assert purposes_of(certificate) == {Purpose.CLIENT_AUTH, Purpose.SERVER_AUTH}


@pytest.mark.parametrize(("role", "hosts"), [(Role.COORDINATOR, []), (Role.SITE, ["localhost"])])
def test_hosts_belong_to_a_coordinator_and_to_nobody_else(
    ca: CertificateAuthority, out: Path, role: Role, hosts: list[str]
) -> None:
    with pytest.raises(InputInvalidError, match="hosts") as caught:
        issue(ca.folder, "north", role, out, hosts)
    assert caught.value.reason is Reason.CONFIG_INVALID
    assert not out.exists() and not (ca.folder / ISSUED_FILE).exists()


def test_the_ca_signed_it_and_it_is_good_from_a_little_ago_for_a_week(ca: CertificateAuthority, out: Path) -> None:
    issue(ca.folder, "north", Role.SITE, out)
    certificate = certificate_in(out)
    certificate.verify_directly_issued_by(ca.certificate)
    lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert lifetime == IDENTITY_LIFETIME + timedelta(minutes=5)
    assert certificate.not_valid_before_utc < datetime.now(UTC)


def test_a_negative_lifetime_gives_a_certificate_that_has_expired(ca: CertificateAuthority, out: Path) -> None:
    issue(ca.folder, "north", Role.SITE, out, lifetime=timedelta(days=-1))
    assert certificate_in(out).not_valid_after_utc < datetime.now(UTC)


def test_no_certificate_outlives_its_ca(ca: CertificateAuthority, out: Path) -> None:
    with pytest.raises(InputInvalidError, match="expected at most the CA's"):
        issue(ca.folder, "north", Role.SITE, out, lifetime=timedelta(days=4000))


def test_a_root_signs_issuing_cas_and_these_sign_identities_alone(ca: CertificateAuthority, tmp_path: Path) -> None:
    issuing = create_issuing_ca(ca.folder, tmp_path / "issuing")
    for authority, path_length in ((ca, 1), (issuing, 0)):
        basic = authority.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        assert basic.critical and basic.value == x509.BasicConstraints(ca=True, path_length=path_length)
    with pytest.raises(InputInvalidError, match="expected one that may sign a CA"):
        create_issuing_ca(issuing.folder, tmp_path / "further")


def test_an_identity_of_an_issuing_ca_brings_the_chain_and_trusts_the_root(ca: CertificateAuthority, out: Path) -> None:
    issuing = create_issuing_ca(ca.folder, out.parent / "issuing")
    issue(issuing.folder, "north", Role.SITE, out)
    identity = load_identity(out)
    leaf, issuer = x509.load_pem_x509_certificates(identity.certificate_pem)
    leaf.verify_directly_issued_by(issuing.certificate)
    assert issuer == issuing.certificate
    issuer.verify_directly_issued_by(ca.certificate)
    assert x509.load_pem_x509_certificates(identity.trust_bundle_pem) == [ca.certificate]


@pytest.mark.parametrize("name", ["", "North", "../x", "a_b", "x" * 64])
def test_a_name_that_is_no_dns_label_gets_nothing(ca: CertificateAuthority, out: Path, name: str) -> None:
    with pytest.raises(InputInvalidError) as caught:
        issue(ca.folder, name, Role.SITE, out)
    assert caught.value.reason is Reason.NAME_INVALID
    assert not out.exists()


def test_keys_are_for_their_owner_alone(ca: CertificateAuthority, out: Path) -> None:
    issue(ca.folder, "north", Role.SITE, out)
    for key in (ca.folder / "ca_key.pem", out / "key.pem"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_a_ca_is_not_overwritten(ca: CertificateAuthority) -> None:
    with pytest.raises(InputInvalidError, match="exists already"):
        create_ca(ca.folder, "onco")
    assert load_ca(ca.folder).certificate == ca.certificate


def test_an_identity_is_not_overwritten(ca: CertificateAuthority, out: Path) -> None:
    issue(ca.folder, "north", Role.SITE, out)
    first = certificate_in(out)
    with pytest.raises(InputInvalidError, match="exists already"):
        issue(ca.folder, "north", Role.SITE, out)
    assert certificate_in(out) == first


def test_everything_issued_is_on_record(ca: CertificateAuthority, tmp_path: Path) -> None:
    for name, role in (("north", Role.SITE), ("judge", Role.EVALUATOR)):
        issue(ca.folder, name, role, tmp_path / name)
    north, judge = map(json.loads, (ca.folder / ISSUED_FILE).read_text().splitlines())
    certificate = certificate_in(tmp_path / "north")
    assert (north["name"], north["role"], judge["name"], judge["role"]) == ("north", "site", "judge", "evaluator")
    assert int(north["serial"], 16) == certificate.serial_number
    assert datetime.fromisoformat(north["expires_at"]) == certificate.not_valid_after_utc


def test_a_key_that_stays_with_its_owner_can_be_signed(ca: CertificateAuthority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    caller = parse_caller("spiffe://onco/site/south")
    certificate = sign_public_key(ca, key.public_key(), Subject(caller=caller))
    assert certificate.public_key() == key.public_key()
    assert caller_from_certificate(certificate.public_bytes(Encoding.PEM)) == caller


@pytest.mark.parametrize("missing", ["ca_key.pem", "ca_certificate.pem"])
def test_a_folder_that_holds_no_ca_is_refused(ca: CertificateAuthority, missing: str) -> None:
    (ca.folder / missing).unlink()
    with pytest.raises(InputInvalidError, match=missing):
        load_ca(ca.folder)


def test_a_ca_key_that_others_may_read_is_refused_with_the_cure(ca: CertificateAuthority) -> None:
    (ca.folder / "ca_key.pem").chmod(0o640)
    with pytest.raises(InputInvalidError, match="chmod 600"):
        load_ca(ca.folder)


def test_a_key_and_a_certificate_of_two_cas_are_no_ca(ca: CertificateAuthority, tmp_path: Path) -> None:
    other = create_ca(tmp_path / "other", "onco")
    (ca.folder / "ca_certificate.pem").write_bytes(other.certificate.public_bytes(Encoding.PEM))
    with pytest.raises(InputInvalidError, match="expected an ECDSA key and its certificate"):
        load_ca(ca.folder)


def test_an_identity_signs_no_certificate(ca: CertificateAuthority, out: Path) -> None:
    issue(ca.folder, "north", Role.SITE, out)
    extensions = certificate_in(out).extensions
    basic = extensions.get_extension_for_class(x509.BasicConstraints)
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    assert (basic.critical, basic.value.ca) == (True, False)
    assert (usage.critical, usage.value.digital_signature, usage.value.key_cert_sign) == (True, True, False)


# --- what `common.tls` reads


@pytest.fixture
def identity(ca: CertificateAuthority, out: Path) -> Path:
    issue(ca.folder, "north", Role.SITE, out)
    return out


def refusal_of(folder: Path) -> FedMedError:
    with pytest.raises(InputInvalidError) as caught:
        load_identity(folder)
    assert caught.value.reason is Reason.CONFIG_INVALID
    return caught.value


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o677])
def test_a_key_that_others_may_touch_is_refused_with_the_cure(identity: Path, mode: int) -> None:
    (identity / "key.pem").chmod(mode)
    assert f"chmod 600 {identity / 'key.pem'}" in refusal_of(identity).message


def test_an_rsa_key_is_refused_with_the_reason(identity: Path) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (identity / "key.pem").write_bytes(pem)
    assert "TLS 1.2" in refusal_of(identity).message


def test_a_key_of_another_certificate_is_refused(ca: CertificateAuthority, identity: Path, tmp_path: Path) -> None:
    issue(ca.folder, "south", Role.SITE, tmp_path / "south")
    (identity / "certificate.pem").write_bytes((tmp_path / "south" / "certificate.pem").read_bytes())
    assert "another key" in refusal_of(identity).message


@pytest.mark.parametrize("name", ["key.pem", "certificate.pem", "trust_bundle.pem"])
def test_a_file_that_is_missing_or_no_pem_is_refused(identity: Path, name: str) -> None:
    (identity / name).write_bytes(b"nothing")
    assert "PEM" in refusal_of(identity).message
    (identity / name).unlink()
    assert name in refusal_of(identity).message


def test_the_key_is_not_in_the_repr(identity: Path) -> None:
    assert "PRIVATE KEY" not in repr(load_identity(identity))


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "spiffe://onco/site",
        "spiffe://onco/site/north/more",
        "spiffe://onco/site/",
        "spiffe://onco/surgeon/north",
        "spiffe://onco/site/North",
        "spiffe://on_co/site/north",
        "spiffe://onco/site/north\n",
        "https://onco/site/north",
    ],
)
def test_a_uri_that_names_no_caller_is_refused(uri: str) -> None:
    with pytest.raises(UnauthenticatedError) as caught:
        parse_caller(uri)
    assert caught.value.reason is Reason.CERTIFICATE_INVALID


@pytest.mark.parametrize("role", Role)
def test_a_caller_survives_its_uri(role: Role) -> None:
    caller = Caller(name=SiteName("north"), role=role, consortium="onco")
    assert parse_caller(caller.uri) == caller


def self_signed(names: list[x509.GeneralName]) -> bytes:
    key, name, now = ec.generate_private_key(ec.SECP256R1()), x509.Name([]), datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM)


URI = x509.UniformResourceIdentifier("spiffe://onco/site/north")


@pytest.mark.parametrize(
    "pem",
    [
        b"nothing",
        self_signed([]),
        self_signed([x509.DNSName("north")]),
        self_signed([URI, x509.UniformResourceIdentifier("spiffe://onco/operator/root")]),
        self_signed([URI, URI]),
    ],
)
def test_a_certificate_without_exactly_one_uri_names_nobody(pem: bytes) -> None:
    with pytest.raises(UnauthenticatedError) as caught:
        caller_from_certificate(pem)
    assert caught.value.reason is Reason.CERTIFICATE_INVALID
