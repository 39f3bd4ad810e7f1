"""Brings a release from the coordinator into a folder, whole or not at all. Verifies nothing but digests."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from common.errors import InputInvalidError, Reason, TransferBrokenError
from common.files import make_folder, sync_file, sync_folder, write_whole
from common.weights_io import file_digest
from coordinator.adapters.rpc.operator_client import OperatorClient
from coordinator.app.make_release import ReleaseWish
from coordinator.app.release_manifest import MANIFEST_FILE, Manifest, ReleaseFile, decode_manifest

# Names that the coordinator may give to files in a folder of ours: none that leads out of it.
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*){0,2}")
MAX_SMALL_BYTES = 2**30


async def fetch_release(client: OperatorClient, wish: ReleaseWish, out: Path) -> Manifest:
    """Fill ``out``, a folder that is not there yet, or is empty.

    Raises:
        InputInvalidError: CONFIG_INVALID, it holds something.
        TransferBrokenError: DIGEST_DIFFERS, or another that passes; nothing is left.
        FedMedError: the coordinator said no.
    """
    draft = _draft_of(out)
    try:
        manifest = await _fill(client, wish, draft)
        _put(draft, out)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return manifest


def _draft_of(out: Path) -> Path:
    """An empty folder beside ``out``."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputInvalidError(Reason.CONFIG_INVALID, f"{out}: expected a new or an empty folder")
    draft = out.absolute().with_name(f".{out.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    make_folder(draft)
    return draft


def _put(draft: Path, out: Path) -> None:
    for path in draft.rglob("*"):
        if path.is_dir():
            sync_folder(path)
        else:
            sync_file(path)
    sync_folder(draft)
    draft.replace(out)
    sync_folder(draft.parent)


async def _fill(client: OperatorClient, wish: ReleaseWish, folder: Path) -> Manifest:
    small = await client.get_release(wish, MAX_SMALL_BYTES)
    for path, content in small.items():
        write_whole(_place(folder, path), content)
    try:
        manifest = decode_manifest(small.get(MANIFEST_FILE, b""))
    except ValueError as error:
        raise TransferBrokenError(Reason.FIELD_INVALID, f"{MANIFEST_FILE}: {error}") from None
    for file in manifest.files:
        if file.path not in small:
            await _download(client, file, _place(folder, file.path))
    return manifest


async def _download(client: OperatorClient, file: ReleaseFile, place: Path) -> None:
    with place.open("wb") as out:
        async for content in client.download(file.digest):
            await asyncio.to_thread(out.write, content)
    digest = await asyncio.to_thread(file_digest, place)
    if digest != file.digest:
        raise TransferBrokenError(Reason.DIGEST_DIFFERS, f"{file.path}: expected {file.digest}, got {digest}")


def _place(folder: Path, path: str) -> Path:
    if not _PATH.fullmatch(path):
        raise TransferBrokenError(Reason.FIELD_INVALID, f"path: expected one inside the release, got {path[:80]!r}")
    make_folder((folder / path).parent)
    return folder / path


def read_certificates(files: Sequence[Path]) -> list[str]:
    """The certificates in those files, or in the ``.pem`` files of those folders.

    Raises:
        InputInvalidError: CONFIG_INVALID, one is no text.
        OSError: one cannot be read.
    """
    paths = [path for file in files for path in (sorted(file.glob("*.pem")) if file.is_dir() else [file])]
    try:
        return [path.read_text(encoding="ascii") for path in paths]
    except UnicodeDecodeError:
        raise InputInvalidError(Reason.CONFIG_INVALID, "certificates: expected files in PEM") from None
