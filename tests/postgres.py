"""A real PostgreSQL for tests: a server of its own in a temporary folder, and as many databases as they ask for."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from tests.running import free_port, name_of, wait_until

START_SECONDS = 60.0
USER, PASSWORD = "fedmed", "correct-horse"
# A language's order, in which "a-c" stands after "ab": what is sorted by name must not depend on it.
_INITDB = ("--locale-provider=icu", "--icu-locale=en", "--encoding=UTF8", "--locale=C", "--auth-local=trust")
_SETTINGS = ("fsync=off", "shared_buffers=16MB", "max_connections=40", "timezone=Asia/Kolkata")


def binaries() -> Path | None:
    """The folder with initdb and postgres of the newest version that is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return None if on_path is None else Path(on_path).resolve().parent


@dataclass(slots=True)
class PostgresServer:
    """A server; over TCP it asks for the password."""

    bin: Path
    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        settings = [f"port={self.port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={self.folder}"]
        options = [part for each in (*settings, *_SETTINGS) for part in ("-c", each)]
        # It ends with the thread that started it (the main one, then), however that ends.
        leash = ["setpriv", "--pdeathsig", "INT", *_unprivileged()] if shutil.which("setpriv") else []
        with (self.folder / "log").open("ab") as output:
            command = [*leash, str(self.bin / "postgres"), "-D", str(self.folder / "data"), *options]
            self.process = subprocess.Popen(command, stdout=output, stderr=output, cwd="/")
        wait_until(self._answers, START_SECONDS)

    def stop(self) -> None:
        """End it as `pg_ctl stop -m fast` does: sessions are ended, transactions undone."""
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(START_SECONDS)
            self.process = None

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "log").read_text()
        with suppress(psycopg.OperationalError), psycopg.connect(self._conninfo("postgres")):
            return True
        return False

    def _conninfo(self, database: str) -> str:
        return f"host={self.folder} port={self.port} user={USER} dbname={database}"

    def execute(self, statement: str, *values: object, database: str = "postgres") -> list[tuple[Any, ...]]:
        """What an administrator does."""
        with psycopg.connect(self._conninfo(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def database(self, folder: Path) -> str:
        """The name of the database that belongs to ``folder``; made at the first call."""
        name = name_of(folder)
        if not self.execute("SELECT 1 FROM pg_database WHERE datname = %s", name):
            self.execute(f"CREATE DATABASE {name}")
        return name

    def url(self, folder: Path) -> str:
        """The URL of that database, over TCP."""
        return f"postgresql+psycopg://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{self.database(folder)}"

    def end_sessions(self, folder: Path, which: str = "true") -> int:
        """End the sessions of coordinators on that database for which ``which`` holds; how many there were."""
        ended = self.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            f"WHERE datname = %s AND application_name = 'fedmed-coordinator' AND {which}",
            self.database(folder),
        )
        return len(ended)


# The sessions that hold a lock of that kind.
LOCK_SESSION = "pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory')"


@contextmanager
def running_postgres(bin_folder: Path) -> Iterator[PostgresServer]:
    """Make and start a server; stopped by pid at the end."""
    folder = Path(tempfile.mkdtemp(prefix="fedmed-postgres-"))
    try:
        password = folder / "password"
        password.write_text(PASSWORD)
        if os.geteuid() == 0:
            user = _user()
            for path in (folder, password):
                os.chown(path, user.pw_uid, user.pw_gid)
        initdb = [str(bin_folder / "initdb"), "-D", str(folder / "data"), "-U", USER, f"--pwfile={password}"]
        arguments = [*_INITDB, "--auth-host=scram-sha-256", "--no-sync"]
        as_user = ["setpriv", *_unprivileged()] if os.geteuid() == 0 else []
        subprocess.run([*as_user, *initdb, *arguments], check=True, capture_output=True, cwd="/")
        server = PostgresServer(bin_folder, folder, free_port())
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


def _unprivileged() -> list[str]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return []
    return [f"--reuid={_user().pw_uid}", f"--regid={_user().pw_gid}", "--clear-groups"]


def _user() -> pwd.struct_passwd:
    with suppress(KeyError):
        return pwd.getpwnam("postgres")
    return pwd.getpwnam("nobody")
