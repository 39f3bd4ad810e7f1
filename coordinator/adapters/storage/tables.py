"""The schema of the store, for queries. `migrations/` creates it; a test holds the two together."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, DateTime, ForeignKey, Integer, MetaData, String, Table, Text

METADATA = MetaData()

RUNS = Table(
    "runs",
    METADATA,
    Column("run_id", String(32), primary_key=True),
    Column("name", String(63), nullable=False, unique=True),
    Column("state", String(16), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("document", Text, nullable=False),  # the run without its rounds, as coordinator.adapters.storage.codec
)

ROUNDS = Table(
    "rounds",
    METADATA,
    Column("run_id", String(32), ForeignKey("runs.run_id"), primary_key=True),
    Column("round_number", Integer, primary_key=True),
    Column("phase", String(16), nullable=False),
    Column("document", Text, nullable=False),
)

COMMANDS = Table(
    "commands",
    METADATA,
    Column("position", Integer, primary_key=True, autoincrement=True),
    Column("command_id", String(128), nullable=False, unique=True),
    Column("run_id", String(32), ForeignKey("runs.run_id"), nullable=False),
    Column("round_number", Integer, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("completed", Integer, nullable=False, server_default="0"),
)

SITES = Table(
    "sites",
    METADATA,
    Column("name", String(63), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("last_seen_at", DateTime(timezone=True), nullable=False),
)

CLOCK = Table(
    "clock",
    METADATA,
    Column("key", Integer, primary_key=True, autoincrement=False),  # always 1: there is one row
    Column("counted_until", DateTime(timezone=True), nullable=False),
)

WRITER = Table(
    "writer",
    METADATA,
    Column("key", Integer, primary_key=True, autoincrement=False),  # always 1: there is one row
    Column("epoch", BigInteger, nullable=False),
    Column("last_transaction", String, nullable=True),
)

STORE = Table(
    "store",
    METADATA,
    Column("key", Integer, primary_key=True, autoincrement=False),  # always 1: there is one row
    Column("store_id", String(32), nullable=False),
)

TRAFFIC = Table(
    "traffic",
    METADATA,
    Column("run_id", String(32), ForeignKey("runs.run_id"), primary_key=True),
    Column("round_number", Integer, primary_key=True),
    Column("site", String(63), primary_key=True),
    Column("upload_bytes", BigInteger, nullable=False),
    Column("download_bytes", BigInteger, nullable=False),
)

AUDIT = Table(
    "audit",
    METADATA,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("line", Text, nullable=False),  # canonical JSON, chained: see common.hash_chain
)

MEMBERS = Table(
    "members",
    METADATA,
    Column("name", String(63), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("standing", String(16), nullable=False),
    Column("enrolled_at", DateTime(timezone=True), nullable=True),
    Column("signing_public_key", String(64), nullable=False),
)

JOIN_TOKENS = Table(
    "join_tokens",
    METADATA,
    Column("token_hash", String(71), primary_key=True),
    Column("name", String(63), nullable=False),
    Column("role", String(16), nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("spent_by", String(71), nullable=True),
)

REVOKED_KEYS = Table(
    "revoked_keys",
    METADATA,
    Column("fingerprint", String(71), primary_key=True),
    Column("revoked_at", DateTime(timezone=True), nullable=False),
)

CERTIFICATES = Table(
    "certificates",
    METADATA,
    Column("serial", String(40), primary_key=True),  # at most 20 octets (RFC 5280, section 4.1.2.2), in hex
    Column("name", String(63), nullable=False),
    Column("key_digest", String(71), nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("revoked_at", DateTime(timezone=True), nullable=True),
)
