"""Text that is planted in records is found nowhere but in the sites' files of notes, whatever goes wrong with them.

A federation of real processes on a tiny model: one site trains on notes with canaries, one's trainer crashes with its
notes in every message, and one's records are malformed. Everything that came of it is searched.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import urllib.request
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from rich.console import Console

from demo.federation import addresses_of, run_prepared
from demo.options import DemoOptions
from demo.prepare import POLICY, prepare
from demo.processes import process_group
from tests.fakes import crashing_trainer
from tests.running import free_ports
from tests.tiny_model import make_tiny_model

pytestmark = pytest.mark.slow

CANARY = "Zanzibarine"  # in no word of the generated notes, and no token of the model is long enough to be it
TEXT = f"{CANARY} was given to Quentin Canaryfield on the ward."
GOOD, CRASHING, MALFORMED = range(3)


@dataclass(slots=True)
class Scraped:
    """Pages of metrics, scraped again and again until told to stop."""

    urls: list[str]
    pages: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.stop.wait(0.5):
            for url in self.urls:
                try:
                    with urllib.request.urlopen(url, timeout=5) as page:
                        self.pages.append(page.read().decode())
                except OSError:
                    continue


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The federation's folder, what was said and scraped, and the configurations of its sites."""

    folder: Path
    said: str
    pages: tuple[str, ...]
    configs: tuple[Path, ...]


def plant(notes: Path, *, is_malformed: bool = False) -> None:
    record = {
        "id": "canary",
        "text": TEXT,
        "entities": [{"id": "T1", "type": "drug", "start": 0, "end": len(CANARY), "text": CANARY}],
    }
    with notes.open("a") as file:
        file.write(json.dumps(record) + "\n")
        if is_malformed:
            file.write(json.dumps({**record, "entities": [{**record["entities"][0], "end": 3}]}) + "\n")  # type: ignore[dict-item]
            file.write(json.dumps({**record, TEXT: TEXT}) + "\n")
            file.write('{"id": "' + TEXT + '", "text": \n')


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    root = tmp_path_factory.mktemp("canaries")
    options = DemoOptions(
        out=root / "out",
        base_model=str(make_tiny_model(root / "tiny")),
        data=None,
        sites=3,
        rounds=1,
        device="cpu",
        examples_per_round=6,
        test_passages=2,
        seed=1,
        with_three_shot=False,
    )
    addresses = addresses_of(free_ports(options.sites + 3))
    prepared = prepare(options, addresses)
    prepared = replace(prepared, terms=replace(prepared.terms, rounds=replace(prepared.terms.rounds, quorum=1)))
    for config in prepared.agent_configs.values():
        policy = config.parent / POLICY
        assert "[terms.rounds]\n" in policy.read_text()
        policy.write_text(policy.read_text().replace("[terms.rounds]\n", "[terms.rounds]\nquorum = [1, 3]\n"))
    configs = [prepared.agent_configs[name] for name in prepared.terms.rounds.sites]
    for number, config in enumerate(configs):
        plant(config.parent / "train.jsonl", is_malformed=number == MALFORMED)
    command = json.dumps([sys.executable, "-P", crashing_trainer.__file__])
    crashing = configs[CRASHING].read_text()
    assert "[trainer]\n" in crashing
    configs[CRASHING].write_text(crashing.replace("[trainer]\n", f"[trainer]\ncommand = {command}\n"))
    scraped = Scraped([f"http://{listen}/metrics" for listen in addresses.metrics])
    thread = threading.Thread(target=scraped.run)
    thread.start()
    console = Console(file=io.StringIO(), width=200)
    try:
        with process_group(options.out / "logs") as group:
            run_prepared(prepared, addresses, group, console)
    finally:
        scraped.stop.set()
        thread.join()
    said = console.file.getvalue()  # type: ignore[attr-defined]
    return Ended(folder=options.out, said=said, pages=tuple(scraped.pages), configs=tuple(configs))


def test_each_thing_went_wrong_as_it_was_meant_to(ended: Ended) -> None:
    logs = [path.read_text() for path in sorted((ended.folder / "logs").glob("site*.log"))] or [
        path.read_text() for path in sorted((ended.folder / "logs").glob("*.log"))
    ]
    everything = "\n".join(logs)
    assert "TRAINER_CRASHED" in everything and "NOTES_INVALID" in everything and "answer_accepted" in everything
    crashed = [*ended.configs[CRASHING].parent.glob("state/assignments/*/trainer.log")]
    assert any("RuntimeError" in path.read_text() for path in crashed)
    assert len(ended.pages) >= 5


def test_the_canaries_are_in_no_file_but_the_notes(ended: Ended) -> None:
    found = [path for path in ended.folder.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
    assert sorted(found) == sorted(config.parent / "train.jsonl" for config in ended.configs)


def test_the_canaries_are_in_no_metric_and_nothing_that_was_said(ended: Ended) -> None:
    assert CANARY not in "\n".join(ended.pages) and CANARY not in ended.said


@pytest.mark.parametrize(
    "command",
    [
        ("ledger", "list"),
        ("ledger", "export", "--csv", "-"),
        ("ledger", "verify"),
        ("doctor", "--json"),
    ],
    ids=" ".join,
)
def test_the_canaries_are_in_nothing_that_a_command_prints_about_a_site(ended: Ended, command: tuple[str, ...]) -> None:
    for config in ended.configs:
        run = [sys.executable, "-m", "site_agent", *command, "--config", str(config)]
        printed = subprocess.run(run, capture_output=True, text=True, timeout=120, check=False)
        assert printed.stdout and CANARY not in printed.stdout + printed.stderr


def test_malformed_records_are_told_by_place_and_never_quoted(ended: Ended) -> None:
    notes = str(ended.configs[MALFORMED].parent / "train.jsonl")
    run = [sys.executable, "-m", "site_agent", "data", "check", notes]
    printed = subprocess.run(run, capture_output=True, text=True, timeout=120, check=False)
    assert printed.returncode == 1 and "train.jsonl" in printed.stderr
    assert CANARY not in printed.stdout + printed.stderr
