"""Who may call what: one table, deny by default. It decides on roles alone; ownership is the use cases' business.

Whether the caller is banned, or its certificate revoked, is `coordinator.app.standings` to say, of every rpc alike.
"""

from __future__ import annotations

from common.errors import NotAllowedError, Reason
from common.tls import Caller, Role

_AGENTS = frozenset({Role.SITE, Role.EVALUATOR})
_OPERATOR = frozenset({Role.OPERATOR})
_MEMBERS = _AGENTS | _OPERATOR
_ALL = _MEMBERS | {Role.COORDINATOR}

ROLES_BY_RPC: dict[str, frozenset[Role]] = {
    "/fedmedlora.v1.RoundService/AwaitAssignment": _AGENTS,
    "/fedmedlora.v1.RoundService/DeclineAssignment": _AGENTS,
    "/fedmedlora.v1.RoundService/DownloadAdapter": _MEMBERS,
    "/fedmedlora.v1.RoundService/GetUploadOffset": _AGENTS,
    "/fedmedlora.v1.RoundService/UploadUpdate": _AGENTS,
    "/fedmedlora.v1.RoundService/ReportProgress": _AGENTS,
    "/fedmedlora.v1.RoundService/ReportEvaluation": frozenset({Role.EVALUATOR}),
    "/fedmedlora.v1.RoundService/GetServerTime": _AGENTS,
    "/fedmedlora.v1.RegistryService/ListAdapterVersions": _MEMBERS,
    "/fedmedlora.v1.AdminService/CreateRun": _OPERATOR,
    "/fedmedlora.v1.AdminService/ListRuns": _OPERATOR,
    "/fedmedlora.v1.AdminService/GetRun": _OPERATOR,
    "/fedmedlora.v1.AdminService/WatchRun": _OPERATOR,
    "/fedmedlora.v1.AdminService/AbortRun": _OPERATOR,
    "/fedmedlora.v1.AdminService/PauseRun": _OPERATOR,
    "/fedmedlora.v1.AdminService/ResumeRun": _OPERATOR,
    "/fedmedlora.v1.AdminService/ExtendDeadline": _OPERATOR,
    "/fedmedlora.v1.AdminService/ListSites": _OPERATOR,
    "/fedmedlora.v1.AdminService/CreateJoinToken": _OPERATOR,
    "/fedmedlora.v1.AdminService/BanSite": _OPERATOR,
    "/fedmedlora.v1.AdminService/UnbanSite": _OPERATOR,
    "/fedmedlora.v1.AdminService/RevokeCertificate": _OPERATOR,
    "/fedmedlora.v1.AdminService/RevokeSigningKey": _OPERATOR,
    "/fedmedlora.v1.IdentityService/RenewCertificate": _MEMBERS,
    "/fedmedlora.v1.IdentityService/Withdraw": _AGENTS,
    "/fedmedlora.v1.AdminService/GetRelease": _OPERATOR,
    "/fedmedlora.v1.AdminService/ListAudit": _OPERATOR,
    "/grpc.health.v1.Health/Check": _ALL,
    "/grpc.health.v1.Health/Watch": _ALL,
}

# On a port of its own, for who has no certificate yet: here the join token says who the caller is.
RPCS_BY_JOIN_TOKEN = frozenset({"/fedmedlora.v1.EnrolmentService/Enrol"})


def authorise(caller: Caller, rpc: str, consortium: str) -> None:
    """Let ``caller`` call ``rpc``, or say why not.

    Raises:
        NotAllowedError: ROLE_NOT_ALLOWED.
    """
    if caller.consortium != consortium:
        raise NotAllowedError(
            Reason.ROLE_NOT_ALLOWED, f"certificate: expected one of consortium {consortium}, got {caller.consortium}"
        )
    allowed = ROLES_BY_RPC.get(rpc, frozenset())
    if caller.role not in allowed:
        expected = ", ".join(sorted(allowed)) or "nobody"
        raise NotAllowedError(
            Reason.ROLE_NOT_ALLOWED, f"{rpc} is for {expected}, not for a certificate of role {caller.role}"
        )
