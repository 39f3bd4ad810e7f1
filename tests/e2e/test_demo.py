"""`make demo` in small: the real processes, a tiny random model, generated notes, from preparation to report."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from common.identity_folder import read_certified
from common.weights_io import WeightsReader, file_digest
from tests.running import wait_until
from tests.tiny_model import make_tiny_model

ROUNDS, SITES, EXAMPLES, PASSAGES = 2, 3, 6, 2
SECONDS = 1200.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedDemo:
    """A demo that ran to its end."""

    folder: Path
    base_model: Path
    output: str
    report: dict[str, Any]


def demo_command(out: Path, base_model: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "demo", "--out", str(out), "--model", str(base_model), "--device", "cpu"),
        *("--rounds", str(ROUNDS), "--examples", str(EXAMPLES), "--test-passages", str(PASSAGES), *more),
    ]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FinishedDemo]:
    root = tmp_path_factory.mktemp("a demo")  # with a space, as folders of people have
    base_model, out = make_tiny_model(root / "tiny"), root / "out"
    ended = subprocess.run(demo_command(out, base_model), capture_output=True, text=True, timeout=SECONDS, check=False)
    logs = "\n".join(path.read_text()[-2000:] for path in (out / "logs").glob("*.log"))
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}\n{logs}"
    report = json.loads((out / "report.json").read_text())
    yield FinishedDemo(folder=out, base_model=base_model, output=ended.stdout, report=report)


def test_every_round_commits_with_every_site_in_its_roster(demo: FinishedDemo) -> None:
    rounds = demo.report["rounds"]
    assert [past["round"] for past in rounds] == [1, 2]
    assert all(entry["outcome"] == "accepted" for past in rounds for entry in past["roster"])
    assert [len(past["roster"]) for past in rounds] == [SITES, SITES]


def test_the_weights_of_a_round_sum_to_one_and_follow_the_label_tokens(demo: FinishedDemo) -> None:
    for past in demo.report["rounds"]:
        tokens = [entry["num_label_tokens"] for entry in past["roster"]]
        weights = [entry["weight"] for entry in past["roster"]]
        assert weights == pytest.approx([count / sum(tokens) for count in tokens])
        assert sum(weights) == pytest.approx(1.0)


def test_the_report_has_a_score_of_every_model_for_every_site(demo: FinishedDemo) -> None:
    scores = demo.report["scores"]
    assert set(scores) >= {"zero_shot", "single_site", "federated"}
    for by_site in scores.values():
        assert len(by_site) == SITES
        assert all(0 <= cell[key] <= 1 for cell in by_site.values() for key in ("strict_f1", "lenient_f1"))


def test_the_report_says_on_how_much_each_site_was_scored_and_how_sure_its_score_is(demo: FinishedDemo) -> None:
    for site, notes in demo.report["scored_notes"].items():
        details = demo.report["details"]["federated"][site]
        low, high = details["strict_f1_interval_95"]
        assert notes["passages"] == PASSAGES and notes["sentences"] >= PASSAGES
        assert notes["gold_entities"] == details["strict"]["gold"] > 0
        assert 0 <= low <= high <= 1
    assert set(demo.report["margins"]) == set(demo.report["scored_notes"])


def test_a_log_of_the_demo_tells_each_round_and_each_score_as_it_is_there(demo: FinishedDemo) -> None:
    lines = demo.output.splitlines()
    orders = SITES * (1 + ROUNDS + SITES) + 2 * SITES
    assert [line.split(" in ")[0] for line in lines if re.match(r"round \d: committed", line)] == [
        "round 1: committed",
        "round 2: committed",
    ]
    told = [int(match[1]) for line in lines if (match := re.match(rf"(\d+) of {orders}: ", line))]
    assert told == list(range(1, orders + 1))


def test_the_report_names_the_base_model_and_the_adapter(demo: FinishedDemo) -> None:
    adapter = demo.report["adapter"]
    weights = Path(adapter["path"]) / "adapter_model.safetensors"
    assert adapter["digest"] == file_digest(weights)
    with WeightsReader(weights) as reader:
        assert adapter["parameters"] == sum(_size(slot.shape) for slot in reader.layout.tensors)
    assert demo.report["base_model"]["bytes"] == sum(
        file.stat().st_size for file in demo.base_model.glob("*.safetensors")
    )


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for dimension in shape:
        size *= dimension
    return size


def test_the_published_folder_loads_in_peft_with_its_own_weights(demo: FinishedDemo) -> None:
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    folder = demo.report["adapter"]["path"]
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(demo.base_model), folder)
    published = load_file(Path(folder) / "adapter_model.safetensors")
    loaded = {name.replace(".default", ""): value for name, value in model.named_parameters() if "lora_" in name}
    assert set(loaded) == set(published)
    assert all(torch.equal(loaded[name].to(value.dtype), value) for name, value in published.items())
    assert any(value.abs().max() > 0 for name, value in published.items() if ".lora_B." in name)


def test_the_model_card_and_the_lineage_are_beside_the_weights(demo: FinishedDemo) -> None:
    folder = Path(demo.report["adapter"]["path"])
    lineage = json.loads((folder / "fedmedlora.json").read_text())
    assert lineage["digest"] == demo.report["adapter"]["digest"]
    assert len(lineage["roster"]) == SITES
    assert "library_name: peft" in (folder / "README.md").read_text()


def test_the_release_of_the_best_adapter_verifies_by_the_command_that_the_demo_prints(demo: FinishedDemo) -> None:
    release = demo.report["release"]
    line = next(line for line in demo.output.splitlines() if line.strip().startswith("fedmed-coordinator verify"))
    assert line.strip() == release["verified_by"]
    command = [sys.executable, "-m", "coordinator", *shlex.split(line)[1:]]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    said = ended.stdout.splitlines()
    assert said == release["said"]
    assert said[0] == f"{release['path']}: yes"
    assert f"updates signed by keys that the root confirms: {SITES * ROUNDS} of {SITES * ROUNDS}" in said
    assert f"rounds computed again from their updates: {', '.join(map(str, range(1, ROUNDS + 1)))}" in said
    assert file_digest(Path(release["path"]) / "adapter_model.safetensors") == demo.report["adapter"]["digest"]


def test_agents_became_members_by_join_files_that_are_spent_and_with_keys_that_no_ca_made(demo: FinishedDemo) -> None:
    names = [*demo.report["scored_notes"], "evaluator"]
    issued = {path: (demo.folder / path / "issued.jsonl").read_text() for path in ("ca", "coordinator/issuing_ca")}
    holders = {path: sorted(json.loads(line)["name"] for line in text.splitlines()) for path, text in issued.items()}
    assert holders["coordinator/issuing_ca"] == ["coordinator", "operator"]
    assert holders["ca"] == sorted(["issuing-ca", "coordinator", *demo.report["scored_notes"]])  # sites' signing keys
    for name in names:
        identity = demo.folder / "agents" / name / "identity"
        assert read_certified(identity).caller.name == name
        assert not (identity / "next_key.pem").exists()
    assert list(demo.folder.rglob("*.join")) == []


def test_extract_finds_entities_by_offsets_with_the_command_that_the_demo_prints(demo: FinishedDemo) -> None:
    line = next(line for line in demo.output.splitlines() if line.strip().startswith("fedmed-site extract"))
    command = [sys.executable, "-m", "site_agent", *shlex.split(line)[1:]]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    note = Path(command[-1]).read_text()
    for entity in json.loads(ended.stdout)["entities"]:
        assert note[entity["start"] : entity["end"]] == entity["text"]


def test_no_sentence_of_a_note_is_outside_the_folders_that_hold_notes(demo: FinishedDemo) -> None:
    canaries = _long_pieces(demo.folder / "agents")
    assert len(canaries) > 20
    folders = [demo.folder / name for name in ("logs", "coordinator", "operator", "ca", "release")]
    states = list(demo.folder.glob("agents/*/state"))
    assert [path for state in states for path in state.rglob("trainer.log")], "the agents' own folders are searched too"
    places = [path for folder in (*folders, *states) for path in folder.rglob("*") if path.is_file()]
    seen = b"\n".join(path.read_bytes() for path in places)
    leaked = [piece for piece in canaries if piece.encode() in seen]
    assert leaked == []


def _long_pieces(agents: Path) -> list[str]:
    """The first 40 characters of every passage that a site trained on."""
    lines = [line for path in agents.glob("*/*.jsonl") for line in path.read_text().splitlines()]
    return [json.loads(line)["text"].split("\n")[0][:40] for line in lines if len(json.loads(line)["text"]) > 40]


def test_nothing_of_the_demo_is_left_running(demo: FinishedDemo) -> None:
    assert _processes_that_name(str(demo.folder)) == []


@dataclass(frozen=True, slots=True, kw_only=True)
class Interruption:
    """How and when a demo is interrupted: once files of this pattern are there."""

    when: str
    number: signal.Signals
    is_ignored: bool = False  # as a shell ignores SIGINT for what it starts in the background


@pytest.mark.parametrize(
    "interruption",
    [
        Interruption(when="agents/*/state/assignments/*", number=signal.SIGINT),
        Interruption(when="scores/*/*/progress.json", number=signal.SIGINT, is_ignored=True),
        Interruption(when="scores/*/*/progress.json", number=signal.SIGTERM),
    ],
    ids=["Ctrl-C in a round", "Ctrl-C while scoring", "SIGTERM while scoring"],
)
def test_an_interrupted_demo_leaves_nothing_running(tmp_path: Path, interruption: Interruption) -> None:
    out = tmp_path / "out"
    ignored = signal.signal(interruption.number, signal.SIG_IGN) if interruption.is_ignored else None
    try:
        process = subprocess.Popen(
            demo_command(out, make_tiny_model(tmp_path / "tiny"), "--sites", "1", "--rounds", "1"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    finally:
        if ignored is not None:
            signal.signal(interruption.number, ignored)
    wait_until(lambda: any(out.glob(interruption.when)) or process.poll() is not None, seconds=240)
    assert len(_processes_that_name(str(out))) > 1
    process.send_signal(interruption.number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output.decode()
    assert _processes_that_name(str(out)) == []


def _processes_that_name(text: str) -> list[str]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if text in command:
                found.append(command)
    return found
