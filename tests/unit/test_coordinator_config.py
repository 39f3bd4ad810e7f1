"""The coordinator's configuration: which databases and buckets it takes, and that no password is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.config import load_toml
from common.errors import InputInvalidError, Reason
from coordinator.config import CoordinatorConfig


def load(folder: Path, database: str) -> CoordinatorConfig:
    config = folder / "coordinator.toml"
    config.write_text(f'[coordinator]\nstate_folder = "state"\n{database}\n[identity]\nfolder = "identity"\n')
    return load_toml(config, CoordinatorConfig)


@pytest.mark.parametrize("line", ["", 'database = ""'])
def test_without_a_database_runs_are_kept_in_the_state_folder(tmp_path: Path, line: str) -> None:
    assert load(tmp_path, line).coordinator.database.get_secret_value() == ""


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://fedmed:secret@db.example.org:5432/runs?sslmode=verify-full",
        "postgresql+psycopg://fedmed@db.example.org/runs",
        "postgresql+psycopg:///runs?host=/run/postgresql",
        "postgresql+psycopg://",
    ],
)
def test_a_url_of_postgres_is_taken_and_hidden(tmp_path: Path, url: str) -> None:
    loaded = load(tmp_path, f'database = "{url}"')
    assert loaded.coordinator.database.get_secret_value() == url
    assert "db.example.org" not in repr(loaded)


@pytest.mark.parametrize(
    "value",
    [
        '"mysql://fedmed:secret@localhost/runs"',
        '"postgresql://fedmed:secret@localhost/runs"',
        '"postgresql+asyncpg://fedmed:secret@localhost/runs"',
        '"sqlite:///secret.db"',
        '"postgresql+psycopg://fedmed:sec@ret@localhost/runs"',
        '"postgresql+psycopg://fedmed:x@localhost:secret/runs"',
        '"postgresql+psycopg://fedmed@localhost/runs?password=secret"',
        '"postgresql+psycopg://fedmed@localhost/runs?sslpassword=secret"',
        '"postgresql+psycopg://[secret"',
        '["postgresql+psycopg://fedmed:secret@localhost/runs"]',
        '{ password = "secret" }',
        "7",
    ],
)
def test_anything_else_is_refused_and_not_shown(tmp_path: Path, value: str) -> None:
    with pytest.raises(InputInvalidError) as refused:
        load(tmp_path, f"database = {value}")
    assert refused.value.reason is Reason.CONFIG_INVALID
    assert "coordinator.database: expected" in refused.value.message
    assert "secret" not in str(refused.value)


def load_blobs(folder: Path, lines: str) -> CoordinatorConfig:
    return load(folder, f"[blobs]\n{lines}")


def test_without_a_bucket_files_are_kept_in_the_state_folder(tmp_path: Path) -> None:
    assert load(tmp_path, "").blobs.bucket == load_blobs(tmp_path, 'bucket = ""').blobs.bucket == ""


def test_a_bucket_is_taken_with_where_it_is(tmp_path: Path) -> None:
    assert load_blobs(tmp_path, 'bucket = "fedmed-blobs"').blobs.endpoint == ""
    lines = 'bucket = "fedmed-blobs"\nprefix = "trials/one/"\nendpoint = "https://s3.example.org:9000"\nregion = "eu-1"'
    loaded = load_blobs(tmp_path, lines).blobs
    assert (loaded.prefix, loaded.endpoint, loaded.region) == ("trials/one/", "https://s3.example.org:9000", "eu-1")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('bucket = "Fedmed"', "blobs.bucket: "),
        ('bucket = "a/b"', "blobs.bucket: "),
        ('prefix = "one/"', "blobs: expected a bucket beside prefix, endpoint and region"),
        ('bucket = "blobs"\nprefix = "one"', "blobs.prefix: "),
        ('bucket = "blobs"\nprefix = "/one/"', "blobs.prefix: "),
        ('bucket = "blobs"\nprefix = "../one/"', "blobs.prefix: "),
        ('bucket = "blobs"\nregion = "eu 1"', "blobs.region: "),
        ('bucket = "blobs"\nsecret_key = "secret"', "blobs.secret_key: unknown key"),
        ('bucket = "blobs"\nendpoint = "https://key:secret@s3.example.org"', "blobs.endpoint: expected "),
        ('bucket = "blobs"\nendpoint = "https://s3.example.org/?key=secret"', "blobs.endpoint: expected "),
        ('bucket = "blobs"\nendpoint = "https://s3.example.org/secret"', "blobs.endpoint: expected "),
        ('bucket = "blobs"\nendpoint = "https://s3.example.org:secret"', "blobs.endpoint: expected "),
        ('bucket = "blobs"\nendpoint = "https://[secret"', "blobs.endpoint: expected "),
        ('bucket = "blobs"\nendpoint = "s3.example.org"', "blobs.endpoint: expected "),
        ('bucket = "blobs"\nendpoint = "ftp://s3.example.org"', "blobs.endpoint: expected "),
        ('bucket = "blobs"\nendpoint = "https://"', "blobs.endpoint: expected "),
    ],
)
def test_a_bucket_that_is_none_is_refused(tmp_path: Path, line: str, expected: str) -> None:
    with pytest.raises(InputInvalidError) as refused:
        load_blobs(tmp_path, line)
    assert refused.value.reason is Reason.CONFIG_INVALID
    assert expected in refused.value.message
    assert "secret" not in refused.value.message.replace("secret_key", "")
