"""The seams between the use cases and the world: storage, files, the CA, and whoever watches. Implements none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from common.hash_chain import ChainHead
from common.ids import AssignmentId, Digest, RunId, SiteName
from common.signing_requests import SigningRequest
from common.tls import Role
from coordinator.domain.audit import AuditEvent
from coordinator.domain.commands import Command
from coordinator.domain.enrolment import IssuedCertificate, JoinToken, Member
from coordinator.domain.events import RunEvent
from coordinator.domain.values import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownSite:
    """A site or evaluator that has called at least once."""

    name: SiteName
    role: Role
    last_seen_at: datetime


def named(known: Sequence[KnownSite], role: Role) -> frozenset[SiteName]:
    """The names of those with that role."""
    return frozenset(each.name for each in known if each.role is role)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Payload bytes of one site in one round, counted at the coordinator as protobuf message sizes."""

    round_number: int
    site: SiteName
    upload_bytes: int
    download_bytes: int


class RunStore(Protocol):
    """Durable runs. ``save`` is one transaction: the run, its commands and its entries in the audit log, or none."""

    async def load_runs(self) -> tuple[Run, ...]:
        """All runs, oldest first."""

    async def save(
        self, before: Run | None, after: Run, commands: Sequence[Command], audit: Sequence[AuditEvent] = ()
    ) -> None:
        """Store what changed from ``before`` to ``after``, the commands to perform (equal ids once), and ``audit``."""

    async def save_time_lost(self, moved: Sequence[Run], counted_until: datetime) -> None:
        """Store runs whose deadlines moved together with the instant up to which they account for: all or nothing."""

    async def counted_until(self) -> datetime | None:
        """The instant stored last; None in a new store."""

    async def pending_commands(self) -> tuple[Command, ...]:
        """Commands stored and not completed, in the order stored."""

    async def complete(self, command: Command) -> None:
        """The command's work is done."""

    async def remember_site(self, name: SiteName, role: Role, at: datetime) -> None:
        """This caller was heard of at ``at``."""

    async def known_sites(self) -> tuple[KnownSite, ...]:
        """Everyone remembered, sorted by name."""

    async def add_traffic(self, run_id: RunId, traffic: Traffic) -> None:
        """Add bytes to what is counted for that site and round."""

    async def traffic(self, run_id: RunId) -> tuple[Traffic, ...]:
        """All bytes counted for a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """Every member, sorted by name, and every certificate that is remembered, the first to expire first.

    Attributes:
        revoked_keys: Fingerprints of signing keys.
    """

    members: tuple[Member, ...] = ()
    certificates: tuple[IssuedCertificate, ...] = ()
    revoked_keys: frozenset[Digest] = frozenset()


class MemberStore(Protocol):
    """Durable members, join tokens and certificates; a call is one transaction, its event in the audit log included."""

    async def membership(self) -> Membership:
        """Everything that is known of members and certificates."""

    async def add_token(self, token: JoinToken, event: AuditEvent) -> None:
        """Store a token; those that expired long before are forgotten."""

    async def token(self, token_hash: Digest) -> JoinToken | None:
        """The token of that hash."""

    async def enrol(
        self, token_hash: Digest, member: Member, certificate: IssuedCertificate, event: AuditEvent
    ) -> bool:
        """Spend the token, admit the member, note the certificate, revoke those of the name's other keys; or nothing.

        Returns:
            Whether the token was still the certificate's key's to spend.
        """

    async def add_certificate(self, certificate: IssuedCertificate, event: AuditEvent) -> None:
        """Note a certificate, before it is handed out; those that have expired are forgotten."""

    async def save_member(self, member: Member, event: AuditEvent | None = None) -> None:
        """Store how a name stands; one that is out comes back by none of its spent tokens."""

    async def revoke(self, certificate: IssuedCertificate, event: AuditEvent) -> None:
        """Note that a certificate is good no more, whether issued here or not, nor its name's spent tokens."""

    async def revoke_key(self, fingerprint: Digest, event: AuditEvent) -> None:
        """Note that a signing key counts no more; noting it again is no error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedCertificate:
    """A certificate: what is remembered of it, and what its holder gets (PEM, its issuers behind it)."""

    issued: IssuedCertificate
    chain_pem: bytes


class CertificateIssuer(Protocol):
    """The issuing CA, if this coordinator has one."""

    def sign(self, request: SigningRequest, now: datetime) -> SignedCertificate:
        """A certificate of the request's key for the request's caller; the caller's right to it was checked.

        Raises:
            NotNowError: NOT_ISSUING.
        """

    def trust_bundle_pem(self) -> bytes:
        """The roots that members are to trust."""


class Audit(Protocol):
    """The audit log: a hash chain (`common.hash_chain`) that only grows.

    What changes state is recorded in that change's own transaction (``RunStore.save``); ``record`` is for the rest.
    """

    async def record(self, events: Sequence[AuditEvent]) -> None:
        """Add ``events``, all or none."""

    async def audit_head(self) -> ChainHead:
        """Where the log ends."""

    async def audit_lines(self, after: int, at_most: int) -> tuple[bytes, ...]:
        """At most so many lines behind the one with number ``after``, in order."""


class PartialUpload(Protocol):
    """An upload that is arriving."""

    @property
    def offset(self) -> int:
        """Bytes kept so far."""

    async def append(self, content: bytes | memoryview) -> None:
        """Write ``content`` at the offset.

        Raises:
            OverloadedError: DISK_FULL; what was kept stays.
        """

    async def seal(self) -> Digest:
        """Make what arrived durable and give its digest."""

    async def close(self) -> None:
        """Give back the file handle; what arrived stays for a resumption."""


class BlobStore(Protocol):
    """Safetensors files: uploads that arrive, accepted updates, adapters."""

    async def kept_bytes(self, assignment_id: AssignmentId, digest: Digest) -> int:
        """How much of that upload has arrived; 0 when nothing has."""

    async def open_partial(self, assignment_id: AssignmentId, digest: Digest, size_bytes: int) -> PartialUpload:
        """Begin an upload of ``size_bytes``, or go on with it; an assignment's upload of another digest is forgotten.

        Raises:
            OverloadedError: DISK_FULL, when there is no room for all of it; nothing was begun.
        """

    def partial_path(self, assignment_id: AssignmentId, digest: Digest) -> Path:
        """Where an upload arrives."""

    async def keep_update(self, assignment_id: AssignmentId, digest: Digest) -> None:
        """A sealed upload becomes an update, and is not lost from then on.

        Raises:
            UnavailableError: STORE_AWAY; the upload stays, to be kept later.
        """

    async def keep_adapter(self, assignment_id: AssignmentId, digest: Digest) -> None:
        """A sealed upload becomes an adapter; raises as ``keep_update``."""

    def draft_path(self, name: str) -> Path:
        """Where a candidate is written; a file that a crash leaves there is overwritten, or swept at the next start."""

    async def keep_candidate(self, draft: Path, digest: Digest) -> None:
        """A candidate that is written becomes an adapter; raises as ``keep_update``, and the draft stays then."""

    async def keep_beside_updates(self, draft: Path, kept_under: AssignmentId, digest: Digest) -> None:
        """A written state of a strategy, or part of an adapter, is kept as an update is; raises as ``keep_update``."""

    def update(self, assignment_id: AssignmentId, digest: Digest) -> AbstractAsyncContextManager[Path]:
        """A file with the accepted update, or what else is kept as one is, to read in the block.

        Raises:
            FileNotFoundError: it is gone.
            UnavailableError: STORE_AWAY.
            OverloadedError: DISK_FULL, no room to bring it here.
            TransferBrokenError: DIGEST_DIFFERS, what came is something else.
        """

    def adapter(self, digest: Digest) -> AbstractAsyncContextManager[Path]:
        """A file with the adapter, to read in the block; raises as ``update``."""

    async def forget_upload(self, assignment_id: AssignmentId) -> None:
        """Remove what has arrived of an assignment's upload and was not kept; what is gone is no error."""

    async def delete_updates(self, assignment_ids: Sequence[AssignmentId]) -> None:
        """Remove updates and partial uploads of these assignments; those that are gone are no error.

        Raises:
            UnavailableError: STORE_AWAY; some may be gone.
        """

    async def sweep(
        self, live: Set[AssignmentId], accepted: Mapping[AssignmentId, Digest], adapters: Set[Digest]
    ) -> int:
        """Keep uploads of ``live``, updates of ``accepted`` and ``adapters`` alone; returns how many files went.

        Raises:
            UnavailableError: STORE_AWAY; some may be gone.
        """


class RunObserver(Protocol):
    """Told of every step, after it is stored: the log's story and the metrics hang here."""

    def run_moved(self, before: Run | None, after: Run, event: RunEvent | None) -> None:
        """``after`` is stored; ``event`` is None when the run was created."""

    def command_failed(self, command: Command, error: Exception) -> None:
        """A command's work failed, and will be tried again."""

    def watch_failed(self, error: Exception) -> None:
        """Deadlines or presence could not be looked at, and will be again."""
