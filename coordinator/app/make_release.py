"""Makes a release of a promoted version: its manifest, signed, and the small files. The large ones are downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from common.clock import Clock
from common.errors import NotFoundError, NotNowError, Reason
from common.ids import digest_of
from common.signing import SigningKey
from common.tls import Caller
from coordinator.app.ports import Audit
from coordinator.app.publish_adapter import files_beside_weights
from coordinator.app.release_manifest import (
    FORMAT,
    MANIFEST_FILE,
    SIGNATURE_FILE,
    Manifest,
    ReleaseFile,
    encode_manifest,
    encode_signature,
    lineage_of,
    weights_of,
)
from coordinator.app.round_driver import RoundDriver
from coordinator.domain.audit import AuditAction, AuditEvent
from coordinator.domain.values import Phase, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseWish:
    """What is asked for.

    Attributes:
        run: Id or name.
        version: 0 for the one that is served.
        with_updates: Those that were kept, and the adapters that they were trained from.
        certificates: The root's certificates (PEM) of sites' signing keys, for sites that did not send theirs.
    """

    run: str
    version: int = 0
    with_updates: bool = True
    certificates: Sequence[str] = ()


class ReleaseMaker:
    """Answers ``GetRelease``."""

    def __init__(self, driver: RoundDriver, audit: Audit, clock: Clock, key: SigningKey | None) -> None:
        self._driver = driver
        self._audit = audit
        self._clock = clock
        self._key = key

    async def make(self, caller: Caller, wish: ReleaseWish) -> dict[str, bytes]:
        """The files of the release but for the large ones, which its manifest lists, by their path.

        Raises:
            NotFoundError: RUN_UNKNOWN, or ADAPTER_UNKNOWN for a version that was not promoted.
            NotNowError: RELEASE_KEY_MISSING.
        """
        if self._key is None or not self._key.certificate_pem:
            expected = "release_key.pem and release_certificate.pem in the coordinator's identity folder"
            raise NotNowError(Reason.RELEASE_KEY_MISSING, f"release: expected {expected}, got none")
        run = self._driver.run_named(wish.run)
        version = wish.version or (run.served.version if run.served is not None else 0)
        lineage = lineage_of(_with_promoted(run, version), version)
        small = files_beside_weights(lineage, lineage.rounds[-1])
        listed = [
            *(ReleaseFile(path=path, digest=digest_of(each), size_bytes=len(each)) for path, each in small.items()),
            *weights_of(lineage, with_updates=wish.with_updates),
        ]
        manifest = Manifest(
            format=FORMAT,
            consortium=caller.consortium,
            released_at=self._clock.now(),
            version=version,
            run=lineage,
            terms=run.terms.canonical.decode(),
            terms_digest=run.terms.digest,
            audit_head=str(await self._audit.audit_head()),
            certificates=tuple(wish.certificates),
            files=tuple(sorted(listed, key=lambda file: file.path)),
        )
        content = encode_manifest(manifest)
        signature = encode_signature(content, self._key)
        await self._tell(caller, run, version, content)
        return {MANIFEST_FILE: content, SIGNATURE_FILE: signature, **small}

    async def _tell(self, caller: Caller, run: Run, version: int, manifest: bytes) -> None:
        """A release that is handed out is in the audit log, with the digest of what it says."""
        event = AuditEvent(
            at=self._clock.now(),
            action=AuditAction.RELEASED,
            caller=caller.uri,
            subject=run.terms.name,
            run_id=run.run_id,
            round_number=version,
            digest=digest_of(manifest),
        )
        await self._audit.record([event])


def _with_promoted(run: Run, version: int) -> Run:
    """The run, if that version of it was promoted.

    Raises:
        NotFoundError: ADAPTER_UNKNOWN.
    """
    promoted = [past.number for past in run.rounds if past.phase is Phase.COMMITTED]
    if version not in promoted:
        expected = f"a promoted version of {run.terms.name} ({', '.join(map(str, promoted)) or 'there is none yet'})"
        raise NotFoundError(Reason.ADAPTER_UNKNOWN, f"version: expected {expected}, got {version or 'none'}")
    return run
