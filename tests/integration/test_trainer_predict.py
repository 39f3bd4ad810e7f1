"""``fedmed-site extract``'s child: notes and an adapter's folder in, entities with offsets out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from common.adapter import WireDtype
from common.errors import InputInvalidError, Reason
from common.ids import digest_of
from common.peft_folder import CONFIG_FILE, LINEAGE_FILE, WEIGHTS_FILE, peft_config
from common.terms import LoraTerms, LossOn, TaskTerms, Terms, TrainingTerms
from common.weights_io import file_digest
from site_agent.trainer.base_model_files import describe_base_model
from site_agent.trainer.extraction.mentions import Mention
from site_agent.trainer.extraction.notes import Note
from site_agent.trainer.extraction.prompts import build_prompt
from site_agent.trainer.extraction.render import Findings
from site_agent.trainer.predict import extract
from site_agent.trainer.training.adapter_files import write_adapter
from site_agent.trainer.training.loop import Course, train
from site_agent.trainer.training.lora import (
    adapter_parameters,
    adapter_spec,
    attach_adapter,
    initial_adapter,
    set_adapter,
)
from site_agent.trainer.training.tokens import tokenize_example
from tests.tiny_model import TINY_TARGET_MODULES, load_tiny_model, make_tiny_model

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LORA = LoraTerms(lora_rank=8, lora_alpha=16, target_modules=TINY_TARGET_MODULES)
TASK = TaskTerms(entity_types=("drug", "problem"), max_new_tokens=60)
# What the model learns by heart, and answers to whatever it is asked.
ANSWER = '[{"drug":"aspirin"},{"problem":"fever"}]'
NOTE = Note(name="note-1", text="Known asthma.\nOn aspirin since the fever.\n")
FOUND = (Mention(start=17, end=24, type="drug"), Mention(start=35, end=40, type="problem"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published adapter's folder, with its lineage."""
    folder = tmp_path_factory.mktemp("adapter")
    loaded = load_tiny_model(base)
    spec = adapter_spec(base, LORA, WireDtype.F32)
    adapted = attach_adapter(loaded.model, LORA)
    set_adapter(adapted, initial_adapter(spec, seed=1))
    sentences = ("Known asthma.", "On aspirin since the fever.")
    examples = [
        tokenize_example(loaded.tokenizer, build_prompt(TASK, text, TASK.entity_types), ANSWER, LossOn.ANSWER)
        for text in sentences
    ]
    training = TrainingTerms(learning_rate=1e-2, local_epochs=200)
    outcome = train(loaded, adapted, Course(examples=examples, terms=training, seed=1), lambda step: None)
    assert outcome.mean_loss < 0.05
    write_adapter(folder / WEIGHTS_FILE, adapter_parameters(adapted), WireDtype.F32)
    terms = Terms(name="run", base_model=describe_base_model(base, "tiny"), lora=LORA, task=TASK)
    (folder / CONFIG_FILE).write_text(json.dumps(peft_config(spec, terms)))
    lineage = {"digest": file_digest(folder / WEIGHTS_FILE), "terms": json.loads(terms.canonical)}
    (folder / LINEAGE_FILE).write_text(json.dumps(lineage))
    return folder


@pytest.fixture
def without_lineage(adapter: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "bare"
    folder.mkdir()
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        (folder / name).write_bytes((adapter / name).read_bytes())
    return folder


def run(base: Path, adapter: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "site_agent.trainer.predict", "--device", "cpu", "--base-model", str(base)]
    return subprocess.run(
        [*command, "--adapter", str(adapter), *map(str, arguments)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def written(folder: Path) -> Path:
    path = folder / f"{NOTE.name}.txt"
    path.write_text(NOTE.text)
    return path


def test_entities_have_the_offsets_of_the_note(base: Path, adapter: Path) -> None:
    assert extract(str(base), adapter, [NOTE], device="cpu") == (Findings(entities=FOUND),)


def test_without_a_lineage_the_task_must_be_given(base: Path, without_lineage: Path) -> None:
    with pytest.raises(InputInvalidError) as caught:
        extract(str(base), without_lineage, [NOTE], device="cpu")
    assert caught.value.reason is Reason.SETTINGS_UNSUPPORTED
    assert extract(str(base), without_lineage, [NOTE], TASK, device="cpu") == (Findings(entities=FOUND),)


def test_relations_are_asked_of_the_entities_that_were_found(base: Path, without_lineage: Path) -> None:
    """The model answers the same to every question: about the drug, "problem" is no role, and nothing comes of it."""
    related = replace(TASK, relation_types=("hasAttr", "treats"))
    (findings,) = extract(str(base), without_lineage, [NOTE], related, device="cpu")
    assert findings == Findings(entities=FOUND, relations=())


def test_an_adapter_that_learnt_relations_alone_has_no_heads_to_ask_about(base: Path, without_lineage: Path) -> None:
    alone = replace(TASK, relation_types=("treats",), relations_only=True)
    with pytest.raises(InputInvalidError, match="relations alone"):
        extract(str(base), without_lineage, [NOTE], alone, device="cpu")


def test_a_note_of_one_long_line_is_asked_about_in_pieces_and_keeps_its_offsets(base: Path, adapter: Path) -> None:
    line = "the fever and " * 70 + "aspirin"
    (findings,) = extract(str(base), adapter, [Note(name="long", text=line)], device="cpu")
    assert all(0 <= one.start < one.end <= len(line) for one in findings.entities)
    assert {line[one.start : one.end] for one in findings.entities} <= {"aspirin", "fever"}


def test_another_base_model_than_the_lineages_is_refused(adapter: Path, tmp_path: Path) -> None:
    other = make_tiny_model(tmp_path / "other", seed=1)
    with pytest.raises(InputInvalidError) as caught:
        extract(str(other), adapter, [NOTE], device="cpu")
    assert caught.value.reason is Reason.BASE_MODEL_MISMATCH


def test_the_command_prints_a_line_of_json_for_each_note(base: Path, adapter: Path, tmp_path: Path) -> None:
    done = run(base, adapter, written(tmp_path))
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert [(one["type"], one["start"], one["end"], one["text"]) for one in record["entities"]] == [
        ("drug", 17, 24, "aspirin"),
        ("problem", 35, 40, "fever"),
    ]


def test_the_command_writes_a_standoff_file_beside_no_other_output(base: Path, adapter: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run(base, adapter, written(tmp_path), "--format", "brat", "--out", out)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (out / "note-1.ann").read_text() == "T1\tdrug 17 24\taspirin\nT2\tproblem 35 40\tfever\n"


def test_a_changed_adapter_is_refused_by_one_sentence(
    base: Path, adapter: Path, without_lineage: Path, tmp_path: Path
) -> None:
    lineage = json.loads((adapter / LINEAGE_FILE).read_text())
    (without_lineage / LINEAGE_FILE).write_text(json.dumps(lineage | {"digest": digest_of(b"another")}))
    done = run(base, without_lineage, written(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert digest_of(b"another") in done.stderr


def test_two_notes_of_one_name_are_refused_before_the_work(base: Path, adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    notes = [written(tmp_path), written(tmp_path / "more")]
    done = run(base, adapter, *notes, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert not (tmp_path / "out").exists()


def test_a_crash_is_told_without_the_text_of_the_note(base: Path, without_lineage: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import site_agent.trainer.extraction.notes as notes\n"
        "def read_notes(path):\n    raise LookupError(path.read_text())\n"
        "notes.read_notes = read_notes\n"
    )
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-m", "site_agent.trainer.predict", "--base-model", str(base)]
    command += ["--adapter", str(without_lineage), str(written(tmp_path))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 1
    assert "LookupError" in done.stderr
    assert "aspirin" not in done.stdout + done.stderr
