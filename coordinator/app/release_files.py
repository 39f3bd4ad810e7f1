"""Whether the files of a release are those that the release key signed, to the last byte. Reads nothing into them.

Nothing of the folder lies outside of what is checked here: the signature's file has one form, which signature and
certificate determine; the manifest is what its digest says; any other file is in the manifest's list with its digest,
or is one too many. A folder without a file in it holds nothing, and is nobody's business.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from cryptography import x509

from common.errors import InputInvalidError
from common.ids import Digest, digest_of
from common.peft_folder import CONFIG_FILE, WEIGHTS_FILE
from common.signing import fingerprint, is_signed
from common.signing_certificates import read_certified_key
from common.tls import Role
from common.weights_io import file_digest
from coordinator.app.release_manifest import (
    MANIFEST_FILE,
    SIGNATURE_FILE,
    Manifest,
    ManifestSignature,
    ReleaseFile,
    decode_manifest,
    decode_signature,
)
from coordinator.domain.verify import Finding, Problem

# Far above a manifest of 5,000 sites in hundreds of rounds, and above any signature; what is larger is not read.
MAX_BYTES = {MANIFEST_FILE: 2**30, SIGNATURE_FILE: 2**16}


def files_in(folder: Path) -> dict[str, Path]:
    """Everything below ``folder`` that is no folder, by its path from there; a link to a folder is not followed."""
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return {str(path.relative_to(folder)): path for path in found}


def read_signed(
    paths: Mapping[str, Path], root: x509.Certificate, revoked: Collection[Digest] = ()
) -> tuple[Manifest | None, list[Finding]]:
    """The manifest, if the release key's signature holds for it; else what is wrong, and with which of the files.

    ``revoked``: Fingerprints of keys that do not count any more.

    Raises:
        OSError: the disk failed.
    """
    if missing := [_missing(name, paths.get(name)) for name in MAX_BYTES if not _is_plain(paths.get(name))]:
        return None, missing
    for name, most in MAX_BYTES.items():
        if paths[name].stat().st_size > most:
            too_large = f"expected at most {most} bytes, got {paths[name].stat().st_size}"
            return None, [Finding(problem=Problem.FILE_CHANGED, file=name, detail=too_large)]
    signature = read_signature(paths[SIGNATURE_FILE].read_bytes(), root, revoked)
    if isinstance(signature, Finding):
        return None, [signature]
    manifest = read_manifest(paths[MANIFEST_FILE].read_bytes(), signature)
    return (None, [manifest]) if isinstance(manifest, Finding) else (manifest, [])


def read_signature(
    content: bytes, root: x509.Certificate, revoked: Collection[Digest] = ()
) -> ManifestSignature | Finding:
    """The signature in ``content``, if it is one of a coordinator's key that ``root`` certified and nobody revoked."""
    try:
        signature = decode_signature(content)
        _check_signature(signature, root, revoked)
    except (ValueError, InputInvalidError, RecursionError) as error:
        return Finding(problem=Problem.RELEASE_SIGNATURE_INVALID, file=SIGNATURE_FILE, detail=str(error))
    return signature


def read_manifest(content: bytes, signature: ManifestSignature) -> Manifest | Finding:
    """The manifest in ``content``, if it is the one that was signed."""
    if (got := digest_of(content)) != signature.manifest_digest:
        detail = f"expected {signature.manifest_digest}, which the release key signed, got {got}"
        return Finding(problem=Problem.FILE_CHANGED, file=MANIFEST_FILE, detail=detail)
    try:
        return decode_manifest(content)
    except (ValueError, RecursionError) as error:
        return Finding(problem=Problem.MANIFEST_UNREADABLE, file=MANIFEST_FILE, detail=str(error))


def file_findings(paths: Mapping[str, Path], manifest: Manifest) -> Iterator[Finding]:
    """Everything in which the folder differs from the manifest's list.

    Raises:
        OSError: the disk failed.
    """
    listed = {file.path: file for file in manifest.files}
    for path in sorted(paths.keys() - listed.keys() - {MANIFEST_FILE, SIGNATURE_FILE}):
        detail = "expected no file that the manifest does not list"
        yield Finding(problem=Problem.FILE_UNEXPECTED, file=path, detail=detail)
    if WEIGHTS_FILE not in listed or CONFIG_FILE not in listed or len(listed) != len(manifest.files):
        expected = f"expected {WEIGHTS_FILE} and {CONFIG_FILE} in the list of files, and each file once"
        yield Finding(problem=Problem.MANIFEST_UNREADABLE, file=MANIFEST_FILE, detail=expected)
    found = (file_finding(paths.get(path), file) for path, file in listed.items())
    yield from (each for each in found if each is not None)


def file_finding(path: Path | None, file: ReleaseFile) -> Finding | None:
    """What is wrong with the bytes in ``path``, which should be those of ``file``; None when nothing is.

    Raises:
        OSError: the disk failed.
    """
    if path is None or not _is_plain(path):
        return _missing(file.path, path)
    size = path.stat().st_size
    if size != file.size_bytes:  # however long it is, it need not be read
        detail = f"expected {file.size_bytes} bytes, got {size}"
        return Finding(problem=Problem.FILE_CHANGED, file=file.path, detail=detail)
    if (digest := file_digest(path)) != file.digest:
        detail = f"expected {file.digest}, got {digest}"
        return Finding(problem=Problem.FILE_CHANGED, file=file.path, detail=detail)
    return None


def _check_signature(signature: ManifestSignature, root: x509.Certificate, revoked: Collection[Digest]) -> None:
    certified = read_certified_key(signature.certificate, root)
    if certified.caller.role is not Role.COORDINATOR:
        raise ValueError(f"expected the key of a coordinator, got that of {certified.caller.uri}")
    if certified.public_key != signature.public_key:
        raise ValueError(f"expected the key {certified.public_key}, which the root certified")
    if not is_signed(signature.message, signature.public_key, signature.signature):
        raise ValueError("expected a signature by that key, got another")
    if fingerprint(signature.public_key) in revoked:
        raise ValueError(f"expected a key that was not revoked, got {signature.public_key}")


def _is_plain(path: Path | None) -> bool:
    return path is not None and path.is_file() and not path.is_symlink()


def _missing(name: str, path: Path | None) -> Finding:
    got = "none" if path is None else "something else, such as a link"
    return Finding(problem=Problem.FILE_MISSING, file=name, detail=f"expected a file, got {got}")
