"""EnrolmentService and IdentityService: how certificates are got, renewed and given back. Decides nothing."""

from __future__ import annotations

import asyncio
import re
from typing import Any
from urllib.parse import unquote

import grpc.aio
from structlog.typing import FilteringBoundLogger

from common.errors import FedMedError, OverloadedError, Reason
from common.logging import log_fault
from common.rpc_errors import abort_with, internal_error
from common.tls import caller_from_context, peer_from_context
from coordinator.adapters.metrics import CoordinatorMetrics
from coordinator.adapters.rpc.translate import timestamp
from coordinator.app.enrol_site import Application, Enrolment
from coordinator.app.members import Members
from coordinator.app.refusal_log import INTERVAL_SECONDS
from fedmedlora.v1 import enrolment_pb2, enrolment_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]
# Whoever is on this port is unknown: so many calls of all of them are heard at once.
MAX_OPEN_ENROLMENTS = 16
# Far above a token's length: what is longer is none.
MAX_TOKEN_LENGTH = 256


class EnrolmentServicer(enrolment_pb2_grpc.EnrolmentServiceServicer):
    """Implements ``fedmedlora.v1.EnrolmentService``, guard included: no certificate says who its callers are."""

    def __init__(self, enrolment: Enrolment, metrics: CoordinatorMetrics, log: FilteringBoundLogger) -> None:
        self._enrolment = enrolment
        self._metrics = metrics
        self._log = log
        self._open_count = 0

    async def Enrol(self, request: enrolment_pb2.EnrolRequest, context: Context) -> enrolment_pb2.EnrolResponse:
        """See the proto."""
        self._open_count += 1
        try:
            return await self._enrol(request, context)
        except FedMedError as error:
            self._metrics.enrolment_refused(error.reason)
            self._log.warning("enrolment_refused", reason=error.reason)
            await abort_with(context, error)
        except (grpc.aio.AbortError, grpc.aio.UsageError):
            raise
        except Exception as error:
            await abort_with(context, internal_error(log_fault(self._log, "enrolment_failed", error)))
        finally:
            self._open_count -= 1

    async def _enrol(self, request: enrolment_pb2.EnrolRequest, context: Context) -> enrolment_pb2.EnrolResponse:
        if self._open_count > MAX_OPEN_ENROLMENTS:
            message = f"enrolment: expected at most {MAX_OPEN_ENROLMENTS} calls at once, got another"
            raise OverloadedError(Reason.TOO_MANY_STREAMS, message)
        application = Application(
            request_pem=request.signing_request_pem, signing_public_key=request.signing_public_key
        )
        certified = await self._enrolment.enrol(
            source_of(context.peer()), request.token[:MAX_TOKEN_LENGTH], application
        )
        self._log.info("site_enrolled")
        return enrolment_pb2.EnrolResponse(
            certificate_chain_pem=certified.chain_pem, trust_bundle_pem=certified.trust_bundle_pem
        )


async def keep_refusals_told(enrolment: Enrolment, log: FilteringBoundLogger) -> None:
    """For ever: see to it that refusals that were counted get into the audit log, also when no other one follows."""
    while True:
        await asyncio.sleep(INTERVAL_SECONDS)
        try:
            await enrolment.tell_refusals()
        except Exception as error:  # a full disk, say: they are counted on
            log_fault(log, "refusals_not_audited", error)


def source_of(peer: str) -> str:
    """Where a call comes from, as gRPC says it: an IPv4 address, or the network of 64 bits of an IPv6 one."""
    match = re.fullmatch(r"ipv[46]:\[?([^\]]+)\]?:\d+", unquote(peer))
    address = match[1] if match else peer
    return ":".join(address.split(":")[:4]) + "::/64" if ":" in address and match else address


class IdentityServicer(enrolment_pb2_grpc.IdentityServiceServicer):
    """Implements ``fedmedlora.v1.IdentityService``."""

    def __init__(self, enrolment: Enrolment, members: Members) -> None:
        self._enrolment = enrolment
        self._members = members

    async def RenewCertificate(
        self, request: enrolment_pb2.RenewCertificateRequest, context: Context
    ) -> enrolment_pb2.RenewCertificateResponse:
        """See the proto."""
        application = Application(
            request_pem=request.signing_request_pem, signing_public_key=request.signing_public_key
        )
        certified = await self._enrolment.renew(peer_from_context(context), application)
        return enrolment_pb2.RenewCertificateResponse(
            certificate_chain_pem=certified.chain_pem, trust_bundle_pem=certified.trust_bundle_pem
        )

    async def Withdraw(
        self, request: enrolment_pb2.WithdrawRequest, context: Context
    ) -> enrolment_pb2.WithdrawResponse:
        """See the proto."""
        return enrolment_pb2.WithdrawResponse(
            withdrawn_at=timestamp(await self._members.withdraw(caller_from_context(context)))
        )
