"""What stands in a certificate of the consortium. Builds and signs; touches no file and no clock.

The profile is RFC 5280's, with ECDSA P-256 keys (see ``common.tls`` for why no RSA) and a SPIFFE X.509-SVID name.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.errors import InputInvalidError, Reason
from common.ids import Role
from common.signing_certificates import DOCUMENT_SIGNING
from common.tls import Caller
from coordinator.domain.enrolment import BACKDATING

CA_LIFETIME = timedelta(days=3650)
ISSUING_CA_LIFETIME = timedelta(days=365)
IDENTITY_LIFETIME = timedelta(days=7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Whom a certificate is for; ``hosts`` are the DNS names and IP addresses at which a coordinator is reached."""

    caller: Caller
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    """From when and until when, UTC."""

    not_before: datetime
    not_after: datetime


def validity(now: datetime, lifetime: timedelta) -> Validity:
    """``lifetime`` from ``now``; a negative one gives a certificate that has expired."""
    not_after = now + lifetime
    return Validity(not_before=min(now, not_after) - BACKDATING, not_after=not_after)


def ca_certificate(key: ec.EllipticCurvePrivateKey, consortium: str, valid: Validity) -> x509.Certificate:
    """A root: self-signed, it may sign identities, and issuing CAs that sign identities."""
    name = _name(f"{consortium} CA", consortium)
    return (
        _builder(name, name, key.public_key(), valid)
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, SHA256())
    )


def issuing_ca_certificate(
    root_key: ec.EllipticCurvePrivateKey, root: x509.Certificate, public_key: ec.EllipticCurvePublicKey, valid: Validity
) -> x509.Certificate:
    """A CA below ``root`` that may sign identities and no further CA.

    Raises:
        InputInvalidError: CONFIG_INVALID, when it would outlive the root, or the root may sign identities alone.
    """
    constraints = root.extensions.get_extension_for_class(x509.BasicConstraints).value
    if not constraints.ca or constraints.path_length == 0:
        message = (
            "root: expected one that may sign a CA, got one that signs identities alone; make another with `ca root`"
        )
        raise InputInvalidError(Reason.CONFIG_INVALID, message)
    _check_expiry(root, valid)
    consortium = str(root.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value)
    name = _name(f"{consortium} issuing CA {valid.not_before:%Y-%m-%d}", consortium)
    return (
        _builder(name, root.subject, public_key, valid)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
        .sign(root_key, SHA256())
    )


def identity_certificate(
    ca_key: ec.EllipticCurvePrivateKey,
    ca: x509.Certificate,
    public_key: ec.EllipticCurvePublicKey,
    subject: Subject,
    valid: Validity,
) -> x509.Certificate:
    """A certificate for ``subject``: everyone may connect, only a coordinator may be connected to.

    Raises:
        InputInvalidError: CONFIG_INVALID, when hosts and role do not fit, or it would outlive the CA.
    """
    _check(ca, subject, valid)
    caller = subject.caller
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if caller.role is Role.COORDINATOR:
        purposes.append(ExtendedKeyUsageOID.SERVER_AUTH)
    names = [x509.UniformResourceIdentifier(caller.uri), *(_host(host) for host in subject.hosts)]
    return (
        _builder(_name(caller.name, caller.consortium), ca.subject, public_key, valid)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, SHA256())
    )


def signing_certificate(
    root_key: ec.EllipticCurvePrivateKey,
    root: x509.Certificate,
    public_key: ed25519.Ed25519PublicKey,
    caller: Caller,
    valid: Validity,
) -> x509.Certificate:
    """A certificate that says whose signing key it is. It is for documents alone: no connection can be made with it."""
    names = [x509.UniformResourceIdentifier(caller.uri)]
    return (
        _builder(_name(caller.name, caller.consortium), root.subject, public_key, valid)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([DOCUMENT_SIGNING]), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
        .sign(root_key, SHA256())
    )


def _check(ca: x509.Certificate, subject: Subject, valid: Validity) -> None:
    is_server = subject.caller.role is Role.COORDINATOR
    if is_server != bool(subject.hosts):
        expected = "at least one for a coordinator" if is_server else f"none for the role {subject.caller.role}"
        raise InputInvalidError(Reason.CONFIG_INVALID, f"hosts: expected {expected}, got {len(subject.hosts)}")
    _check_expiry(ca, valid)


def _check_expiry(ca: x509.Certificate, valid: Validity) -> None:
    if valid.not_after > ca.not_valid_after_utc:
        expected = f"expected at most the CA's, {ca.not_valid_after_utc.isoformat()}"
        raise InputInvalidError(Reason.CONFIG_INVALID, f"expiry: {expected}, got {valid.not_after.isoformat()}")


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey,
    valid: Validity,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(valid.not_before)
        .not_valid_after(valid.not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _name(common_name: str, consortium: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, consortium),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
