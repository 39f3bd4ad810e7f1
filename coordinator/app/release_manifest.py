"""What a release says of itself: its manifest, and the coordinator's signature over it, as values and as bytes.

::

    adapter_model.safetensors  adapter_config.json  fedmedlora.json  README.md    a plain PEFT folder
    release.json                                where it comes from: terms, and every round up to it; each other file
    release_signature.json                      the coordinator's, with the root's certificate of its release key
    adapters/<digest>.safetensors               what its rounds started from, where updates were kept
    updates/round-0001/<site>.safetensors       the updates, where they were kept
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from pydantic import TypeAdapter, ValidationError

from common.hash_chain import canonical_json
from common.ids import Digest, digest_of
from common.peft_folder import WEIGHTS_FILE
from common.signing import SigningKey
from coordinator.domain.cohort import kept_updates
from coordinator.domain.values import AdapterFile, Run

# What is written, and what can be read: before 2, nothing was said of sites' policies.
FORMAT = 2
FORMATS = (1, FORMAT)
MANIFEST_FILE = "release.json"
SIGNATURE_FILE = "release_signature.json"
_CONTEXT = b"fedmedlora release v1\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseFile:
    """One file of the folder, but for manifest and signature."""

    path: str
    digest: Digest
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Where a released adapter comes from.

    Attributes:
        version: The round whose candidate it is.
        run: With its rounds up to that one.
        terms: Their canonical JSON, of which the digest is.
        audit_head: Where the coordinator's audit log ended when this was made: whoever is given that log later can
            tell whether it is still the same up to there.
        certificates: The root's certificates (PEM) of signing keys beside those that came with the updates.
        files: Sorted by path.
    """

    format: int
    consortium: str
    released_at: datetime
    version: int
    run: Run
    terms: str
    terms_digest: Digest
    audit_head: str
    certificates: tuple[str, ...]
    files: tuple[ReleaseFile, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestSignature:
    """The coordinator's word for a manifest; what is signed covers the certificate, too."""

    manifest_digest: Digest
    public_key: str
    certificate: str
    signature: str

    @property
    def message(self) -> bytes:
        """The bytes that are signed."""
        certificate_digest = digest_of(self.certificate.encode())
        signed = {"manifest_digest": self.manifest_digest, "certificate_digest": certificate_digest}
        return _CONTEXT + canonical_json(signed)


_MANIFEST = TypeAdapter(Manifest)
_SIGNATURE = TypeAdapter(ManifestSignature)


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest's file."""
    document = _MANIFEST.dump_python(manifest, mode="json")
    return json.dumps(document, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"


def decode_manifest(content: bytes) -> Manifest:
    """The manifest in a file.

    Raises:
        ValueError: with what was expected.
    """
    try:
        return _MANIFEST.validate_json(content)
    except ValidationError as error:
        raise ValueError(_first_problem(error)) from None


def encode_signature(manifest: bytes, key: SigningKey) -> bytes:
    """The signature's file for a manifest's."""
    unsigned = ManifestSignature(
        manifest_digest=digest_of(manifest),
        public_key=key.public_key,
        certificate=key.certificate_pem,
        signature="",
    )
    return _signature_bytes(replace(unsigned, signature=key.sign(unsigned.message)))


def decode_signature(content: bytes) -> ManifestSignature:
    """The signature in a file, which must be written as `encode_signature` writes it.

    Raises:
        ValueError: with what was expected.
    """
    try:
        signature = _SIGNATURE.validate_json(content)
    except ValidationError as error:
        raise ValueError(_first_problem(error)) from None
    if _signature_bytes(signature) != content:
        raise ValueError("expected JSON as the coordinator writes it")
    return signature


def _signature_bytes(signature: ManifestSignature) -> bytes:
    document = _SIGNATURE.dump_python(signature, mode="json")
    return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"{'.'.join(map(str, first['loc']))[:120]}: {first['msg'][:200]}"


def lineage_of(run: Run, version: int) -> Run:
    """The run as it stood for that version: later rounds, and what it serves or waits for now, are not part of it."""
    return replace(run, rounds=run.rounds[:version], served=None, deadlines=(), paused_at=None, holds=())


def weights_of(run: Run, *, with_updates: bool) -> Iterator[ReleaseFile]:
    """The large files of a release of ``run``, as `lineage_of` gives it.

    With updates: those that were kept, and every adapter that a round started from or ended with.
    """
    candidate = run.rounds[-1].candidate
    assert candidate is not None, "what is released has a candidate"
    yield _file(WEIGHTS_FILE, candidate)
    if not with_updates or not any(kept_updates(run, past) for past in run.rounds):
        return
    adapters = {file.digest: file for file in (run.first_adapter, *(past.candidate for past in run.rounds)) if file}
    for digest, file in adapters.items():
        if digest != candidate.digest:
            yield _file(adapter_path(digest), file)
    for past in run.rounds:
        for entry in kept_updates(run, past):
            if entry.update is not None:
                yield _file(update_path(past.number, entry.site), entry.update.file)


def adapter_path(digest: Digest) -> str:
    """Where an adapter of an earlier round lies."""
    return f"adapters/{digest.removeprefix('sha256:')}.safetensors"


def update_path(round_number: int, site: str) -> str:
    """Where a kept update lies."""
    return f"updates/round-{round_number:04d}/{site}.safetensors"


def _file(path: str, file: AdapterFile) -> ReleaseFile:
    return ReleaseFile(path=path, digest=file.digest, size_bytes=file.size_bytes)
