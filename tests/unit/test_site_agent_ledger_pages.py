"""What people see of the egress ledger: the list, the table and the page, each over entries that were checked."""

from __future__ import annotations

import csv
import io
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from common.hash_chain import EMPTY_CHAIN, ChainHead
from common.ids import digest_of
from common.tls import Role
from coordinator.adapters.rpc.access import ROLES_BY_RPC, RPCS_BY_JOIN_TOKEN
from site_agent.adapters.ledger import FileLedger
from site_agent.adapters.ledger_export import write_csv
from site_agent.adapters.ledger_reading import check_ledger
from site_agent.adapters.ledger_report import PURPOSES, ROUNDS_SHOWN, ReportFacts, report
from site_agent.app.ledger_rows import Selection
from site_agent.cli import app
from site_agent.domain.ledger import About, Delivery, Origin, Outcome
from tests.fakes.site_ledger import SITE, START, SetClock, make_message

HEAD = ChainHead(sequence=7, digest=digest_of(b"head"))
# Elements that may stand in a page that needs nothing else.
PLAIN = {
    *("html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "div", "strong", "br"),
    *("table", "thead", "tbody", "tr", "th", "td", "code"),
}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A ledger of two runs on two days, with a poll, a refused message and one of which nothing is known."""
    clock = SetClock()
    ledger = FileLedger(tmp_path / "state", SITE, Origin.AGENT, clock)
    ledger.record(make_message("AwaitAssignment", b"", About()))
    upload = ledger.record(make_message("UploadUpdate", b"header", About(run="first", round_number=1), tensors=2))
    sent = Delivery(outcome=Outcome.ANSWERED, sent_messages=3, sent_bytes=2_500, sent_digest=digest_of(b"all"))
    ledger.settle(upload, sent)
    clock.move(86_400)
    ledger.record(make_message(about=About(run="second", round_number=4)))
    return tmp_path / "state"


def page_of(state: Path, selection: Selection | None = None) -> str:
    checked, selection = check_ledger(state), selection or Selection()
    facts = ReportFacts(
        site=checked.site, made_at=START, selection=selection, start=checked.start, head=checked.head, mended=0
    )
    return report(filter(selection.takes, checked.rows()), facts)


class Page(HTMLParser):
    """Elements, attributes and cells of a page; every element must be closed in its order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in ("meta", "br"):
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data


def test_the_page_needs_nothing_from_anywhere_and_runs_nothing(state: Path) -> None:
    text = page_of(state)
    page = Page(text)
    assert page.names <= PLAIN
    assert page.attributes == {"lang", "charset", "class"}
    assert "url(" not in text and "http" not in text and "@import" not in text


def test_the_page_sums_messages_and_bytes_by_kind_and_by_round(state: Path) -> None:
    rows = Page(page_of(state)).rows
    assert ["UploadUpdatesends a trained update: tensors and counts", "3", "2.5 kB"] in [row[:3] for row in rows]
    assert ["first", "1", "3", "2.5 kB", digest_of(b"file").removeprefix("sha256:")[:16]] in rows
    assert ["second", "4", "1", "2 B", ""] in rows


def test_the_page_says_of_how_many_messages_it_is_not_known_whether_they_left(state: Path) -> None:
    assert "Messages of which it is not known whether they left: 2." in page_of(state)


def test_the_page_has_words_for_everything_that_an_agent_may_call() -> None:
    allowed = {rpc for rpc, roles in ROLES_BY_RPC.items() if roles & {Role.SITE, Role.EVALUATOR}} | RPCS_BY_JOIN_TOKEN
    called = {rpc.rpartition("/")[2] for rpc in allowed - {"/grpc.health.v1.Health/Watch"}}  # which no agent calls
    assert called == PURPOSES.keys()


def test_the_page_holds_the_head_to_check_against_later(state: Path) -> None:
    assert f"ledger verify --head {check_ledger(state).head}" in page_of(state)


def test_a_page_of_many_rounds_still_fits_on_a_sheet_and_says_what_is_left_out(tmp_path: Path) -> None:
    ledger = FileLedger(tmp_path, SITE, Origin.AGENT, SetClock())
    for number in range(1, ROUNDS_SHOWN + 4):
        ledger.record(make_message(about=About(run="trial", round_number=number)))
    text = page_of(tmp_path)
    assert len([row for row in Page(text).rows if row[0] == "trial"]) == ROUNDS_SHOWN
    assert "3 earlier rounds" in text


def test_a_page_of_nothing_says_so(tmp_path: Path) -> None:
    assert "Nothing left in this time" in page_of(tmp_path)


def test_a_name_from_outside_cannot_become_part_of_the_page(tmp_path: Path) -> None:
    ledger = FileLedger(tmp_path, SITE, Origin.AGENT, SetClock())
    ledger.record(make_message("<script>", about=About(run="<img>", round_number=1)))
    assert Page(page_of(tmp_path)).names <= PLAIN


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(), ["UploadUpdate", "AwaitAssignment", "DeclineAssignment"]),
        (Selection(run="first"), ["UploadUpdate"]),
        (Selection(since=START + timedelta(hours=1)), ["DeclineAssignment"]),
        (Selection(until=START + timedelta(hours=1)), ["UploadUpdate", "AwaitAssignment"]),
        (Selection(run="second", until=START), []),
    ],
)
def test_rows_are_selected_by_run_and_time(state: Path, selection: Selection, expected: list[str]) -> None:
    assert [row.rpc for row in check_ledger(state).rows() if selection.takes(row)] == expected


def test_the_table_is_csv_with_a_line_for_each_row(state: Path) -> None:
    text = io.StringIO(newline="")
    assert write_csv(check_ledger(state).rows(), text) == 3
    lines = list(csv.DictReader(io.StringIO(text.getvalue())))
    upload = next(line for line in lines if line["rpc"] == "UploadUpdate")
    assert (upload["messages"], upload["bytes"], upload["tensors"], upload["round"]) == ("3", "2500", "2", "1")
    assert upload["fields"] == "assignment_id reason" and float(upload["norm"]) == pytest.approx(18**0.5)
    assert [line["entry"] for line in lines] == ["2", "4", "5"]


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@a", "\tx"])
def test_no_cell_of_the_table_is_a_formula(tmp_path: Path, name: str) -> None:
    FileLedger(tmp_path, SITE, Origin.AGENT, SetClock()).record(make_message(about=About(run=name)))
    text = io.StringIO(newline="")
    write_csv(check_ledger(tmp_path).rows(), text)
    assert next(csv.DictReader(io.StringIO(text.getvalue())))["run"] == "'" + name


def config_of(state: Path) -> list[str]:
    config = state.parent / "site.toml"
    config.write_text(
        'coordinator.address = "localhost:1"\nidentity.folder = "identity"\nsite.state_folder = "state"\n'
        'base_model.location = "./model"\n'
    )
    return ["--config", str(config)]


def test_the_commands_list_check_and_write_what_left(state: Path) -> None:
    out = state.parent / "out"
    config, run = config_of(state), CliRunner().invoke
    listed = run(app, ["ledger", "list", *config, "--run", "first"]).stdout.splitlines()
    assert len(listed) == 1 and "3 x UploadUpdate, 2500 bytes, 2 tensors of norm 4.24264" in listed[0]
    checked = run(app, ["ledger", "verify", *config]).stdout
    assert "5 entries in 1 files hold together" in checked
    head = checked.splitlines()[-1].removeprefix("head ")
    assert "the head that was given is in it" in run(app, ["ledger", "verify", *config, "--head", head]).stdout
    assert run(app, ["ledger", "export", *config, "--csv", f"{out}.csv", "--since", "2026-11-28"]).exit_code == 0
    assert len(Path(f"{out}.csv").read_text().splitlines()) == 2
    assert run(app, ["ledger", "report", *config, "--out", f"{out}.html"]).exit_code == 0
    assert Page(Path(f"{out}.html").read_text()).rows
    assert run(app, ["ledger", "export", *config, "--csv", "-"]).stdout.startswith("entry,")


def test_a_head_that_the_chain_does_not_pass_through_is_an_error(state: Path) -> None:
    run, config = CliRunner().invoke, config_of(state)
    assert run(app, ["ledger", "verify", *config, "--head", str(HEAD)]).exit_code == 1
    assert run(app, ["ledger", "verify", *config, "--head", "nonsense"]).exit_code == 2
    assert HEAD != EMPTY_CHAIN
