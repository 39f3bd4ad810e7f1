"""What the pages say against what is there: links, commands, columns, fields, names. Style is for readers to judge."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer
from google.protobuf.message import Message

from common import metric_names
from common.errors import Reason
from coordinator.adapters.storage.tables import METADATA
from coordinator.cli import app as coordinator_app
from fedmedlora.v1 import enrolment_pb2, registry_pb2, rounds_pb2
from site_agent.cli import app as site_app
from site_agent.trainer.extraction.passage_records import parse_record
from site_agent.trainer.extraction.passages import Passage

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
# Every message that an agent sends.
SENT = (
    rounds_pb2.AwaitAssignmentRequest,
    rounds_pb2.DeclineAssignmentRequest,
    rounds_pb2.DownloadAdapterRequest,
    rounds_pb2.GetUploadOffsetRequest,
    rounds_pb2.UploadUpdateRequest,
    rounds_pb2.ReportProgressRequest,
    rounds_pb2.ReportEvaluationRequest,
    rounds_pb2.GetServerTimeRequest,
    registry_pb2.ListAdapterVersionsRequest,
    enrolment_pb2.EnrolRequest,
    enrolment_pb2.RenewCertificateRequest,
    enrolment_pb2.WithdrawRequest,
)

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def text_of(page: Path) -> str:
    """A page's text."""
    return page.read_text(encoding="utf-8")


def section(page: str, heading: str) -> str:
    """What stands under ``heading``, down to the next one of its level."""
    return text_of(ROOT / page).split(f"\n## {heading}\n")[1].split("\n## ")[0]


@each_page
def test_links_lead_to_files_that_are_there(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", text_of(page))

    assert [link for link in links if not (page.parent / link).exists()] == []


@each_page
def test_files_named_by_their_path_are_there(page: Path) -> None:
    named = re.findall(r"`((?:common|coordinator|demo|docker|docs|site_agent|tests)/[\w./-]+\.\w+)`", text_of(page))

    assert [path for path in named if not (ROOT / path).exists()] == []


def subcommands(app: typer.Typer) -> dict[str, set[str]]:
    """Commands of a command line, each with its own subcommands."""
    group = typer.main.get_command(app)
    commands = getattr(group, "commands", {})
    return {name: set(getattr(command, "commands", {})) for name, command in commands.items()}


@each_page
def test_commands_that_a_page_tells_people_to_type_exist(page: Path) -> None:
    known = {"fedmed-coordinator": subcommands(coordinator_app), "fedmed-site": subcommands(site_app)}

    for program, command, sub in re.findall(r"(fedmed-(?:coordinator|site)) ([a-z-]+)(?: ([a-z]+))?", text_of(page)):
        assert command in known[program], f"{program} {command}"
        if known[program][command]:
            assert sub in known[program][command], f"{program} {command} {sub}"


@each_page
def test_make_targets_that_a_page_names_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))

    assert set(re.findall(r"make ([a-z-]+)", text_of(page))) - targets == set()


def test_the_data_model_names_every_table_and_column() -> None:
    tables = section("docs/data-model.md", "The coordinator's state folder")
    wanted = {name for table in METADATA.sorted_tables for name in (table.name, *table.columns.keys())}

    assert wanted - set(re.findall(r"`(\w+)`", tables)) == set()


def leaves(message: Any) -> set[str]:
    """Names of all fields of the descriptor ``message`` that hold a value; a specification counts as one."""
    names: set[str] = set()
    for field in message.fields:
        inner = field.message_type
        is_value = inner is None or inner.file.package != "fedmedlora.v1" or inner.name == "AdapterSpec"
        names |= {field.name} if is_value else leaves(inner)
    return names


@pytest.mark.parametrize("message", SENT, ids=lambda message: str(message.DESCRIPTOR.name))
def test_a_hospital_is_told_every_field_that_leaves_it(message: type[Message]) -> None:
    told = set(re.findall(r"`(\w+)`", section("docs/hospital.md", "What leaves, field by field")))

    assert leaves(message.DESCRIPTOR) - told == set()


def test_the_passage_that_a_hospital_is_shown_is_well_formed() -> None:
    (shown,) = re.findall(r"^ *(\{.*\})$", section("docs/hospital.md", "Configure"), re.MULTILINE)
    passage = parse_record(shown.encode())

    assert isinstance(passage, Passage), passage
    assert len(passage.entities) == 1


@each_page
def test_metrics_that_a_page_names_exist(page: Path) -> None:
    known = {metric.name for metric in (*metric_names.COORDINATOR_METRICS, *metric_names.AGENT_METRICS)}

    assert set(re.findall(r"`(fedmed_\w+)`", text_of(page))) - known == set()


def test_reasons_that_a_hospital_is_told_about_exist() -> None:
    told = re.findall(r"^\| ([A-Z_, ]+) \|", section("docs/hospital.md", "When something is wrong"), re.MULTILINE)

    assert told
    assert {name for cell in told for name in cell.split(", ")} - {reason.value for reason in Reason} == set()


def test_every_page_of_the_documentation_is_reached_from_the_readme() -> None:
    reached = set(re.findall(r"\]\((docs/[^)]+)\)", text_of(ROOT / "README.md")))

    assert {f"docs/{page.name}" for page in PAGES[1:]} - reached == set()
