"""Text that is planted in records is found nowhere but in the sites' files of notes, whatever goes wrong with them.

A federation of real processes on a tiny model: one site trains on nothing but canaries, and the evaluator scores on
them; one's trainer crashes with its notes in every message, and dies of a fault with them in its memory; and one's
records are malformed. Everything that came of it is searched, for the canaries and for what they may be disguised as:
files, what was said, metrics, what travelled between the processes, and their arguments and environments.
"""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from rich.console import Console
from tokenizers import Tokenizer

from common.adapter import FactorSet
from demo.federation import addresses_of, run_prepared
from demo.options import DemoOptions
from demo.prepare import EVALUATOR, POLICY, Addresses, Prepared, prepare
from demo.processes import process_group
from site_agent.orders import ORDER, ORDER_FILE, BaseModelSource, TrainOrder
from site_agent.trainer.base_model_files import describe_base_model
from tests.e2e.disguises import disguises, unpacked
from tests.e2e.wiretap import Wiretap
from tests.fakes import crashing_trainer
from tests.running import free_ports
from tests.tiny_model import make_tiny_model

pytestmark = pytest.mark.slow

# In no word of the generated notes, and no token of the model is long enough to be one of them.
DRUG, PERSON = "Zanzibarine", "Canaryfield"
TEXT = f"{DRUG} was given to Quentin {PERSON} on the ward."
GOOD, CRASHING, MALFORMED = range(3)
RECORDS = 12


@dataclass(slots=True)
class Watch:
    """Pages of metrics, and the arguments and environments of processes, taken again and again until told to stop."""

    urls: list[str]
    folder: Path
    pages: list[bytes] = field(default_factory=list)
    processes: list[bytes] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.stop.wait(0.5):
            for url in self.urls:
                with suppress(OSError), urllib.request.urlopen(url, timeout=5) as page:
                    self.pages.append(page.read())
            for process in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    arguments = (process / "cmdline").read_bytes()
                    if str(self.folder).encode() in arguments:
                        self.processes += [arguments, (process / "environ").read_bytes()]


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    thread = threading.Thread(target=watch.run)
    thread.start()
    try:
        yield
    finally:
        watch.stop.set()
        thread.join()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The folder of all that was written, what was said, and the configurations of the sites."""

    folder: Path
    prepared: Prepared
    said: str
    watched: Watch
    travelled: tuple[bytes, ...]
    configs: tuple[Path, ...]
    needles: frozenset[bytes]

    @property
    def planted(self) -> list[Path]:
        """The files that the canaries are in."""
        validation = self.prepared.agent_configs[EVALUATOR].parent.glob("*.jsonl")
        return sorted([*validation, *(config.parent / "train.jsonl" for config in self.configs)])

    def tells(self, contents: Iterable[bytes]) -> bool:
        """Whether a canary is in one of them, however disguised."""
        return any(needle in form for content in contents for form in unpacked(content) for needle in self.needles)


def record(number: int) -> dict[str, object]:
    entity = {"id": "T1", "type": "drug", "start": 0, "end": len(DRUG), "text": DRUG}
    return {"id": f"c{number}", "text": f"{TEXT} Day {number}.", "entities": [entity]}


def plant(notes: Path) -> None:
    """Nothing but canaries."""
    notes.write_text("".join(json.dumps(record(number)) + "\n" for number in range(RECORDS)))


def spoil(notes: Path) -> None:
    """Records that are none, with canaries wherever a message could quote them."""
    good = record(RECORDS)
    entity = {"id": "T1", "type": "drug", "start": 0, "end": 3, "text": DRUG}
    with notes.open("a") as file:
        file.write(json.dumps({**good, "entities": [entity]}) + "\n")
        file.write(json.dumps({**good, TEXT: TEXT}) + "\n")
        file.write('{"id": "' + TEXT + '", "text": \n')


def prepared_for_one(options: DemoOptions, addresses: Addresses) -> Prepared:
    """A demo whose round goes on when one site has answered."""
    prepared = prepare(options, addresses)
    prepared = replace(prepared, terms=replace(prepared.terms, rounds=replace(prepared.terms.rounds, quorum=1)))
    for config in prepared.agent_configs.values():
        policy = config.parent / POLICY
        assert "[terms.rounds]\n" in policy.read_text()
        policy.write_text(policy.read_text().replace("[terms.rounds]\n", "[terms.rounds]\nquorum = [1, 3]\n"))
    return prepared


def plant_everywhere(prepared: Prepared, sites: list[Path]) -> None:
    for config in sites:
        plant(config.parent / "train.jsonl")
    first, *others = sorted(prepared.agent_configs[EVALUATOR].parent.glob("*.jsonl"))
    plant(first)
    for other in others:  # an id comes once in all files
        other.write_text(first.read_text().replace('"id": "c', f'"id": "{other.stem}-'))
    spoil(sites[MALFORMED].parent / "train.jsonl")
    command = json.dumps([sys.executable, "-P", crashing_trainer.__file__])
    crashing = sites[CRASHING].read_text()
    assert "[trainer]\n" in crashing
    sites[CRASHING].write_text(crashing.replace("[trainer]\n", f"[trainer]\ncommand = {command}\n"))


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ended]:
    root = tmp_path_factory.mktemp("canaries")
    base_model = make_tiny_model(root / "tiny")
    options = DemoOptions(
        out=root / "out",
        base_model=str(base_model),
        data=None,
        sites=3,
        rounds=1,
        device="cpu",
        examples_per_round=6,
        test_passages=2,
        seed=1,
        with_three_shot=False,
    )
    tap_port, port = free_ports(2)
    addresses = addresses_of([port, *free_ports(options.sites + 3)])
    addresses = replace(addresses, coordinator=f"localhost:{tap_port}")
    prepared = prepared_for_one(options, addresses)
    configs = [prepared.agent_configs[name] for name in prepared.terms.rounds.sites]
    plant_everywhere(prepared, configs)
    watch = Watch([f"http://{listen}/metrics" for listen in addresses.metrics], root)
    console = Console(file=io.StringIO(), width=200)
    tap = Wiretap(folder=options.out, coordinator=options.out / "coordinator/identity", port=tap_port, target=port)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TMPDIR", "XDG_CACHE_HOME"):  # what is left there is searched, too
            (root / name).mkdir()
            patch.setenv(name, str(root / name))
        with tap, watching(watch), process_group(options.out / "logs") as group:
            run_prepared(prepared, addresses, group, console)
    tokenizer = Tokenizer.from_file(str(base_model / "tokenizer.json"))
    needles = [disguises(word, lambda text: tokenizer.encode(text).ids) for word in (DRUG, PERSON)]
    yield Ended(
        folder=root,
        prepared=prepared,
        said=console.file.getvalue(),  # type: ignore[attr-defined]
        watched=watch,
        travelled=tuple(tap.said()),
        configs=tuple(configs),
        needles=frozenset().union(*needles),
    )


def files_that_tell(ended: Ended) -> list[Path]:
    files = [path for path in ended.folder.rglob("*") if path.is_file()]
    assert len(files) > 50
    return sorted(path for path in files if ended.tells([path.read_bytes()]))


def test_each_thing_went_wrong_as_it_was_meant_to(ended: Ended) -> None:
    logs = "\n".join(path.read_text() for path in (ended.folder / "out/logs").glob("*.log"))
    assert "TRAINER_CRASHED" in logs and "NOTES_INVALID" in logs and "answer_accepted" in logs
    crashed = [*ended.configs[CRASHING].parent.glob("state/assignments/*/trainer.log")]
    assert any("RuntimeError" in path.read_text() for path in crashed)


def test_the_canaries_are_in_no_file_but_the_notes(ended: Ended) -> None:
    assert files_that_tell(ended) == ended.planted


def order_of(ended: Ended) -> TrainOrder:
    """What a trainer of the site is told to do; the agents remove theirs when they are done."""
    model = ended.folder / "tiny"
    base = BaseModelSource(location=str(model), expected=describe_base_model(model, "tiny"), device="cpu", threads=1)
    return TrainOrder(
        base_model=base,
        lora=ended.prepared.terms.lora,
        task=ended.prepared.terms.task,
        training=ended.prepared.terms.training,
        data_files=(str(ended.configs[CRASHING].parent / "train.jsonl"),),
        trained=FactorSet.A_AND_B,
        uploaded=FactorSet.A_AND_B,
        round_number=1,
        seed=1,
        wire_dtype="bf16",
    )


def test_a_trainer_that_dies_of_a_fault_leaves_no_image_of_its_memory(ended: Ended) -> None:
    folder = ended.folder / "faulty"
    folder.mkdir()
    (folder / ORDER_FILE).write_bytes(ORDER.dump_json(order_of(ended)))
    (folder / crashing_trainer.ABORT_FILE).touch()
    run = ["sh", "-c", 'ulimit -S -c "$(ulimit -H -c)"; exec "$@"', "sh", sys.executable, crashing_trainer.__file__]
    died = subprocess.run([*run, str(folder)], cwd=folder, capture_output=True, timeout=120, check=False)
    assert died.returncode == -signal.SIGABRT, died.stderr
    assert not ended.tells([died.stdout, died.stderr])
    assert files_that_tell(ended) == ended.planted


def test_the_canaries_are_in_no_metric_and_nothing_that_was_said(ended: Ended) -> None:
    assert len(ended.watched.pages) >= 5
    assert not ended.tells([*ended.watched.pages, ended.said.encode()])


def test_the_canaries_are_in_no_argument_and_no_environment_of_a_process(ended: Ended) -> None:
    assert any(b"site_agent.trainer" in each for each in ended.watched.processes)
    assert not ended.tells(ended.watched.processes)


def test_the_canaries_are_in_nothing_that_travelled(ended: Ended) -> None:
    travelled = b"\n".join(ended.travelled)
    for heard in (b"/fedmedlora.v1.RoundService/UploadUpdate", b"lora_A", ended.prepared.terms.name.encode()):
        assert heard in travelled, "what is known to travel must be heard"
    assert not ended.tells(ended.travelled)


@pytest.mark.parametrize(
    "command",
    [
        ("ledger", "list"),
        ("ledger", "export", "--csv", "-"),
        ("ledger", "verify"),
        ("doctor", "--json"),
        ("review",),
    ],
    ids=" ".join,
)
def test_the_canaries_are_in_nothing_that_a_command_prints_about_a_site(ended: Ended, command: tuple[str, ...]) -> None:
    for config in ended.configs:
        run = [sys.executable, "-m", "site_agent", *command, "--config", str(config)]
        printed = subprocess.run(run, capture_output=True, timeout=120, check=False)
        assert printed.stdout and not ended.tells([printed.stdout, printed.stderr])


def test_malformed_records_are_told_by_place_and_never_quoted(ended: Ended) -> None:
    notes = str(ended.configs[MALFORMED].parent / "train.jsonl")
    run = [sys.executable, "-m", "site_agent", "data", "check", notes]
    printed = subprocess.run(run, capture_output=True, timeout=120, check=False)
    assert printed.returncode == 1 and b"train.jsonl" in printed.stderr
    assert not ended.tells([printed.stdout, printed.stderr])
