"""Takes an update in: who may send it, its bytes into a file, its content checked, then into the round or out again.

What is on disk if the process dies: before the last rename, a partial upload that resumes; after it and before the
event is stored, a file that recovery removes, to be sent again (`coordinator.app.recovery`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from common.adapter import AdapterSpec, TensorSpec, check_spec
from common.chunks import next_offset
from common.clock import Clock
from common.errors import (
    InputInvalidError,
    NotNowError,
    OverloadedError,
    Reason,
    TransferBrokenError,
    UpdateRefusedError,
)
from common.ids import AssignmentId, Digest, RunId
from common.signing import UpdateSignature
from common.tls import Caller
from common.weights_io import WeightsReader, check_update
from coordinator.app.check_signature import SigningKeys, check_key, check_signature, statement_of
from coordinator.app.poll import find_assignment
from coordinator.app.ports import BlobStore, PartialUpload
from coordinator.app.round_driver import RoundDriver
from coordinator.app.standings import Standings
from coordinator.domain import events as ev
from coordinator.domain.admission import (
    ClaimedUpdate,
    check_claim,
    check_first_adapter,
    check_size,
    explain_dead_assignment,
    max_update_bytes,
)
from coordinator.domain.assignments import Assignment, AssignmentKind
from coordinator.domain.cohort import initialise_assignment_id
from coordinator.domain.values import AdapterFile, RosterEntry, SignedBy, SiteOutcome, Update


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadClaim:
    """What an upload's header says: an update with counts and signature, or a first adapter with its specification."""

    assignment_id: AssignmentId
    digest: Digest
    size_bytes: int
    update: ClaimedUpdate | None = None
    first_spec: AdapterSpec | None = None
    signature: UpdateSignature | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedChunk:
    """Part of a file, and where it starts."""

    offset: int
    content: bytes | memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadState:
    """How far an upload is."""

    offset: int
    is_accepted: bool


class UpdateIntake:
    """Answers ``GetUploadOffset`` and ``UploadUpdate``."""

    def __init__(
        self, driver: RoundDriver, blobs: BlobStore, clock: Clock, keys: SigningKeys, standings: Standings
    ) -> None:
        self._driver = driver
        self._blobs = blobs
        self._clock = clock
        self._keys = keys
        self._standings = standings
        self._receiving: set[AssignmentId] = set()

    async def state(self, caller: Caller, assignment_id: AssignmentId, digest: Digest) -> UploadState:
        """How much of that upload is here.

        Raises:
            NotFoundError, NotAllowedError, NotNowError: see ``explain_dead_assignment``.
        """
        if self._is_accepted(caller, assignment_id, digest):
            return UploadState(offset=0, is_accepted=True)
        self._live(caller, assignment_id)
        return UploadState(offset=await self._blobs.kept_bytes(assignment_id, digest), is_accepted=False)

    async def receive(self, caller: Caller, claim: UploadClaim, chunks: AsyncIterator[ReceivedChunk]) -> Digest:
        """Take one upload to its end; returns the digest of what was accepted.

        Raises:
            UpdateRefusedError: it was read, or its claim was, and it is refused; nothing of it stays.
            TransferBrokenError: bytes were lost; what arrived stays, to go on from.
            UnavailableError: STORE_AWAY, it cannot be kept now; what arrived stays, to go on from.
            NotNowError, NotAllowedError, NotFoundError, OverloadedError, InputInvalidError: nothing was read.
        """
        if self._is_accepted(caller, claim.assignment_id, claim.digest):
            return claim.digest
        assignment = self._live(caller, claim.assignment_id)
        if claim.assignment_id in self._receiving:
            raise OverloadedError(Reason.TOO_MANY_STREAMS, "this assignment's upload is being received already")
        self._receiving.add(claim.assignment_id)
        try:
            return await self._take(assignment, caller, claim, chunks)
        except UpdateRefusedError as refusal:
            await self._blobs.forget_upload(claim.assignment_id)
            refused = ev.AnswerRefused(
                at=self._clock.now(), assignment_id=claim.assignment_id, by=caller.name, reason=refusal.reason
            )
            await self._driver.post(assignment.run.run_id, refused, caller)
            raise
        except NotNowError:  # the round closed meanwhile, or another attempt at the same was quicker
            if self._is_accepted(caller, claim.assignment_id, claim.digest):
                return claim.digest
            await self._delete(claim.assignment_id)
            raise
        except FileNotFoundError:  # it closed, and its partial uploads were deleted
            raise _too_late() from None
        finally:
            self._receiving.discard(claim.assignment_id)

    async def _take(
        self, assignment: Assignment, caller: Caller, claim: UploadClaim, chunks: AsyncIterator[ReceivedChunk]
    ) -> Digest:
        spec, tensors = admit(assignment, claim)
        if claim.update is not None:
            statement = statement_of(assignment.run, assignment.round_number, claim.digest, claim.update)
            check_signature(caller, assignment.run, statement, claim.signature, self._keys)
        await self._receive_bytes(claim, chunks)
        path = self._blobs.partial_path(claim.assignment_id, claim.digest)
        await asyncio.to_thread(check_content, path, tensors, spec)
        file = AdapterFile(digest=claim.digest, size_bytes=claim.size_bytes)
        if claim.update is None:
            self._live(caller, claim.assignment_id)  # an adapter's file stays: not one that another has forestalled
            await self._blobs.keep_adapter(claim.assignment_id, claim.digest)
            received = ev.FirstAdapterReceived(at=self._clock.now(), adapter=file, spec=spec)
            run = await self._driver.post(assignment.run.run_id, received, caller)
            if run.first_adapter != file:
                raise _too_late()
            return claim.digest
        update = Update(
            file=file,
            num_examples=claim.update.num_examples,
            num_label_tokens=claim.update.num_label_tokens,
            tasks=claim.update.tasks,
            signed=_signed_by(claim.signature),
            given_under=claim.update.given_under,
        )
        await self._blobs.keep_update(claim.assignment_id, claim.digest)
        # In turn with what is decided on members: a key that is revoked from now on has its update taken out again.
        accept = self._accept(assignment.run.run_id, caller, claim, update)
        try:
            await (accept if claim.signature is None else self._standings.alone(accept))
        except UpdateRefusedError:
            await self._delete(claim.assignment_id)
            raise
        entry = _entry(self._driver, claim.assignment_id)
        if entry is None or entry.update != update:
            raise _too_late()
        return claim.digest

    async def _accept(self, run_id: RunId, caller: Caller, claim: UploadClaim, update: Update) -> None:
        """Take an update into its round, unless its key was revoked, or replaced, while its bytes arrived."""
        if claim.signature is not None:
            check_key(caller, claim.signature, self._keys)
        accepted = ev.UpdateAccepted(at=self._clock.now(), assignment_id=claim.assignment_id, update=update)
        await self._driver.post(run_id, accepted, caller)

    async def _delete(self, assignment_id: AssignmentId) -> None:
        """Delete the files of an attempt, unless an earlier one was accepted, whose file may be the same."""
        entry = _entry(self._driver, assignment_id)
        if entry is None or entry.outcome is not SiteOutcome.ACCEPTED:
            await self._blobs.delete_updates([assignment_id])

    async def _receive_bytes(self, claim: UploadClaim, chunks: AsyncIterator[ReceivedChunk]) -> None:
        partial = await self._blobs.open_partial(claim.assignment_id, claim.digest, claim.size_bytes)
        try:
            await _append_all(partial, claim.size_bytes, chunks)
            digest = await partial.seal()
        finally:
            await partial.close()
        if digest != claim.digest:
            await self._blobs.forget_upload(claim.assignment_id)
            raise TransferBrokenError(Reason.DIGEST_DIFFERS, f"file: expected {claim.digest}, got {digest}")

    def _live(self, caller: Caller, assignment_id: AssignmentId) -> Assignment:
        assignment = find_assignment(self._driver.runs, caller, assignment_id)
        if assignment is None:
            explain_dead_assignment(self._driver.runs, caller.name, assignment_id)
            raise NotNowError(Reason.ROUND_CLOSED, "the round of this assignment is closed")
        return assignment

    def _is_accepted(self, caller: Caller, assignment_id: AssignmentId, digest: Digest) -> bool:
        """Whether exactly these bytes were accepted before, so that a lost answer can be given again."""
        for run in self._driver.runs:
            first = run.first_adapter
            is_first = assignment_id == initialise_assignment_id(run.run_id, caller.name)
            if is_first and first is not None:
                return first.digest == digest
            for entry in (entry for past in run.rounds for entry in past.roster):
                if entry.assignment_id == assignment_id and entry.site == caller.name:
                    return entry.update is not None and entry.update.file.digest == digest
        return False


def _signed_by(given: UpdateSignature | None) -> SignedBy | None:
    if given is None:
        return None
    return SignedBy(signature=given.signature, public_key=given.public_key, certificate_pem=given.certificate_pem)


def admit(assignment: Assignment, claim: UploadClaim) -> tuple[AdapterSpec, tuple[TensorSpec, ...]]:
    """Check the claim against the assignment; returns the adapter's shape and the tensors that must come.

    Raises:
        InputInvalidError: SPEC_INVALID, or FIELD_INVALID for an answer of another kind than asked for.
        UpdateRefusedError: as `check_first_adapter` and `check_claim`.
    """
    terms = assignment.run.terms
    if assignment.kind is AssignmentKind.INITIALISE and claim.first_spec is not None:
        spec = check_first_adapter(terms, check_spec(claim.first_spec))
        check_size(claim.size_bytes, max_update_bytes(spec, spec.tensors))
        return spec, spec.tensors
    spec_or_none = assignment.adapter_spec
    if assignment.plan is None or claim.update is None or assignment.adapter is None or spec_or_none is None:
        raise InputInvalidError(
            Reason.FIELD_INVALID, f"content: expected the kind that answers {assignment.kind}, got another"
        )
    tensors = spec_or_none.tensors_of(assignment.plan.uploaded)
    check_claim(terms, claim.update, assignment.adapter.digest, max_update_bytes(spec_or_none, tensors))
    return spec_or_none, tensors


async def _append_all(partial: PartialUpload, size_bytes: int, chunks: AsyncIterator[ReceivedChunk]) -> None:
    async for chunk in chunks:
        next_offset(partial.offset, chunk.offset, len(chunk.content), size_bytes)
        await partial.append(chunk.content)
        del chunk  # not held while the next one is waited for
    if partial.offset > size_bytes:  # the same file was begun under a larger size: one of the two is false
        raise UpdateRefusedError(
            Reason.UPDATE_TOO_LARGE, f"file: expected {size_bytes} bytes as announced, got at least {partial.offset}"
        )
    if partial.offset < size_bytes:
        raise TransferBrokenError(
            Reason.STREAM_ENDED_EARLY, f"upload: expected {size_bytes} bytes, got {partial.offset}"
        )


def _too_late() -> NotNowError:
    return NotNowError(Reason.ROUND_CLOSED, "the round closed while the upload was arriving")


def check_content(path: Path, tensors: tuple[TensorSpec, ...], spec: AdapterSpec) -> None:
    """Check the file of an admitted claim; raises as `common.weights_io.check_update`."""
    with WeightsReader(path) as reader:
        check_update(reader, tensors, spec.dtype)


def _entry(driver: RoundDriver, assignment_id: AssignmentId) -> RosterEntry | None:
    for run in driver.runs:
        for entry in (entry for past in run.rounds for entry in past.roster):
            if entry.assignment_id == assignment_id:
                return entry
    return None
