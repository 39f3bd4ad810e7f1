"""Not one byte of a release can be changed, and no file added, removed or moved, without the file being named."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator.app.release_files import MAX_BYTES, file_finding, files_in, read_manifest, read_signature
from coordinator.app.release_manifest import (
    MANIFEST_FILE,
    SIGNATURE_FILE,
    ManifestSignature,
    encode_signature,
)
from coordinator.app.verify_release import verify_release
from coordinator.domain.verify import Finding, Problem
from tests.fakes.coordinator_values import ANNA, BERTA
from tests.fakes.releases import checked, manifest_of, named, release_terms, released
from tests.fakes.signing import Signers

UPDATE = "updates/round-0001/{}.safetensors"


@pytest.fixture(scope="module")
def signers(tmp_path_factory: pytest.TempPathFactory) -> Signers:
    return Signers(tmp_path_factory.mktemp("signers"))


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory, signers: Signers) -> Path:
    """A release of one round with all updates; a test that changes it changes it back."""
    return asyncio.run(released(tmp_path_factory.mktemp("honest"), signers, release_terms(count=1)))


@pytest.fixture
def honest(untouched: Path, tmp_path: Path) -> Path:
    """The same, for one test."""
    return Path(shutil.copytree(untouched, tmp_path / "release"))


def flipped(content: bytes) -> Iterator[bytearray]:
    """``content`` with one byte changed, once for each of its bytes."""
    dice, changed = random.Random(1), bytearray(content)
    for place, byte in enumerate(content):
        changed[place] = byte ^ dice.randrange(1, 256)
        yield changed
        changed[place] = byte


def every(folder: Path) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in sorted(files_in(folder).items())}


# Bytes. Each file is judged by itself, by a function that `verify_release` asks; so each of its bytes is changed there,
# and the whole command sees the first, the last and a middle one.


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_each_byte_of_each_file_counts(untouched: Path, signers: Signers) -> None:
    contents, paths = every(untouched), files_in(untouched)
    signature = read_signature(contents[SIGNATURE_FILE], signers.root)
    assert isinstance(signature, ManifestSignature)
    judged = 0
    for changed in flipped(contents[SIGNATURE_FILE]):
        found = read_signature(bytes(changed), signers.root)
        assert isinstance(found, Finding), judged
        assert (found.problem, found.file) == (Problem.RELEASE_SIGNATURE_INVALID, SIGNATURE_FILE)
        judged += 1
    for changed in flipped(contents[MANIFEST_FILE]):
        read = read_manifest(bytes(changed), signature)
        assert isinstance(read, Finding), judged
        assert (read.problem, read.file) == (Problem.FILE_CHANGED, MANIFEST_FILE)
        judged += 1
    for file in manifest_of(untouched).files:
        with paths[file.path].open("r+b", buffering=0) as opened:
            for changed in flipped(contents[file.path]):
                os.pwrite(opened.fileno(), changed, 0)
                found_or_none = file_finding(paths[file.path], file)
                assert found_or_none is not None, (file.path, judged)
                assert (found_or_none.problem, found_or_none.file) == (Problem.FILE_CHANGED, file.path)
                judged += 1
            os.pwrite(opened.fileno(), contents[file.path], 0)
    assert judged == sum(map(len, contents.values()))  # no byte of the folder is in none of these files
    assert checked(untouched, signers).findings == ()


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_a_changed_byte_of_any_file_is_told_of_that_file_alone(untouched: Path, signers: Signers) -> None:
    for name, content in every(untouched).items():
        for place in (0, len(content) // 2, len(content) - 1):
            changed = bytearray(content)
            changed[place] ^= 1
            (untouched / name).write_bytes(changed)
            found = checked(untouched, signers)
            assert (found.is_false, {each.file for each in found.findings}) == (True, {name}), place
        (untouched / name).write_bytes(content)
    assert checked(untouched, signers).findings == ()


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_other_content_of_any_file_is_told_of_that_file_alone(
    untouched: Path, signers: Signers, data: st.DataObject
) -> None:
    contents = every(untouched)
    name = data.draw(st.sampled_from(sorted(contents)), "file")
    content = contents[name]
    start = data.draw(st.integers(0, len(content)), "start")
    stop = data.draw(st.integers(start, min(len(content), start + 40)), "stop")
    other = content[:start] + data.draw(st.binary(max_size=40), "in place") + content[stop:]
    (untouched / name).write_bytes(other)
    try:
        files = {each.file for each in checked(untouched, signers).findings}
    finally:
        (untouched / name).write_bytes(content)
    assert files == (set() if other == content else {name})


# Files


def add(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"")


def exchange(folder: Path, one: str, other: str) -> None:
    content = (folder / one).read_bytes()
    (folder / one).write_bytes((folder / other).read_bytes())
    (folder / other).write_bytes(content)


def link(folder: Path, name: str, elsewhere: Path) -> None:
    (folder / name).rename(elsewhere)
    (folder / name).symlink_to(elsewhere)


@pytest.mark.parametrize(
    "name", ["adapter.bin", "updates/round-0001/dora.safetensors", ".hidden", "new/folder/file", "release.json.bak"]
)
def test_a_file_that_was_added_is_named(honest: Path, signers: Signers, name: str) -> None:
    add(honest, name)
    assert named(checked(honest, signers)) == {(Problem.FILE_UNEXPECTED, name)}


def test_a_file_that_was_removed_is_named(untouched: Path, signers: Signers) -> None:
    for name, content in every(untouched).items():
        (untouched / name).unlink()
        assert named(checked(untouched, signers)) == {(Problem.FILE_MISSING, name)}
        (untouched / name).write_bytes(content)


def test_a_file_that_was_renamed_is_named_by_both_names(honest: Path, signers: Signers) -> None:
    old, new = UPDATE.format(ANNA), UPDATE.format("annb")
    (honest / old).rename(honest / new)
    assert named(checked(honest, signers)) == {(Problem.FILE_MISSING, old), (Problem.FILE_UNEXPECTED, new)}


def test_files_that_were_exchanged_are_both_named(honest: Path, signers: Signers) -> None:
    names = [UPDATE.format(site) for site in (ANNA, BERTA)]
    exchange(honest, *names)
    assert named(checked(honest, signers)) == {(Problem.FILE_CHANGED, name) for name in names}


@pytest.mark.parametrize(
    "edit",
    [lambda content: content[:-1], lambda content: content + b"\n", lambda _: b""],
    ids=["cut", "longer", "empty"],
)
def test_a_file_that_is_shorter_or_longer_is_named(
    untouched: Path, signers: Signers, edit: Callable[[bytes], bytes]
) -> None:
    for name, content in every(untouched).items():
        (untouched / name).write_bytes(edit(content))
        assert {each.file for each in checked(untouched, signers).findings} == {name}
        (untouched / name).write_bytes(content)


@pytest.mark.parametrize("name", ["README.md", MANIFEST_FILE, SIGNATURE_FILE, UPDATE.format(ANNA)])
def test_a_link_is_no_file(honest: Path, signers: Signers, tmp_path: Path, name: str) -> None:
    link(honest, name, tmp_path / "elsewhere")
    assert named(checked(honest, signers)) == {(Problem.FILE_MISSING, name)}


def test_a_link_to_a_folder_is_not_followed(honest: Path, signers: Signers, tmp_path: Path) -> None:
    link(honest, "updates", tmp_path / "elsewhere")
    found = named(checked(honest, signers))
    assert (Problem.FILE_UNEXPECTED, "updates") in found
    assert (Problem.FILE_MISSING, UPDATE.format(ANNA)) in found


def test_a_pipe_is_not_read(honest: Path, signers: Signers) -> None:
    (honest / "README.md").unlink()
    os.mkfifo(honest / "README.md")
    os.mkfifo(honest / "more")
    assert named(checked(honest, signers)) == {(Problem.FILE_MISSING, "README.md"), (Problem.FILE_UNEXPECTED, "more")}


@pytest.mark.parametrize("name", MAX_BYTES)
def test_what_is_far_too_large_is_not_read(honest: Path, signers: Signers, name: str) -> None:
    with (honest / name).open("r+b") as file:
        file.truncate(MAX_BYTES[name] + 1)  # takes no room on the disk
    (found,) = checked(honest, signers).findings
    assert (found.file, str(MAX_BYTES[name]) in found.detail) == (name, True)


def test_a_name_that_would_steer_a_terminal_is_told_without_doing_so(honest: Path, signers: Signers) -> None:
    add(honest, "\x1b[2Jrelease: yes\n")
    (honest / os.fsdecode(b"\xff")).write_bytes(b"")
    told = [str(each) for each in checked(honest, signers).findings]
    assert sorted(told) == [
        r"file_unexpected: \udcff: expected no file that the manifest does not list",
        r"file_unexpected: \x1b[2Jrelease: yes\n: expected no file that the manifest does not list",
    ]


# Whose signature it is


def test_a_release_of_another_consortium_is_none_of_this_one(untouched: Path, tmp_path: Path) -> None:
    found = verify_release(untouched, Signers(tmp_path).root, tmp_path)
    assert named(found) == {(Problem.RELEASE_SIGNATURE_INVALID, SIGNATURE_FILE)}


def test_a_signature_by_a_sites_key_is_none_of_a_release(honest: Path, signers: Signers) -> None:
    content = (honest / MANIFEST_FILE).read_bytes()
    (honest / SIGNATURE_FILE).write_bytes(encode_signature(content, signers.key_of(ANNA)))
    (found,) = checked(honest, signers).findings
    assert "key of a coordinator" in found.detail
