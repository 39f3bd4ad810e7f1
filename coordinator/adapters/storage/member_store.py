"""Members, join tokens and certificates in the run store's database, one transaction a decision. It decides nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Row, Table, delete, insert, select, update

from common.ids import Digest, Role, SiteName
from coordinator.adapters.storage import audit_log
from coordinator.adapters.storage.tables import CERTIFICATES, JOIN_TOKENS, MEMBERS, REVOKED_KEYS
from coordinator.app.ports import Membership
from coordinator.domain.audit import AuditEvent
from coordinator.domain.enrolment import (
    MAX_TOKEN_LIFETIME,
    IssuedCertificate,
    JoinToken,
    Member,
    Standing,
    refusal_of_standing,
)

T = TypeVar("T")


class Transactions(Protocol):
    """Whoever runs a transaction on the store's one thread."""

    def transact(self, work: Callable[[Connection], T]) -> Awaitable[T]:
        """What ``work`` gives, committed."""


class SqlMemberStore:
    """Implements `coordinator.app.ports.MemberStore`."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def membership(self) -> Membership:
        """Everything that is known of members and certificates."""
        return await self._transactions.transact(_membership)

    async def add_token(self, token: JoinToken, event: AuditEvent) -> None:
        """Store a token; those that expired long before are forgotten."""
        await self._transact(event, lambda connection: _add_token(connection, token, event.at))

    async def token(self, token_hash: Digest) -> JoinToken | None:
        """The token of that hash."""
        return await self._transactions.transact(lambda connection: _token(connection, token_hash))

    async def enrol(
        self, token_hash: Digest, member: Member, certificate: IssuedCertificate, event: AuditEvent
    ) -> bool:
        """Spend the token, admit the member, note the certificate, revoke those of the name's other keys; or nothing.

        Returns:
            Whether the token was still the certificate's key's to spend.
        """

        def work(connection: Connection) -> bool:
            is_admitted = _enrol(connection, token_hash, member, certificate, event.at)
            audit_log.append(connection, [event] if is_admitted else [])
            return is_admitted

        return await self._transactions.transact(work)

    async def add_certificate(self, certificate: IssuedCertificate, event: AuditEvent) -> None:
        """Note a certificate, before it is handed out; those that have expired are forgotten."""
        await self._transact(event, lambda connection: _add_certificate(connection, certificate, event.at))

    async def save_member(self, member: Member, event: AuditEvent | None = None) -> None:
        """Store how a name stands; one that is out comes back by none of its spent tokens."""
        await self._transact(event, lambda connection: _stand(connection, member))

    async def revoke(self, certificate: IssuedCertificate, event: AuditEvent) -> None:
        """Note that a certificate is good no more, whether issued here or not, nor its name's spent tokens."""
        await self._transact(event, lambda connection: _revoke(connection, certificate))

    async def revoke_key(self, fingerprint: Digest, event: AuditEvent) -> None:
        """Note that a signing key counts no more; noting it again is no error."""
        await self._transact(event, lambda connection: _revoke_key(connection, fingerprint, event.at))

    async def _transact(self, event: AuditEvent | None, work: Callable[[Connection], None]) -> None:
        def told(connection: Connection) -> None:
            work(connection)
            audit_log.append(connection, [event] if event is not None else [])

        await self._transactions.transact(told)


def _membership(connection: Connection) -> Membership:
    members = (
        Member(
            name=SiteName(row.name),
            role=Role(row.role) if row.role else None,
            standing=Standing(row.standing),
            enrolled_at=_utc(row.enrolled_at),
            signing_public_key=row.signing_public_key,
        )
        for row in connection.execute(select(MEMBERS))
    )
    certificates = (
        IssuedCertificate(
            serial=row.serial,
            name=row.name,
            key_digest=row.key_digest,
            expires_at=_at(row.expires_at),
            revoked_at=_utc(row.revoked_at),
        )
        for row in connection.execute(select(CERTIFICATES))
    )
    return Membership(
        members=tuple(sorted(members, key=lambda member: member.name)),
        certificates=tuple(sorted(certificates, key=lambda each: (each.expires_at, each.serial))),
        revoked_keys=frozenset(Digest(row.fingerprint) for row in connection.execute(select(REVOKED_KEYS))),
    )


def _token(connection: Connection, token_hash: Digest) -> JoinToken | None:
    row = connection.execute(select(JOIN_TOKENS).where(JOIN_TOKENS.c.token_hash == token_hash)).first()
    return None if row is None else _read_token(row)


def _read_token(row: Row[Any]) -> JoinToken:
    return JoinToken(
        token_hash=Digest(row.token_hash),
        name=SiteName(row.name),
        role=Role(row.role),
        expires_at=_at(row.expires_at),
        spent_by=None if row.spent_by is None else Digest(row.spent_by),
    )


def _add_token(connection: Connection, token: JoinToken, at: datetime) -> None:
    connection.execute(delete(JOIN_TOKENS).where(JOIN_TOKENS.c.expires_at < at - MAX_TOKEN_LIFETIME))
    _insert(connection, JOIN_TOKENS, _token_row(token))


def _token_row(token: JoinToken) -> dict[str, object]:
    return {
        "token_hash": token.token_hash,
        "name": token.name,
        "role": str(token.role),
        "expires_at": token.expires_at,
        "spent_by": token.spent_by,
    }


def _enrol(
    connection: Connection, token_hash: Digest, member: Member, certificate: IssuedCertificate, at: datetime
) -> bool:
    token = _token(connection, token_hash)
    if token is None or token.spent_by not in (None, certificate.key_digest):
        return False
    _close_spent_tokens(connection, member.name)
    spent = update(JOIN_TOKENS).where(JOIN_TOKENS.c.token_hash == token_hash)
    connection.execute(spent.values(spent_by=certificate.key_digest))
    _save_member(connection, member)
    others = update(CERTIFICATES).where(
        CERTIFICATES.c.name == member.name,
        CERTIFICATES.c.key_digest != certificate.key_digest,
        CERTIFICATES.c.revoked_at.is_(None),
    )
    connection.execute(others.values(revoked_at=at))
    _add_certificate(connection, certificate, at)
    return True


def _stand(connection: Connection, member: Member) -> None:
    _save_member(connection, member)
    if refusal_of_standing(member.standing) is not None:
        _close_spent_tokens(connection, member.name)


def _close_spent_tokens(connection: Connection, name: str) -> None:
    """Whoever spent a token of that name cannot come again with it."""
    spent = update(JOIN_TOKENS).where(JOIN_TOKENS.c.name == name, JOIN_TOKENS.c.spent_by.is_not(None))
    connection.execute(spent.values(spent_by=""))


def _save_member(connection: Connection, member: Member) -> None:
    row: dict[str, object] = {
        "name": member.name,
        "role": "" if member.role is None else str(member.role),
        "standing": str(member.standing),
        "enrolled_at": member.enrolled_at,
        "signing_public_key": member.signing_public_key,
    }
    if connection.execute(update(MEMBERS).where(MEMBERS.c.name == member.name).values(row)).rowcount == 0:
        _insert(connection, MEMBERS, row)


def _add_certificate(connection: Connection, certificate: IssuedCertificate, at: datetime) -> None:
    connection.execute(delete(CERTIFICATES).where(CERTIFICATES.c.expires_at < at))
    _insert(connection, CERTIFICATES, _certificate_row(certificate))


def _certificate_row(certificate: IssuedCertificate) -> dict[str, object]:
    return {
        "serial": certificate.serial,
        "name": certificate.name,
        "key_digest": certificate.key_digest,
        "expires_at": certificate.expires_at,
        "revoked_at": certificate.revoked_at,
    }


def _revoke(connection: Connection, certificate: IssuedCertificate) -> None:
    _close_spent_tokens(connection, certificate.name)
    known = update(CERTIFICATES).where(CERTIFICATES.c.serial == certificate.serial)
    if connection.execute(known.values(revoked_at=certificate.revoked_at)).rowcount == 0:
        _insert(connection, CERTIFICATES, _certificate_row(certificate))


def _revoke_key(connection: Connection, fingerprint: Digest, at: datetime) -> None:
    known = select(REVOKED_KEYS).where(REVOKED_KEYS.c.fingerprint == fingerprint)
    if connection.execute(known).first() is None:
        _insert(connection, REVOKED_KEYS, {"fingerprint": fingerprint, "revoked_at": at})


def _insert(connection: Connection, table: Table, row: dict[str, object]) -> None:
    connection.execute(insert(table).values(row))


def _utc(at: datetime | None) -> datetime | None:
    return None if at is None else _at(at)


def _at(at: datetime) -> datetime:
    """SQLite keeps no time zone, and PostgreSQL gives the session's; everything stored is UTC."""
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
