"""An identity's folder: whatever instant a renewal dies at, it holds a pair that fits; and it is read again."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from common import identity_folder
from common.errors import InputInvalidError, UnauthenticatedError
from common.files import write_whole
from common.identity_folder import (
    IdentityFolder,
    adopt_certificate,
    prepare_key,
    prepare_signing_key,
    read_certified,
)
from common.tls import Role
from coordinator.adapters.pki.ca import CertificateAuthority, create_ca, issue, load_ca, sign_public_key
from coordinator.adapters.pki.certificates import Subject


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    create_ca(tmp_path / "ca", "onco")
    issue(tmp_path / "ca", "north", Role.SITE, tmp_path / "identity")
    return tmp_path / "identity"


def authority(folder: Path) -> CertificateAuthority:
    return load_ca(folder.parent / "ca")


def renewed(folder: Path) -> tuple[bytes, bytes]:
    """A certificate for the prepared key, and the trust bundle."""
    ca, caller = authority(folder), read_certified(folder).caller
    certificate = sign_public_key(ca, prepare_key(folder).public_key(), Subject(caller=caller), timedelta(days=7))
    return certificate.public_bytes(Encoding.PEM), ca.trust_bundle_pem()


class Killed(BaseException):
    """The process is gone."""


# Calls that change the folder, in the whole of a renewal: the next key, the trust bundle, the certificate, the rename.
STEPS = range(6)


@pytest.mark.parametrize("dies_before", STEPS)
def test_a_renewal_that_dies_before_any_step_leaves_a_pair_that_fits_and_is_done_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, dies_before: int
) -> None:
    old, steps = read_certified(folder), 0
    whole, rename = write_whole, Path.replace

    def counted(*_: object) -> None:
        nonlocal steps
        if steps == dies_before:
            raise Killed
        steps += 1

    def write(path: Path, content: bytes, mode: int = 0o644) -> None:
        counted()
        whole(path, content, mode)

    def replace(self: Path, target: Path) -> Path:
        if self.name == "next_key.pem":
            counted()
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(identity_folder, "write_whole", write)
        patch.setattr(Path, "replace", replace)
        try:
            adopt_certificate(folder, *renewed(folder))
            is_done = True
        except Killed:
            is_done = False
    assert is_done == (dies_before >= 4)
    assert read_certified(folder).caller == old.caller  # it loads: key and certificate fit
    adopt_certificate(folder, *renewed(folder))
    assert read_certified(folder).serial != old.serial
    assert not (folder / "next_key.pem").exists()


def test_a_certificate_of_another_key_is_not_adopted(folder: Path) -> None:
    prepare_key(folder)
    before = read_certified(folder)
    with pytest.raises(InputInvalidError, match="expected one of the key that it was asked for"):
        adopt_certificate(folder, before.identity.certificate_pem, before.identity.trust_bundle_pem)
    assert read_certified(folder) == before


def test_a_folder_is_read_again_when_its_certificate_was_replaced(folder: Path) -> None:
    identity = IdentityFolder(folder)
    before = identity.current()
    adopt_certificate(folder, *renewed(folder))
    assert identity.current().serial != before.serial
    assert identity.problem is None


def test_a_folder_that_is_half_replaced_serves_what_it_held_last_and_says_what_is_wrong(folder: Path) -> None:
    identity = IdentityFolder(folder)
    before = identity.current()
    other = folder.parent / "other"
    issue(folder.parent / "ca", "north", Role.SITE, other)
    (other / "certificate.pem").replace(folder / "certificate.pem")
    assert identity.current() == before
    assert identity.problem is not None and "belongs to another key" in identity.problem.message
    (other / "key.pem").replace(folder / "key.pem")
    assert identity.current().serial != before.serial
    assert identity.problem is None


@pytest.mark.parametrize("name", ["key.pem", "next_key.pem", "signing_key.pem"])
def test_a_key_that_others_may_read_is_refused(folder: Path, name: str) -> None:
    prepare_key(folder)
    prepare_signing_key(folder)
    (folder / name).chmod(0o640)
    with pytest.raises((InputInvalidError, UnauthenticatedError), match="chmod 600"):
        read_certified(folder)
        prepare_key(folder)
        prepare_signing_key(folder)


def test_the_signing_key_is_made_once(folder: Path) -> None:
    assert prepare_signing_key(folder) == prepare_signing_key(folder)
    assert len(prepare_signing_key(folder)) == 32
