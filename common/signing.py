"""Signatures of a site's own over its updates (Ed25519, RFC 8032), by a key apart from the one of its connections.

What is signed is a statement with one byte string: so whoever holds the public key can tell long afterwards that the
site gave this update, made from this adapter, with these counts, to this round of these terms. The coordinator cannot
make such a signature; what it can still do is in docs/operations.md, "Release and verify".
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from common.errors import InputInvalidError, Reason
from common.files import read_private
from common.given_under import GivenUnder
from common.hash_chain import canonical_json
from common.ids import Digest, RunId, digest_of

MAX_CERTIFICATE_BYTES = 8192

# Before what is signed, so that no signature of one kind of statement can be taken for one of another.
_UPDATE_CONTEXT = b"fedmedlora update v1\n"
_PUBLIC_KEY = re.compile("[0-9a-f]{64}")
_SIGNATURE = re.compile("[0-9a-f]{128}")


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateStatement:
    """What a site says of an update that it gives.

    Attributes:
        terms_digest: As the site computed it from the terms that it trained by.
        base_digest: The adapter that training started from.
        tasks: Name, examples and label tokens of each task, where the site counted by task.
        given_under: Which policy the site approved it under, where the coordinator asks for that.
    """

    run_id: RunId
    terms_digest: Digest
    round_number: int
    base_digest: Digest
    update_digest: Digest
    num_examples: int
    num_label_tokens: int
    tasks: tuple[tuple[str, int, int], ...] = ()
    given_under: GivenUnder | None = None

    @property
    def message(self) -> bytes:
        """The bytes that are signed."""
        return _UPDATE_CONTEXT + canonical_json(
            {
                "run_id": self.run_id,
                "terms_digest": self.terms_digest,
                "round_number": self.round_number,
                "base_digest": self.base_digest,
                "update_digest": self.update_digest,
                "num_examples": self.num_examples,
                "num_label_tokens": self.num_label_tokens,
                **({"tasks": self.tasks} if self.tasks else {}),
                **({"given_under": self.given_under.document} if self.given_under is not None else {}),
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateSignature:
    """A signature, in hex; the certificate (PEM) of its key, where the site has one, says whose it is."""

    signature: str
    public_key: str
    certificate_pem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A private key and, once the consortium has certified it, its certificate."""

    private: Ed25519PrivateKey = field(repr=False)
    certificate_pem: str = ""

    @property
    def public_key(self) -> str:
        """The public half, in hex."""
        return self.private.public_key().public_bytes_raw().hex()

    def sign(self, message: bytes) -> str:
        """The signature of ``message``, in hex; the same each time."""
        return self.private.sign(message).hex()

    def sign_update(self, statement: UpdateStatement) -> UpdateSignature:
        """The site's word for an update."""
        return UpdateSignature(
            signature=self.sign(statement.message), public_key=self.public_key, certificate_pem=self.certificate_pem
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFiles:
    """Names of a signing key's files in an identity folder; the key is for its owner alone."""

    key: str
    certificate: str


UPDATE_FILES = KeyFiles(key="signing_key.pem", certificate="signing_certificate.pem")
RELEASE_FILES = KeyFiles(key="release_key.pem", certificate="release_certificate.pem")


def is_signed(message: bytes, public_key: str, signature: str) -> bool:
    """Whether ``signature`` is one of ``message`` by that key; both in lower-case hex, and in no other form."""
    if not _PUBLIC_KEY.fullmatch(public_key) or not _SIGNATURE.fullmatch(signature):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key)).verify(bytes.fromhex(signature), message)
    except (InvalidSignature, ValueError):
        return False
    return True


def fingerprint(public_key: str) -> Digest:
    """What two people compare: SHA-256 of the 32 bytes of a public key in hex.

    Raises:
        InputInvalidError: FIELD_INVALID.
    """
    if not _PUBLIC_KEY.fullmatch(public_key):
        raise InputInvalidError(
            Reason.FIELD_INVALID, f"public key: expected 64 lower-case hex digits, got {public_key[:80]!r}"
        )
    return digest_of(bytes.fromhex(public_key))


def new_key_pem() -> bytes:
    """A new private key; for a file that its owner alone may read."""
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def load_signing_key(folder: Path, files: KeyFiles = UPDATE_FILES) -> SigningKey | None:
    """The signing key in an identity folder; None when there is none.

    Raises:
        InputInvalidError: CONFIG_INVALID, it is no Ed25519 key, or others may read it.
    """
    try:
        key = load_pem_private_key(read_private(folder / files.key), password=None)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        message = f"{folder / files.key}: expected an Ed25519 key (PEM, PKCS 8) without a password"
        raise InputInvalidError(Reason.CONFIG_INVALID, message)
    try:
        certificate_pem = (folder / files.certificate).read_text(encoding="ascii")
    except FileNotFoundError:
        certificate_pem = ""
    except UnicodeDecodeError:
        raise InputInvalidError(
            Reason.CONFIG_INVALID, f"{folder / files.certificate}: expected a certificate (PEM)"
        ) from None
    return SigningKey(private=key, certificate_pem=certificate_pem)
