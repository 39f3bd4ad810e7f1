"""The egress ledger on a real disk: what is in it, whatever the program is killed in, and what it shows of a change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.errors import FedMedError, OverloadedError, Reason
from common.hash_chain import EMPTY_CHAIN, parse_head
from common.ids import digest_of
from site_agent.adapters import ledger_segments
from site_agent.adapters.ledger import FileLedger
from site_agent.adapters.ledger_reading import check_ledger
from site_agent.adapters.ledger_segments import OPEN_FILE
from site_agent.app.ledger_rows import UNKNOWN
from site_agent.domain.ledger import FOLD_SPAN, About, Delivery, Origin, Outcome, OutgoingMessage
from tests.fakes.site_ledger import SITE, SetClock, make_message

POLL = make_message("AwaitAssignment", b"poll")
ANSWERED = Delivery(outcome=Outcome.ANSWERED, sent_messages=1, sent_bytes=2, sent_digest=digest_of(b"no"))


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def ledger(tmp_path: Path, clock: SetClock) -> FileLedger:
    return FileLedger(tmp_path, SITE, Origin.AGENT, clock)


def segment(tmp_path: Path, number: int = 1) -> Path:
    return ledger_segments.segment_path(tmp_path / "ledger", number)


def fill(ledger: FileLedger, count: int) -> None:
    for number in range(count):
        ledger.settle(ledger.record(make_message(content=b"no" * number)), ANSWERED)


def test_a_message_is_on_the_disk_with_what_it_held_when_record_returns(ledger: FileLedger, tmp_path: Path) -> None:
    ledger.record(make_message())
    (row,) = check_ledger(tmp_path).rows()
    assert (row.rpc, row.size_bytes, row.digest) == ("DeclineAssignment", 2, digest_of(b"no"))
    assert (row.about.run, row.about.round_number) == ("trial", 1)
    assert row.fields == ("assignment_id", "reason")


def test_a_message_whose_end_nobody_told_may_have_left_or_not_and_the_ledger_says_so(
    ledger: FileLedger, tmp_path: Path
) -> None:
    ledger.record(make_message())
    ledger.settle(ledger.record(make_message()), ANSWERED)
    assert [row.outcome for row in check_ledger(tmp_path).rows()] == [UNKNOWN, "answered"]


def test_of_a_stream_whose_end_nobody_told_all_of_its_file_may_have_left(ledger: FileLedger, tmp_path: Path) -> None:
    ledger.record(make_message("UploadUpdate", b"header", tensors=2))
    (row,) = check_ledger(tmp_path).rows()
    assert (row.outcome, row.size_bytes) == (UNKNOWN, 6 + 2_000)


def test_the_refusal_of_a_message_stands_beside_it_with_its_reason(ledger: FileLedger, tmp_path: Path) -> None:
    delivery = Delivery(
        outcome=Outcome.ANSWERED, reason="ROUND_CLOSED", sent_messages=1, sent_bytes=2, sent_digest=digest_of(b"no")
    )
    ledger.settle(ledger.record(make_message()), delivery)
    assert [row.reason for row in check_ledger(tmp_path).rows()] == ["ROUND_CLOSED"]


def test_a_stream_is_one_row_with_all_that_was_given_to_the_network(ledger: FileLedger, tmp_path: Path) -> None:
    delivery = Delivery(
        outcome=Outcome.FAILED, reason="PEER_AWAY", sent_messages=3, sent_bytes=2_000, sent_digest=digest_of(b"all")
    )
    ledger.settle(ledger.record(make_message("UploadUpdate", b"header", tensors=2)), delivery)
    (row,) = check_ledger(tmp_path).rows()
    assert (row.count, row.size_bytes, row.digest, row.outcome) == (3, 2_000, digest_of(b"all"), "failed")
    assert (row.tensors, row.file_bytes) == (2, 2_000)
    assert row.norm == pytest.approx((3.0**2 + 3.0**2) ** 0.5)


def test_the_tensors_of_a_file_are_listed_once_however_often_its_stream_is_begun(
    ledger: FileLedger, tmp_path: Path
) -> None:
    for _ in range(3):
        ledger.record(make_message("UploadUpdate", b"header", tensors=500))
    assert segment(tmp_path).read_bytes().count(b'"name":"t7"') == 1
    assert [row.tensors for row in check_ledger(tmp_path).rows()] == [500, 500, 500]


def test_polls_that_say_the_same_are_one_row_with_their_count_and_times(
    ledger: FileLedger, tmp_path: Path, clock: SetClock
) -> None:
    for _ in range(50):
        ledger.settle(ledger.record(POLL), ANSWERED)
        clock.move(30)
    (row,) = check_ledger(tmp_path).rows()
    assert (row.count, row.answered, row.size_bytes, row.sequence) == (50, 50, 50 * 4, 0)
    assert (row.last_at - row.first_at).total_seconds() == 49 * 30
    assert not segment(tmp_path).exists()


def test_after_an_hour_a_fold_becomes_one_entry_of_the_chain_and_another_begins(
    ledger: FileLedger, tmp_path: Path, clock: SetClock
) -> None:
    for _ in range(2 * 24):
        ledger.record(POLL)
        clock.move(FOLD_SPAN.total_seconds() / 2)
    rows = list(check_ledger(tmp_path).rows())
    assert sum(row.count for row in rows) == 48
    assert [row.sequence for row in rows] == [*range(2, 25), 0]
    assert len(segment(tmp_path).read_bytes()) < 15_000


def test_polls_while_another_assignment_is_at_hand_are_another_fold(ledger: FileLedger, tmp_path: Path) -> None:
    ledger.record(POLL)
    ledger.record(make_message("AwaitAssignment", b"poll", About(run="trial", round_number=2)))
    assert [row.about.round_number for row in check_ledger(tmp_path).rows()] == [1, 2]


def test_a_fold_is_counted_once_though_the_program_was_killed_between_its_entry_and_forgetting_it(
    ledger: FileLedger, tmp_path: Path, clock: SetClock
) -> None:
    ledger.record(POLL)
    before = (tmp_path / "ledger" / OPEN_FILE).read_bytes()
    clock.move(FOLD_SPAN.total_seconds())
    ledger.record(make_message())
    lines = segment(tmp_path).read_bytes().splitlines(keepends=True)
    segment(tmp_path).write_bytes(b"".join(lines[:2]))  # its entry is written, the message's is not
    (tmp_path / "ledger" / OPEN_FILE).write_bytes(before)
    ledger.record(make_message())
    assert [(row.rpc, row.count) for row in check_ledger(tmp_path).rows()] == [
        ("AwaitAssignment", 1),
        ("DeclineAssignment", 1),
    ]


def test_agent_and_command_write_to_one_chain(ledger: FileLedger, tmp_path: Path, clock: SetClock) -> None:
    command = FileLedger(tmp_path, SITE, Origin.COMMAND, clock)
    for _ in range(3):
        ledger.record(make_message())
        command.record(make_message())
    assert [row.origin for row in check_ledger(tmp_path).rows()] == ["agent", "command"] * 3


@pytest.mark.parametrize("cut", [1, 2, 50, 200])
def test_an_entry_that_a_killed_program_did_not_finish_is_mended_and_told(
    ledger: FileLedger, tmp_path: Path, cut: int
) -> None:
    fill(ledger, 2)
    kept = (tmp_path / "ledger" / OPEN_FILE).read_bytes()
    whole = segment(tmp_path).read_bytes()
    ledger.record(make_message())
    segment(tmp_path).write_bytes(segment(tmp_path).read_bytes()[:-cut])
    (tmp_path / "ledger" / OPEN_FILE).write_bytes(kept)  # it is written after the entry
    torn = len(segment(tmp_path).read_bytes()) - len(whole)
    assert torn > 0 and check_ledger(tmp_path).torn_bytes == torn
    ledger.record(make_message())
    checked = check_ledger(tmp_path)
    assert (checked.mended, checked.torn_bytes) == (1, 0)
    assert f'"torn_bytes":{torn}' in segment(tmp_path).read_text()
    assert len(list(checked.rows())) == 3


def test_a_full_ledger_goes_on_in_another_file_and_the_chain_with_it(
    ledger: FileLedger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_segments, "SEGMENT_BYTES", 2_000)
    fill(ledger, 20)
    checked = check_ledger(tmp_path)
    assert len(checked.segments) > 5
    assert all(path.stat().st_size < 3_000 for path, _ in checked.segments)
    assert len(list(checked.rows())) == 20


def test_the_oldest_files_may_be_archived_and_the_rest_is_checked_and_says_where_it_begins(
    ledger: FileLedger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_segments, "SEGMENT_BYTES", 2_000)
    fill(ledger, 20)
    head = check_ledger(tmp_path).head
    segment(tmp_path, 1).unlink()
    checked = check_ledger(tmp_path)
    assert checked.head == head and checked.start != EMPTY_CHAIN
    segment(tmp_path, 3).unlink()
    with pytest.raises(FedMedError, match="expected number"):
        check_ledger(tmp_path)


def test_a_number_that_was_changed_is_found_at_its_entry(ledger: FileLedger, tmp_path: Path) -> None:
    fill(ledger, 3)
    lines = segment(tmp_path).read_bytes().splitlines(keepends=True)
    changed = json.loads(lines[1])
    changed["message"]["size_bytes"] = 1
    lines[1] = json.dumps(changed, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    segment(tmp_path).write_bytes(b"".join(lines))
    with pytest.raises(FedMedError, match="entry 3: expected sha256") as caught:
        check_ledger(tmp_path)
    assert caught.value.reason is Reason.LEDGER_BROKEN


def test_entries_that_were_cut_off_the_end_are_missed_and_nothing_leaves(ledger: FileLedger, tmp_path: Path) -> None:
    fill(ledger, 3)
    lines = segment(tmp_path).read_bytes().splitlines(keepends=True)
    segment(tmp_path).write_bytes(b"".join(lines[:-2]))
    with pytest.raises(FedMedError, match="the ledger's own note of its head"):
        check_ledger(tmp_path)
    with pytest.raises(OverloadedError, match="nothing leaves") as caught:
        ledger.record(make_message())
    assert caught.value.reason is Reason.LEDGER_BROKEN


def test_a_ledger_that_was_made_anew_is_told_from_the_old_one_by_a_head_that_somebody_kept(
    ledger: FileLedger, tmp_path: Path, clock: SetClock
) -> None:
    fill(ledger, 3)
    kept = parse_head(str(check_ledger(tmp_path).head))
    assert check_ledger(tmp_path, kept).head == kept
    forged = FileLedger(tmp_path / "forged", SITE, Origin.AGENT, clock)
    fill(forged, 2)
    with pytest.raises(FedMedError, match="the head that was given"):
        check_ledger(tmp_path / "forged", kept)


@pytest.mark.parametrize("content", [b"", b"\n", b"garbage\n", b"[1]\n", b"\x00" * 100 + b"\n"])
def test_a_last_line_that_is_no_entry_lets_nothing_leave(ledger: FileLedger, tmp_path: Path, content: bytes) -> None:
    fill(ledger, 1)
    segment(tmp_path).write_bytes(content)
    with pytest.raises(OverloadedError) as caught:
        ledger.record(make_message())
    assert caught.value.reason is Reason.LEDGER_BROKEN


@pytest.mark.parametrize("message", [make_message(), POLL], ids=["an entry", "a fold"])
def test_a_ledger_that_cannot_be_written_is_an_error_that_may_pass(
    ledger: FileLedger, tmp_path: Path, message: OutgoingMessage
) -> None:
    (tmp_path / "ledger").write_text("a file where the folder should be")
    with pytest.raises(OverloadedError, match="nothing leaves until it can be written") as caught:
        ledger.record(message)
    assert caught.value.reason is Reason.LEDGER_UNWRITABLE and caught.value.retryable
    (tmp_path / "ledger").unlink()
    ledger.record(message)
    assert len(list(check_ledger(tmp_path).rows())) == 1


def test_a_site_that_never_sent_anything_has_an_empty_ledger_that_holds(tmp_path: Path) -> None:
    checked = check_ledger(tmp_path)
    assert checked.head == EMPTY_CHAIN and list(checked.rows()) == []
