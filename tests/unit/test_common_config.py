from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from common.config import (
    ByteSize,
    ConfigPath,
    ListenAddress,
    LogLevel,
    Seconds,
    SecretPath,
    load_toml,
    parse_bytes,
    parse_seconds,
)
from common.errors import InputInvalidError, Reason


class Store(BaseModel):
    folder: ConfigPath
    limit: ByteSize = 2**20


class Config(BaseModel):
    poll_hold: Seconds
    workers: int
    store: Store
    key: SecretPath | None = None


GOOD = 'poll_hold = "30s"\nworkers = 2\n[store]\nfolder = "state"\nlimit = "64MiB"\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def problems_of(path: Path, text: str) -> list[str]:
    path.write_text(text)
    with pytest.raises(InputInvalidError) as caught:
        load_toml(path, Config)
    assert caught.value.reason is Reason.CONFIG_INVALID
    first, *problems = caught.value.message.splitlines()
    assert first == f"{path}:"
    return [problem.strip() for problem in problems]


def test_a_good_file_is_read_whole(path: Path) -> None:
    path.write_text(GOOD)
    expected = Config.model_construct(
        poll_hold=30.0, workers=2, store=Store.model_construct(folder=path.parent / "state", limit=64 * 2**20)
    )
    assert load_toml(path, Config) == expected


def test_all_problems_are_listed_at_once(path: Path) -> None:
    text = 'poll_hold = 30\nworkers = "two"\nwokers = 3\n[store]\nlimit = "64MB"\ncolour = "red"\n'
    assert problems_of(path, text) == [
        "poll_hold: expected a duration such as '30s', '10m', '2h' or '1d', got 30",
        "workers: Input should be a valid integer, got 'two'",
        "store.folder: expected a value, got none",
        "store.limit: expected a whole number of bytes such as '512B', '64MiB' or '2GiB', got '64MB'",
        "store.colour: unknown key",
        "wokers: unknown key",
    ]


@pytest.mark.parametrize("workers", ["'2'", "2.0", "true", "2026-01-01"])
def test_types_are_not_guessed(path: Path, workers: str) -> None:
    (problem,) = problems_of(path, GOOD.replace("workers = 2", f"workers = {workers}"))
    assert problem.startswith("workers: ")


def test_what_is_not_toml_is_refused_by_line_and_column(path: Path) -> None:
    (problem,) = problems_of(path, "poll_hold = \n")
    assert "line 1, column 13" in problem


@pytest.mark.parametrize("content", [None, b"\xff"])
def test_a_file_that_cannot_be_read_is_refused(path: Path, content: bytes | None) -> None:
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputInvalidError) as caught:
        load_toml(path, Config)
    assert caught.value.reason is Reason.CONFIG_INVALID


def test_a_secret_in_the_place_of_its_path_is_refused_and_not_shown(path: Path) -> None:
    secret = "-----BEGIN PRIVATE KEY-----" + "s3cr3t" * 20
    (problem,) = problems_of(path, f'key = "{secret}"\n' + GOOD)
    assert "got the secret" in problem and "s3cr3t" not in problem


def test_relative_paths_begin_at_the_files_folder_and_absolute_ones_stay(path: Path) -> None:
    path.write_text('key = "/run/secrets/key"\n' + GOOD)
    config = load_toml(path, Config)
    assert (config.store.folder, config.key) == (path.parent / "state", Path("/run/secrets/key"))


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("30s", 30), ("10m", 600), ("1.5h", 5400), ("2d", 172_800), ("0s", 0)]
)
def test_durations_are_read_in_seconds(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "s", "30 s", "-1s", "1w", "1h30m", "1e3s", "٣s", "30S", 30, None, True])
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        parse_seconds(text)


@pytest.mark.parametrize(("text", "size"), [("1B", 1), ("1.5KiB", 1536), ("64MiB", 2**26), ("2GiB", 2**31)])
def test_sizes_are_read_in_bytes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "64", "64MB", "1.5B", "0.3KiB", "-1B", 64])
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="expected a whole number of bytes"):
        parse_bytes(text)


class Listening(BaseModel):
    address: ListenAddress
    level: LogLevel = "INFO"


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:8443", "coordinator.example:65535", ""])
def test_an_address_is_host_and_port_or_nowhere(path: Path, address: str) -> None:
    path.write_text(f'address = "{address}"\n')
    assert load_toml(path, Listening).address == address


@pytest.mark.parametrize("address", ["8443", ":8443", "localhost:", "localhost", "localhost:65536", "localhost:-1"])
def test_what_is_no_address_is_refused(path: Path, address: str) -> None:
    path.write_text(f'address = "{address}"\n')
    with pytest.raises(InputInvalidError, match="address: expected host:port"):
        load_toml(path, Listening)
