"""AdminService and RegistryService: what the operator asks, and the list of published adapters."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc.aio

from common.clock import Clock
from common.errors import NotNowError, Reason, UnavailableError
from common.ids import Digest, SiteName
from common.tls import caller_from_context
from common.wire import spec_to_proto, terms_from_proto, terms_to_proto
from coordinator.adapters.rpc import reports
from coordinator.adapters.rpc.translate import lifetime_of, release_wish, time_left, timestamp
from coordinator.app.answers import Answers
from coordinator.app.create_run import create
from coordinator.app.enrol_site import Enrolment
from coordinator.app.make_release import ReleaseMaker
from coordinator.app.members import Members
from coordinator.app.ports import Audit, CertificateIssuer, RunStore, Traffic
from coordinator.app.presence import Presence
from coordinator.app.round_driver import RoundDriver
from coordinator.app.standings import Standings
from coordinator.domain import events as ev
from coordinator.domain.values import Run, RunState
from fedmedlora.v1 import admin_pb2, admin_pb2_grpc, registry_pb2, registry_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]
# A watcher is told of progress at least this often, and of a step at once.
WATCH_SECONDS = 2.0
RELEASE_PART_BYTES = 2**18
# A line takes some 500 bytes, and a message at most 1 MiB.
AUDIT_LINES = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class MembershipUseCases:
    """What the servicers call about members.

    Attributes:
        enrolment_port: 0 while nobody can enrol here.
    """

    enrolment: Enrolment
    members: Members
    standings: Standings
    issuer: CertificateIssuer
    consortium: str
    enrolment_port: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminUseCases:
    """What the servicers call."""

    driver: RoundDriver
    answers: Answers
    presence: Presence
    store: RunStore
    clock: Clock
    membership: MembershipUseCases
    audit: Audit
    releases: ReleaseMaker


class AdminServicer(admin_pb2_grpc.AdminServiceServicer):
    """Implements ``fedmedlora.v1.AdminService``."""

    def __init__(self, use: AdminUseCases) -> None:
        self._use = use

    async def CreateRun(self, request: admin_pb2.CreateRunRequest, context: Context) -> admin_pb2.CreateRunResponse:
        """See the proto."""
        run = await create(
            self._use.driver, self._use.clock, terms_from_proto(request.terms), caller_from_context(context)
        )
        return admin_pb2.CreateRunResponse(run_id=run.run_id, terms_digest=run.terms.digest)

    async def ListRuns(self, request: admin_pb2.ListRunsRequest, context: Context) -> admin_pb2.ListRunsResponse:
        """See the proto."""
        return admin_pb2.ListRunsResponse(runs=[reports.summary(run) for run in reversed(self._use.driver.runs)])

    async def GetRun(self, request: admin_pb2.GetRunRequest, context: Context) -> admin_pb2.GetRunResponse:
        """See the proto."""
        run = self._use.driver.run_named(request.run)
        return admin_pb2.GetRunResponse(run=await self._report(run, request.last_round))

    async def WatchRun(
        self, request: admin_pb2.WatchRunRequest, context: Context
    ) -> AsyncIterator[admin_pb2.WatchRunResponse]:
        """See the proto."""
        while True:
            run = self._use.driver.run_named(request.run)
            yield admin_pb2.WatchRunResponse(run=await self._report(run))
            if not run.state.is_open:
                return
            if self._use.driver.is_stopping:
                raise UnavailableError(Reason.PEER_AWAY, "the coordinator is stopping; the run goes on when it is back")
            if self._use.driver.run_named(request.run) is run:
                await self._use.driver.wait_for_change(WATCH_SECONDS)

    async def AbortRun(self, request: admin_pb2.AbortRunRequest, context: Context) -> admin_pb2.AbortRunResponse:
        """See the proto."""
        await self._post_to_open(context, request.run, ev.AbortRequested(at=self._use.clock.now()))
        return admin_pb2.AbortRunResponse()

    async def PauseRun(self, request: admin_pb2.PauseRunRequest, context: Context) -> admin_pb2.PauseRunResponse:
        """See the proto."""
        await self._post_to_open(context, request.run, ev.PauseRequested(at=self._use.clock.now()))
        return admin_pb2.PauseRunResponse()

    async def ResumeRun(self, request: admin_pb2.ResumeRunRequest, context: Context) -> admin_pb2.ResumeRunResponse:
        """See the proto."""
        await self._post_to_open(context, request.run, ev.ResumeRequested(at=self._use.clock.now()))
        return admin_pb2.ResumeRunResponse()

    async def ExtendDeadline(
        self, request: admin_pb2.ExtendDeadlineRequest, context: Context
    ) -> admin_pb2.ExtendDeadlineResponse:
        """See the proto."""
        now = self._use.clock.now()
        extension = ev.ExtensionRequested(at=now, not_before=now + time_left(request))
        run = await self._post_to_open(context, request.run, extension)
        return admin_pb2.ExtendDeadlineResponse(deadlines=reports.open_deadlines(run))

    async def GetRelease(
        self, request: admin_pb2.GetReleaseRequest, context: Context
    ) -> AsyncIterator[admin_pb2.GetReleaseResponse]:
        """See the proto."""
        files = await self._use.releases.make(caller_from_context(context), release_wish(request))
        for path, content in files.items():
            for start in range(0, len(content), RELEASE_PART_BYTES):
                part = content[start : start + RELEASE_PART_BYTES]
                yield admin_pb2.GetReleaseResponse(path=path, content=part)

    async def ListAudit(self, request: admin_pb2.ListAuditRequest, context: Context) -> admin_pb2.ListAuditResponse:
        """See the proto."""
        lines = await self._use.audit.audit_lines(request.after_sequence, AUDIT_LINES)
        return admin_pb2.ListAuditResponse(lines=lines)

    async def ListSites(self, request: admin_pb2.ListSitesRequest, context: Context) -> admin_pb2.ListSitesResponse:
        """See the proto."""
        standings = self._use.membership.standings
        seen = {site.name: site for site in await self._use.store.known_sites()}
        certificates = standings.certificates(self._use.clock.now())
        sites = []
        for name in sorted(seen.keys() | {member.name for member in standings.members}):
            site = reports.site(name, seen.get(name), standings.member(name), certificates)
            site.is_present = self._use.presence.is_present(name)
            site.is_signing_key_revoked = standings.is_key_revoked(Digest(site.signing_key_fingerprint))
            sites.append(site)
        return admin_pb2.ListSitesResponse(sites=sites)

    async def CreateJoinToken(
        self, request: admin_pb2.CreateJoinTokenRequest, context: Context
    ) -> admin_pb2.CreateJoinTokenResponse:
        """See the proto."""
        membership = self._use.membership
        if not membership.enrolment_port:
            raise NotNowError(
                Reason.NOT_ISSUING, "enrolment.listen: expected an address, got none: nobody can enrol here"
            )
        token, expires_at = await membership.enrolment.create_token(
            caller_from_context(context), request.name, request.role, lifetime_of(request)
        )
        return admin_pb2.CreateJoinTokenResponse(
            token=token,
            expires_at=timestamp(expires_at),
            consortium=membership.consortium,
            trust_bundle_pem=membership.issuer.trust_bundle_pem(),
            enrolment_port=membership.enrolment_port,
        )

    async def BanSite(self, request: admin_pb2.BanSiteRequest, context: Context) -> admin_pb2.BanSiteResponse:
        """See the proto."""
        await self._use.membership.members.ban(caller_from_context(context), request.name)
        return admin_pb2.BanSiteResponse()

    async def UnbanSite(self, request: admin_pb2.UnbanSiteRequest, context: Context) -> admin_pb2.UnbanSiteResponse:
        """See the proto."""
        await self._use.membership.members.unban(caller_from_context(context), request.name)
        return admin_pb2.UnbanSiteResponse()

    async def RevokeCertificate(
        self, request: admin_pb2.RevokeCertificateRequest, context: Context
    ) -> admin_pb2.RevokeCertificateResponse:
        """See the proto."""
        await self._use.membership.members.revoke(caller_from_context(context), request.serial)
        return admin_pb2.RevokeCertificateResponse()

    async def RevokeSigningKey(
        self, request: admin_pb2.RevokeSigningKeyRequest, context: Context
    ) -> admin_pb2.RevokeSigningKeyResponse:
        """See the proto."""
        still_in = await self._use.membership.members.revoke_key(caller_from_context(context), request.fingerprint)
        rounds = [admin_pb2.RevokedInRound(run=run, round_number=number) for run, number in still_in]
        return admin_pb2.RevokeSigningKeyResponse(still_in=rounds)

    async def _post_to_open(self, context: Context, id_or_name: str, event: ev.RunEvent) -> Run:
        """Step a run that is open, or say that it has ended, be it while the event waited."""
        before = self._use.driver.run_named(id_or_name)
        after = before
        if before.state.is_open:
            after = await self._use.driver.post(before.run_id, event, caller_from_context(context))
        is_aborted = after.state is RunState.ABORTED and isinstance(event, ev.AbortRequested)
        if after.state.is_open or is_aborted:
            return after
        raise NotNowError(Reason.RUN_ENDED, f"run {after.terms.name} has ended as {after.state}")

    async def _report(self, run: Run, last_round: int = 0) -> admin_pb2.RunReport:
        traffic: dict[tuple[int, SiteName], Traffic] = {
            (row.round_number, row.site): row for row in await self._use.store.traffic(run.run_id)
        }
        return reports.run_report(run, traffic, self._use.answers.progress_of, self._use.clock.now(), last_round)


class RegistryServicer(registry_pb2_grpc.RegistryServiceServicer):
    """Implements ``fedmedlora.v1.RegistryService``."""

    def __init__(self, driver: RoundDriver) -> None:
        self._driver = driver

    async def ListAdapterVersions(
        self, request: registry_pb2.ListAdapterVersionsRequest, context: Context
    ) -> registry_pb2.ListAdapterVersionsResponse:
        """See the proto."""
        run = self._driver.run_named(request.run)
        return registry_pb2.ListAdapterVersionsResponse(
            versions=reports.adapter_versions(run),
            terms=terms_to_proto(run.terms),
            spec=None if run.spec is None else spec_to_proto(run.spec.at_rank(run.terms.published_rank)),
        )
