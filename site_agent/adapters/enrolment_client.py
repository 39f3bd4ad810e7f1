"""Gets a certificate over the wire: the first one for a join token, later ones for the one at hand; and gives it back.

The private key is made here and stays here: what travels is a signing request.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import grpc.aio

from common.clock import SystemClock
from common.errors import Reason
from common.identity_folder import prepare_key, prepare_signing_key, take_certificate
from common.join_file import JoinFile
from common.rpc_errors import from_rpc_error
from common.signing_requests import make_request
from common.tls import Caller
from fedmedlora.v1 import enrolment_pb2, enrolment_pb2_grpc
from site_agent.adapters.recorded_channel import Dial, RecordedChannel
from site_agent.adapters.rpc_client import CALL_SECONDS


async def enrol(join: JoinFile, folder: Path, dial: Dial) -> datetime:
    """Become the member that the join file is for; returns until when the certificate is good.

    Asked again after a failure it goes on with the key that lies there, with which alone the token can be spent.

    Raises:
        FedMedError: The coordinator said no, or does not answer; or the folder belongs to somebody else.
        OSError: The folder cannot be written to.
    """
    key, signing_key = prepare_key(folder), prepare_signing_key(folder)
    request = enrolment_pb2.EnrolRequest(
        token=join.token, signing_request_pem=make_request(key, join.caller), signing_public_key=signing_key
    )
    async with dial.first_channel(join.ca_certificate_pem) as channel:
        stub = channel.stub(enrolment_pb2_grpc.EnrolmentServiceStub)
        try:
            response = await stub.Enrol(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
    chain_pem, bundle_pem = response.certificate_chain_pem, response.trust_bundle_pem
    return take_certificate(folder, join.caller, chain_pem, bundle_pem, SystemClock().now()).expires_at


async def renew(channel: RecordedChannel, caller: Caller, folder: Path) -> datetime:
    """Put a new key and its certificate in place of those that ``channel`` was opened with; raises as `enrol`."""
    key = prepare_key(folder)
    request = enrolment_pb2.RenewCertificateRequest(
        signing_request_pem=make_request(key, caller), signing_public_key=prepare_signing_key(folder)
    )
    stub = channel.stub(enrolment_pb2_grpc.IdentityServiceStub)
    try:
        response = await stub.RenewCertificate(request, timeout=CALL_SECONDS)
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from None
    chain_pem, bundle_pem = response.certificate_chain_pem, response.trust_bundle_pem
    return take_certificate(folder, caller, chain_pem, bundle_pem, SystemClock().now()).expires_at


async def withdraw(channel: RecordedChannel) -> None:
    """End this site's membership; that it had ended before is no error.

    Raises:
        FedMedError: The coordinator said no, or does not answer.
    """
    stub = channel.stub(enrolment_pb2_grpc.IdentityServiceStub)
    try:
        await stub.Withdraw(enrolment_pb2.WithdrawRequest(), timeout=CALL_SECONDS)
    except grpc.aio.AioRpcError as error:
        meant = from_rpc_error(error)
        if meant.reason is not Reason.SITE_WITHDRAWN:
            raise meant from None
