"""Signatures over updates, and certificates of the keys that make them."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from common.clock import SystemClock
from common.errors import InputInvalidError, Reason
from common.given_under import GivenUnder, PolicyStand
from common.ids import RunId, SiteName, digest_of
from common.signing import UPDATE_FILES, UpdateStatement, fingerprint, is_signed, load_signing_key, new_key_pem
from common.signing_certificates import read_certified_key, read_root
from common.tls import Caller, Role
from coordinator.adapters.pki.ca import CA_CERTIFICATE_FILE, create_ca, issue, load_ca
from coordinator.adapters.pki.certificates import Validity, signing_certificate
from coordinator.adapters.pki.key_certification import certify_key, make_signing_key
from tests.fakes.signing import Signers

ANNA = Caller(name=SiteName("anna"), role=Role.SITE, consortium="demo")
STATEMENT = UpdateStatement(
    run_id=RunId("0" * 32),
    terms_digest=digest_of(b"terms"),
    round_number=1,
    base_digest=digest_of(b"base"),
    update_digest=digest_of(b"update"),
    num_examples=10,
    num_label_tokens=100,
)
OTHER: dict[str, object] = {
    "run_id": RunId("1" * 32),
    "terms_digest": digest_of(b"other"),
    "round_number": 2,
    "base_digest": digest_of(b"other"),
    "update_digest": digest_of(b"other"),
    "num_examples": 11,
    "num_label_tokens": 101,
    "tasks": (("entities", 10, 100),),
    "given_under": GivenUnder(stand=PolicyStand.WITHHELD),
}


@pytest.fixture(scope="module")
def signers(tmp_path_factory: pytest.TempPathFactory) -> Signers:
    return Signers(tmp_path_factory.mktemp("signers"))


def test_a_signature_holds_for_its_statement_and_key(signers: Signers) -> None:
    given = signers.key_of(ANNA.name).sign_update(STATEMENT)
    assert is_signed(STATEMENT.message, given.public_key, given.signature)


@pytest.mark.parametrize("changed", [each.name for each in fields(UpdateStatement)])
def test_a_signature_holds_for_no_statement_that_differs_in_anything(signers: Signers, changed: str) -> None:
    given = signers.key_of(ANNA.name).sign_update(STATEMENT)
    other = replace(STATEMENT, **{changed: OTHER[changed]})  # type: ignore[arg-type]
    assert not is_signed(other.message, given.public_key, given.signature)


def test_the_bytes_that_are_signed_stay_what_they_are() -> None:
    assert STATEMENT.message == (
        b"fedmedlora update v1\n"
        b'{"base_digest":"' + digest_of(b"base").encode() + b'","num_examples":10,"num_label_tokens":100,'
        b'"round_number":1,"run_id":"00000000000000000000000000000000","terms_digest":"'
        + digest_of(b"terms").encode()
        + b'","update_digest":"'
        + digest_of(b"update").encode()
        + b'"}'
    )


@pytest.mark.parametrize("change", [str.upper, lambda text: text[:-2], lambda text: "g" + text[1:], lambda text: ""])
def test_a_key_or_signature_in_another_form_is_none(signers: Signers, change: object) -> None:
    given = signers.key_of(ANNA.name).sign_update(STATEMENT)
    assert callable(change)
    assert not is_signed(STATEMENT.message, change(given.public_key), given.signature)
    assert not is_signed(STATEMENT.message, given.public_key, change(given.signature))


def test_a_folder_without_a_signing_key_has_none(tmp_path: Path) -> None:
    assert load_signing_key(tmp_path) is None


@pytest.mark.parametrize("case", ["another kind of key", "no key", "readable by others"])
def test_a_signing_key_that_is_none_is_refused_with_what_was_expected(tmp_path: Path, case: str) -> None:
    path = tmp_path / UPDATE_FILES.key
    create_ca(tmp_path / "ca", "demo")
    contents = {"another kind of key": (tmp_path / "ca/ca_key.pem").read_bytes(), "no key": b"none"}
    path.write_bytes(contents.get(case, new_key_pem()))
    path.chmod(0o644 if case == "readable by others" else 0o600)
    with pytest.raises(InputInvalidError, match="expected") as refused:
        load_signing_key(tmp_path)
    assert refused.value.reason is Reason.CONFIG_INVALID


def test_the_key_is_in_no_text_of_its_own(signers: Signers) -> None:
    assert "Private" not in repr(signers.key_of(ANNA.name))


# Certificates


def test_a_certified_key_is_read_with_its_holder(signers: Signers) -> None:
    key = signers.key_of(ANNA.name)
    certified = read_certified_key(key.certificate_pem, signers.root)
    assert (certified.caller, certified.public_key) == (ANNA, key.public_key)
    assert certified.expires_at == signers.root.not_valid_after_utc


def objection(pem: str, signers: Signers) -> str:
    with pytest.raises(InputInvalidError, match="expected") as refused:
        read_certified_key(pem, signers.root)
    assert refused.value.reason is Reason.CERTIFICATE_INVALID
    return refused.value.message


def test_a_certificate_of_another_root_is_refused(signers: Signers, tmp_path: Path) -> None:
    create_ca(tmp_path / "other", "demo")
    pem = certify_key(tmp_path / "other", ANNA, signers.key_of(ANNA.name).public_key)
    assert "root signed itself" in objection(pem, signers)


def test_a_certificate_of_a_ca_below_the_root_is_refused(signers: Signers) -> None:
    root, below = load_ca(signers.folder / "ca"), ec.generate_private_key(ec.SECP256R1())
    now = SystemClock().now()
    valid = Validity(not_before=now, not_after=now + timedelta(days=1))
    key = signers.key_of(ANNA.name).private.public_key()
    pem = signing_certificate(below, root.certificate, key, ANNA, valid).public_bytes(Encoding.PEM).decode()
    assert "root signed itself" in objection(pem, signers)


def test_a_certificate_for_connections_certifies_no_signing_key(signers: Signers, tmp_path: Path) -> None:
    issue(signers.folder / "ca", "anna", Role.SITE, tmp_path / "anna")
    assert "for signing documents" in objection((tmp_path / "anna/certificate.pem").read_text(), signers)


def test_a_certificate_of_another_consortium_is_refused(signers: Signers) -> None:
    stranger = replace(ANNA, consortium="elsewhere")
    pem = certify_key(signers.folder / "ca", stranger, signers.key_of(ANNA.name).public_key)
    assert "a member of demo" in objection(pem, signers)


@pytest.mark.parametrize("pem", ["", "no certificate", "é", "x" * 9000])
def test_what_is_no_certificate_is_refused(signers: Signers, pem: str) -> None:
    assert objection(pem, signers)


def test_only_a_root_certifies_signing_keys(signers: Signers, tmp_path: Path) -> None:
    folder = tmp_path / "below"
    create_ca(folder, "demo")
    issue(signers.folder / "ca", "anna", Role.SITE, tmp_path / "anna")
    for name, source in (("ca_key.pem", "key.pem"), (CA_CERTIFICATE_FILE, "certificate.pem")):
        (folder / name).write_bytes((tmp_path / "anna" / source).read_bytes())
    with pytest.raises(InputInvalidError, match="expected the root"):
        certify_key(folder, ANNA, signers.key_of(ANNA.name).public_key)


def test_a_key_that_is_there_stays_when_it_is_certified_again(signers: Signers, tmp_path: Path) -> None:
    make_signing_key(signers.folder / "ca", ANNA, tmp_path)
    first = load_signing_key(tmp_path)
    make_signing_key(signers.folder / "ca", ANNA, tmp_path)
    second = load_signing_key(tmp_path)
    assert first is not None
    assert second is not None
    assert first.public_key == second.public_key
    assert first.certificate_pem != second.certificate_pem


def test_an_operator_gets_no_signing_key(signers: Signers, tmp_path: Path) -> None:
    make_signing_key(signers.folder / "ca", replace(ANNA, role=Role.OPERATOR), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["", "0" * 63, "A" * 64])
def test_a_fingerprint_is_of_a_public_key_alone(key: str) -> None:
    with pytest.raises(InputInvalidError, match="64 lower-case hex digits"):
        fingerprint(key)


def test_the_root_certificate_of_a_third_party_is_one_that_signs_itself(signers: Signers, tmp_path: Path) -> None:
    assert read_root(signers.root_pem) == signers.root
    issue(signers.folder / "ca", "anna", Role.SITE, tmp_path / "anna")
    for pem in (b"", b"none", (tmp_path / "anna/certificate.pem").read_bytes(), signers.root_pem * 2):
        with pytest.raises(InputInvalidError, match="root certificate"):
            read_root(pem)
