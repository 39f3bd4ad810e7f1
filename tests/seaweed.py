"""A real S3 server for tests: SeaweedFS on loopback, in a temporary folder, with as many buckets as they ask for."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.running import free_port, name_of, wait_until

START_SECONDS = 60.0
KEY_ID, SECRET = "fedmed", "correct-horse-battery"
READER_KEY_ID, READER_SECRET = "reader", "staple-correct-horse"
_SERVICES = ("master", "volume", "filer", "s3")
_SETTINGS = (
    "-ip=127.0.0.1",
    "-ip.bind=127.0.0.1",
    "-filer",
    "-s3",
    "-s3.config=identities.json",
    "-s3.autoCreateBucket=false",
    "-s3.iam=false",
    "-s3.port.iceberg=0",
    "-s3.port.lance=0",
    "-s3.localSocket=s3.sock",
    "-filer.localSocket=filer.sock",
    "-master.telemetry=false",
    "-master.electionTimeout=1s",
    "-master.volumeSizeLimitMB=64",
    "-volume.max=0",
    "-volume.preStopSeconds=0",
)


def binary() -> str | None:
    """The program; `make setup` puts it beside Python."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


def environment(key_id: str = KEY_ID, secret: str = SECRET) -> dict[str, str]:
    """What a process needs to use the server: keys, and no look at this machine's own."""
    return {
        "AWS_ACCESS_KEY_ID": key_id,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    }


@dataclass(slots=True)
class SeaweedServer:
    """A server: one process, which keeps what it was given when it is stopped and started again."""

    program: str
    folder: Path
    ports: dict[str, tuple[int, int]] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    _client: Any = None

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.ports['s3'][0]}"

    def start(self) -> None:
        """Start it, and wait until it takes and gives files."""
        assert self.process is None, "it runs"
        ports = [
            f"-{name}.port{suffix}={number}"
            for name, numbers in self.ports.items()
            for suffix, number in zip(("", ".grpc"), numbers, strict=True)
        ]
        # It ends with the thread that started it (the main one, then), however that ends.
        leash = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        command = [*leash, self.program, "-logtostderr", "server", "-dir=.", *_SETTINGS, *ports]
        with (self.folder / "log").open("ab") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output, cwd=self.folder)
        wait_until(self._answers, START_SECONDS)

    def stop(self) -> None:
        """End it, at once: asked to, it takes a quarter of a minute."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "log").read_text()
        client, ready = self.client(), "ready"
        try:
            if ready not in self._buckets():
                client.create_bucket(Bucket=ready)
            client.put_object(Bucket=ready, Key="file", Body=b"content")
            client.get_object(Bucket=ready, Key="file")
        except (BotoCoreError, ClientError):
            return False
        return True

    def _buckets(self) -> set[str]:
        return {each["Name"] for each in self.client().list_buckets()["Buckets"]}

    def client(self) -> Any:
        """What an administrator of the server uses."""
        if self._client is None:
            self._client = botocore.session.Session().create_client(
                "s3",
                endpoint_url=self.endpoint,
                region_name="us-east-1",
                aws_access_key_id=KEY_ID,
                aws_secret_access_key=SECRET,
                config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
            )
        return self._client

    def bucket(self, folder: Path) -> str:
        """The name of the bucket that belongs to ``folder``; made at the first call."""
        name = name_of(folder)
        if name not in self._buckets():
            self.client().create_bucket(Bucket=name)
        return name

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        """Everything that lies in a bucket and begins with ``prefix``."""
        found = self.client().list_objects_v2(Bucket=bucket, Prefix=prefix)
        return sorted(each["Key"] for each in found.get("Contents", ()))


@contextmanager
def running_seaweed(program: str) -> Iterator[SeaweedServer]:
    """Make and start a server; stopped by pid at the end."""
    folder = Path(tempfile.mkdtemp(prefix="fedmed-seaweed-"))
    try:
        (folder / "identities.json").write_text(json.dumps({"identities": _identities()}))
        # One volume a bucket, over seven: there are as many as the disk has room for.
        (folder / "master.toml").write_text("[master.volume_growth]\ncopy_1 = 1\n")
        server = SeaweedServer(program, folder, {name: (free_port(), free_port()) for name in _SERVICES})
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


def _identities() -> list[dict[str, object]]:
    return [
        {
            "name": name,
            "credentials": [{"accessKey": name, "secretKey": secret}],
            "actions": actions,
        }
        for name, secret, actions in (
            (KEY_ID, SECRET, ["Admin", "Read", "List", "Tagging", "Write"]),
            (READER_KEY_ID, READER_SECRET, ["Read", "List"]),
        )
    ]
