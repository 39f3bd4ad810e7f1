"""Commands of operator and site, as they are typed: from an empty folder to a member; certificates from elsewhere."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.running import RunningCoordinator, free_port, make_consortium, running_coordinator, wait_until  # isort: skip

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.errors import InputInvalidError
from common.identity_folder import read_certified
from common.signing_requests import make_key, private_pem
from coordinator.adapters.pki.trust import distrust, trust

ROOT = Path(__file__).parents[2]


def run(module: str, *arguments: str | Path, said: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, input=said, timeout=60)


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The coordinator of ``coordinator.toml`` in ``folder``, on free ports; yields its address."""
    port, config = free_port(), folder / "coordinator.toml"
    text = config.read_text().replace("0.0.0.0:8443", f"127.0.0.1:{port}")
    text = text.replace("0.0.0.0:8444", f"127.0.0.1:{free_port()}").replace("127.0.0.1:9100", "")
    config.write_text(text)
    with (folder / "log").open("ab") as log:
        command = [sys.executable, "-m", "coordinator", "serve", "--config", str(config)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    try:
        wait_until(lambda: run("coordinator", "health", "--config", config).returncode == 0, 60)
        yield f"localhost:{port}"
    finally:
        process.terminate()
        process.wait(60)


def test_from_an_empty_folder_to_a_member_by_the_commands_alone(tmp_path: Path) -> None:
    home, site, join = tmp_path / "home", tmp_path / "site", tmp_path / "north.join"
    made = run("coordinator", "init", home, "--consortium", "onco", "--host", "localhost")
    assert made.returncode == 0, made.stderr
    (home / "ca").rename(tmp_path / "offline")  # the root is not needed to serve and to enrol
    with serving(home) as address:
        operator = ("--coordinator", address, "--identity", home / "operator")
        invited = run("coordinator", "site", "invite", "north", "--out", join, *operator)
        assert invited.returncode == 0, invited.stderr
        fingerprint = invited.stdout.split("SHA-256: ")[1].strip()

        config = site_config(tmp_path / "site.toml", site)
        refused = run("site_agent", "enrol", "--join-file", join, "--config", config, said="n\n")
        assert refused.returncode == 1 and not site.exists()
        enrolled = run("site_agent", "enrol", "--join-file", join, "--config", config, said="y\n")
        assert enrolled.returncode == 0, enrolled.stderr
        assert fingerprint in enrolled.stdout
        assert read_certified(site).caller.uri == "spiffe://onco/site/north"

        read_out = run("site_agent", "signing-key", "--config", config)
        certificate = ("--ca", tmp_path / "offline", "--out", site / "signing_certificate.pem")
        certified = run("coordinator", "key", "certify", "north", read_out.stdout.strip(), *certificate)
        assert certified.returncode == 0, certified.stderr
        shown = run("coordinator", "site", "show", "north", *operator).stdout
        assert shown.split("signs updates with the key ")[1].split()[0] in read_out.stderr
        assert "north: site, member, absent" in shown and read_certified(site).serial in shown
        renewed = run("coordinator", "certificate", "renew", *operator)
        assert renewed.returncode == 0, renewed.stderr
        for command, standing in (("ban", "banned"), ("unban", "member")):
            assert run("coordinator", "site", command, "north", *operator).returncode == 0
            assert standing in run("coordinator", "site", "list", *operator).stdout
        thief = site_config(tmp_path / "thief.toml", tmp_path / "thief")
        again = run("site_agent", "enrol", "--join-file", join, "--config", thief, "--yes")
        assert (again.returncode, again.stderr.split(":")[0]) == (1, "TOKEN_SPENT")


def site_config(path: Path, identity: Path) -> Path:
    """A configuration whose identity is in that folder."""
    path.write_text(
        f'[coordinator]\naddress = "localhost:1"\n[identity]\nfolder = "{identity}"\n'
        f'[site]\nstate_folder = "{identity}-state"\n[base_model]\nlocation = "./model"\n'
    )
    return path


def pki(folder: Path) -> Path:
    """Identities of a public key infrastructure of another make: root, two CAs below it, leaves with names of ours."""
    keys = [make_key() for _ in range(3)]
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Hospital PKI {level}")]) for level in range(3)]
    cas = [signed(names[level], keys[level], names[max(level - 1, 0)], keys[max(level - 1, 0)]) for level in range(3)]
    for role, hosts in (("coordinator", ["localhost"]), ("operator", []), ("site", [])):
        key, out = make_key(), folder / role
        uri = x509.UniformResourceIdentifier(f"spiffe://demo/{role}/{role}")
        leaf = signed(x509.Name([]), key, names[2], keys[2], [uri, *map(x509.DNSName, hosts)])
        out.mkdir(parents=True)
        (out / "key.pem").touch(0o600)
        (out / "key.pem").write_bytes(private_pem(key))
        chain = (leaf, cas[2], cas[1])
        (out / "certificate.pem").write_bytes(b"".join(each.public_bytes(Encoding.PEM) for each in chain))
        (out / "trust_bundle.pem").write_bytes(cas[0].public_bytes(Encoding.PEM))
    return folder


def signed(
    name: x509.Name,
    key: EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuer_key: EllipticCurvePrivateKey,
    names: list[x509.GeneralName] | None = None,
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(issuer, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=30))
    builder = builder.add_extension(x509.BasicConstraints(ca=names is None, path_length=None), critical=True)
    if names is not None:
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(issuer_key, SHA256())


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[tuple[RunningCoordinator, Path]]:
    """A coordinator whose certificates come from a PKI of the consortium's own."""
    consortium, identities = make_consortium(tmp_path), pki(tmp_path / "pki")
    place = consortium.folder / "identities" / "coordinator-coordinator"
    place.parent.mkdir()
    (identities / "coordinator").rename(place)
    with running_coordinator(consortium) as running:
        yield running, identities


def test_certificates_of_the_consortiums_own_pki_work_and_are_renewed_there(
    elsewhere: tuple[RunningCoordinator, Path],
) -> None:
    running, identities = elsewhere
    operator = ("--coordinator", running.address, "--identity", identities / "operator")
    assert run("coordinator", "site", "list", *operator).returncode == 0
    invited = run("coordinator", "site", "invite", "north", "--out", identities / "join", *operator)
    renewed = run("coordinator", "certificate", "renew", *operator)
    assert [each.stderr.split(":")[0] for each in (invited, renewed)] == ["NOT_ISSUING"] * 2
    revoked = read_certified(identities / "operator").serial
    assert run("coordinator", "site", "revoke", revoked, *operator).returncode == 0
    out = run("coordinator", "site", "list", *operator)
    assert out.stderr.split(":")[0] == "CERTIFICATE_REVOKED"


def test_a_root_is_trusted_beside_another_and_the_last_one_stays(tmp_path: Path) -> None:
    identities = pki(tmp_path / "one")
    other = pki(tmp_path / "two") / "site" / "trust_bundle.pem"
    first, second = trust(identities / "site", other.read_bytes())
    assert trust(identities / "site", other.read_bytes()) == [first, second]
    assert distrust(identities / "site", first.lower()) == [second]
    for wrong in (first, second):
        with pytest.raises(InputInvalidError, match="expected the fingerprint of one of several roots"):
            distrust(identities / "site", wrong)
    leaf = x509.load_pem_x509_certificate((identities / "site" / "certificate.pem").read_bytes())
    with pytest.raises(InputInvalidError, match="expected a CA's certificate"):
        trust(identities / "site", leaf.public_bytes(Encoding.PEM))
