"""The operator's side of AdminService, for the command line: calls with deadlines, errors with reasons."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from common.clock import SystemClock
from common.errors import Reason, TransferBrokenError
from common.identity_folder import prepare_key, read_certified, take_certificate
from common.ids import Digest
from common.rpc_errors import from_rpc_error
from common.signing_requests import make_request
from common.terms import Terms
from common.tls import CHANNEL_OPTIONS, channel_credentials, load_identity
from common.wire import terms_to_proto
from coordinator.app.make_release import ReleaseWish
from fedmedlora.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    enrolment_pb2,
    enrolment_pb2_grpc,
    rounds_pb2,
    rounds_pb2_grpc,
)

CALL_SECONDS = 20.0


class OperatorClient:
    """What an operator can ask; every method raises `common.errors.FedMedError` with the coordinator's reason."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._admin = admin_pb2_grpc.AdminServiceStub(channel)
        self._identity = enrolment_pb2_grpc.IdentityServiceStub(channel)
        self._rounds = rounds_pb2_grpc.RoundServiceStub(channel)
        self._health: Any = health_pb2_grpc.HealthStub(channel)  # its stubs know no methods

    async def create_run(self, terms: Terms) -> admin_pb2.CreateRunResponse:
        """Create a run, or find the one with these terms."""
        return await self._admin.CreateRun(
            admin_pb2.CreateRunRequest(terms=terms_to_proto(terms)), timeout=CALL_SECONDS
        )

    async def list_runs(self) -> list[admin_pb2.RunSummary]:
        """All runs, newest first."""
        return list((await self._admin.ListRuns(admin_pb2.ListRunsRequest(), timeout=CALL_SECONDS)).runs)

    async def get_run(self, run: str, last_round: int = 0) -> admin_pb2.RunReport:
        """One run with its rounds up to ``last_round`` (0: the latest), as many as a report holds."""
        request = admin_pb2.GetRunRequest(run=run, last_round=last_round)
        return (await self._admin.GetRun(request, timeout=CALL_SECONDS)).run

    async def watch_run(self, run: str) -> AsyncIterator[admin_pb2.RunReport]:
        """The run each time it changes, until it ends."""
        async for response in self._admin.WatchRun(admin_pb2.WatchRunRequest(run=run)):
            yield response.run

    async def abort_run(self, run: str) -> None:
        """Abort a run."""
        await self._admin.AbortRun(admin_pb2.AbortRunRequest(run=run), timeout=CALL_SECONDS)

    async def pause_run(self, run: str) -> None:
        """Hold a run."""
        await self._admin.PauseRun(admin_pb2.PauseRunRequest(run=run), timeout=CALL_SECONDS)

    async def resume_run(self, run: str) -> None:
        """Let a paused run go on."""
        await self._admin.ResumeRun(admin_pb2.ResumeRunRequest(run=run), timeout=CALL_SECONDS)

    async def extend_deadline(self, run: str, seconds: float) -> list[admin_pb2.Deadline]:
        """Let no open deadline come within the next ``seconds``; returns the open deadlines."""
        request = admin_pb2.ExtendDeadlineRequest(run=run)
        request.time_left.FromTimedelta(timedelta(seconds=seconds))
        return list((await self._admin.ExtendDeadline(request, timeout=CALL_SECONDS)).deadlines)

    async def list_sites(self) -> list[admin_pb2.Site]:
        """Every site the coordinator knows."""
        return list((await self._admin.ListSites(admin_pb2.ListSitesRequest(), timeout=CALL_SECONDS)).sites)

    async def create_join_token(
        self, name: str, role: str, lifetime_seconds: float
    ) -> admin_pb2.CreateJoinTokenResponse:
        """A join token for a site or an evaluator of that name."""
        request = admin_pb2.CreateJoinTokenRequest(name=name, role=role)
        request.lifetime.FromTimedelta(timedelta(seconds=lifetime_seconds))
        return await self._admin.CreateJoinToken(request, timeout=CALL_SECONDS)

    async def renew_certificate(self, identity_folder: Path) -> datetime:
        """Put a new key and certificate into the folder that this client calls by; returns until when it is good.

        Raises:
            UnauthenticatedError: CERTIFICATE_INVALID, what came is not trusted; the folder stays as it is.
        """
        caller, key = read_certified(identity_folder).caller, prepare_key(identity_folder)
        request = enrolment_pb2.RenewCertificateRequest(signing_request_pem=make_request(key, caller))
        response = await self._identity.RenewCertificate(request, timeout=CALL_SECONDS)
        chain_pem, bundle_pem = response.certificate_chain_pem, response.trust_bundle_pem
        return take_certificate(identity_folder, caller, chain_pem, bundle_pem, SystemClock().now()).expires_at

    async def ban_site(self, name: str) -> None:
        """Keep a name out."""
        await self._admin.BanSite(admin_pb2.BanSiteRequest(name=name), timeout=CALL_SECONDS)

    async def unban_site(self, name: str) -> None:
        """Lift a ban."""
        await self._admin.UnbanSite(admin_pb2.UnbanSiteRequest(name=name), timeout=CALL_SECONDS)

    async def revoke_certificate(self, serial: str) -> None:
        """Let one certificate be good no more."""
        await self._admin.RevokeCertificate(admin_pb2.RevokeCertificateRequest(serial=serial), timeout=CALL_SECONDS)

    async def revoke_signing_key(self, fingerprint: str) -> list[tuple[str, int]]:
        """Let no update be taken any more that this key signs; returns rounds (run, number) with one in them still."""
        request = admin_pb2.RevokeSigningKeyRequest(fingerprint=fingerprint)
        response = await self._admin.RevokeSigningKey(request, timeout=CALL_SECONDS)
        return [(each.run, each.round_number) for each in response.still_in]

    async def get_release(self, wish: ReleaseWish, max_bytes: int) -> dict[str, bytes]:
        """A release's manifest, signature and small files, by path; together at most ``max_bytes``.

        Raises:
            TransferBrokenError: CHUNK_TOO_LARGE, they are more.
        """
        request = admin_pb2.GetReleaseRequest(
            run=wish.run,
            version=wish.version,
            leaves_out_updates=not wish.with_updates,
            certificates=[each.encode("ascii") for each in wish.certificates],
        )
        parts: dict[str, list[bytes]] = {}
        async for response in self._admin.GetRelease(request):
            parts.setdefault(response.path, []).append(response.content)
            max_bytes -= len(response.content)
            if max_bytes < 0:
                raise TransferBrokenError(Reason.CHUNK_TOO_LARGE, "release: expected smaller files beside the adapters")
        return {path: b"".join(contents) for path, contents in parts.items()}

    async def download(self, digest: Digest) -> AsyncIterator[bytes]:
        """The bytes of an adapter, or of a kept update."""
        request = rounds_pb2.DownloadAdapterRequest(digest=digest)
        async for part in self._rounds.DownloadAdapter(request):
            if part.WhichOneof("part") == "chunk":
                yield part.chunk.content

    async def audit_lines(self) -> AsyncIterator[bytes]:
        """Every line of the audit log, in order."""
        after = 0
        while True:
            request = admin_pb2.ListAuditRequest(after_sequence=after)
            lines = (await self._admin.ListAudit(request, timeout=CALL_SECONDS)).lines
            if not lines:
                return
            for line in lines:
                yield line
            after += len(lines)

    async def is_serving(self) -> bool:
        """Whether the coordinator says that it serves."""
        response = await self._health.Check(health_pb2.HealthCheckRequest(), timeout=CALL_SECONDS)
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)


@asynccontextmanager
async def connect(address: str, identity_folder: Path) -> AsyncIterator[OperatorClient]:
    """A client over mutual TLS; gRPC errors inside the block become `common.errors.FedMedError`.

    Raises:
        FedMedError: with the coordinator's reason, or PEER_AWAY.
    """
    credentials = channel_credentials(load_identity(identity_folder))
    async with grpc.aio.secure_channel(address, credentials, options=CHANNEL_OPTIONS) as channel:
        try:
            yield OperatorClient(channel)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
