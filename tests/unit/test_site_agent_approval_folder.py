"""Approvals and begun rounds on disk: whole or not at all, for their owner alone, and nobody's word but a person's."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from common.ids import AssignmentId
from common.terms import Terms
from site_agent.adapters.approval_folder import MAX_UNDECIDED, ApprovalFolder
from site_agent.adapters.begun_rounds import BegunFile
from site_agent.app.ports import UnreadableVerdict, Verdict
from tests.fakes.site_scene import NOON
from tests.fakes.site_values import make_terms

YES = Verdict(is_approved=True, by="alice", at=NOON, because="the board agreed")


def unreadable(folder: ApprovalFolder) -> str:
    """Why the verdict cannot be read."""
    verdict = folder.verdict(make_terms().digest)
    assert isinstance(verdict, UnreadableVerdict)
    return verdict.detail


def files(folder: Path) -> list[Path]:
    return sorted((folder / "approvals").iterdir())


def test_what_a_person_said_is_found_by_the_terms_digest_and_by_no_other(tmp_path: Path) -> None:
    terms, other = make_terms(), make_terms("other")
    ApprovalFolder(tmp_path).show(terms, NOON)
    ApprovalFolder(tmp_path).decide(terms.digest, YES)
    again = ApprovalFolder(tmp_path)
    assert again.verdict(terms.digest) == YES
    assert again.verdict(other.digest) is None
    offer = again.offer(terms.digest)
    assert offer is not None and (offer.terms, offer.first_seen_at) == (terms, NOON)


def test_the_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    folder = ApprovalFolder(tmp_path)
    folder.show(make_terms(), NOON)
    folder.decide(make_terms().digest, YES)
    assert {path.stat().st_mode & 0o777 for path in files(tmp_path)} == {0o600}


def test_a_verdict_that_others_may_write_is_unreadable(tmp_path: Path) -> None:
    folder = ApprovalFolder(tmp_path)
    folder.decide(make_terms().digest, YES)
    files(tmp_path)[0].chmod(0o666)
    assert "chmod 600" in unreadable(folder)


@pytest.mark.parametrize("content", ["", "{}", '{"is_approved": "perhaps"}'])
def test_a_verdict_that_is_no_verdict_is_unreadable(tmp_path: Path, content: str) -> None:
    folder = ApprovalFolder(tmp_path)
    folder.decide(make_terms().digest, YES)
    files(tmp_path)[0].write_text(content)
    assert "say it again" in unreadable(folder)


def test_a_verdict_that_the_system_does_not_give_is_unreadable(tmp_path: Path) -> None:
    folder = ApprovalFolder(tmp_path)
    folder.decide(make_terms().digest, YES)
    path = files(tmp_path)[0]
    path.unlink()
    path.mkdir()
    assert "directory" in unreadable(folder)


def test_other_terms_under_the_name_of_known_ones_are_not_shown(tmp_path: Path) -> None:
    folder = ApprovalFolder(tmp_path)
    folder.show(make_terms(), NOON)
    path = files(tmp_path)[0]
    document = json.loads(path.read_text())
    document["terms"]["training"]["learning_rate"] = 1.0
    path.write_text(json.dumps(document))
    assert folder.offer(make_terms().digest) is None
    folder.show(make_terms(), NOON)
    assert folder.offer(make_terms().digest) is not None, "the agent mends it when they are offered again"


def test_terms_that_nobody_decides_on_do_not_fill_the_disk_and_decided_ones_stay(tmp_path: Path) -> None:
    folder = ApprovalFolder(tmp_path)
    folder.show(make_terms("decided"), NOON)
    folder.decide(make_terms("decided").digest, YES)
    many: list[Terms] = [make_terms(f"run-{number}") for number in range(MAX_UNDECIDED + 2)]
    for number, terms in enumerate(many):
        folder.show(terms, NOON + timedelta(seconds=number))
    shown = [offer.terms.name for offer in folder.offers()]
    assert shown == ["decided", *(terms.name for terms in many[2:])]


def test_a_begun_round_is_counted_once_and_forgotten_after_two_days(tmp_path: Path) -> None:
    first, second = AssignmentId("1" * 32), AssignmentId("2" * 32)
    BegunFile(tmp_path).begin(first, NOON)
    BegunFile(tmp_path).begin(first, NOON + timedelta(hours=1))
    assert BegunFile(tmp_path).begun() == {first: NOON}
    BegunFile(tmp_path).begin(second, NOON + timedelta(days=3))
    assert list(BegunFile(tmp_path).begun()) == [second]


def test_a_changed_verdict_takes_the_place_of_the_earlier_one(tmp_path: Path) -> None:
    folder = ApprovalFolder(tmp_path)
    folder.decide(make_terms().digest, YES)
    folder.decide(make_terms().digest, replace(YES, is_approved=False))
    verdict = folder.verdict(make_terms().digest)
    assert isinstance(verdict, Verdict) and not verdict.is_approved
