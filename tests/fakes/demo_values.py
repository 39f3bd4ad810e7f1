"""Small values of the demo, for tests: its options, results of models, and a run that has ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from demo.findings import BaseModelSize, DemoFindings
from demo.options import DemoOptions
from demo.release import Release
from demo.scoring import ScoreKey
from fedmedlora.v1 import admin_pb2
from site_agent.orders import EvaluateResult, F1Counts, F1Interval, TypeCounts

SITES = ("anna", "berta")
GOLD = 10


def make_options(out: Path, base_model: Path, *, rounds: int = 3, data: Path | None = None) -> DemoOptions:
    """A small demo on the CPU."""
    return DemoOptions(
        out=out,
        base_model=str(base_model),
        data=data,
        sites=2,
        rounds=rounds,
        device="cpu",
        examples_per_round=6,
        test_passages=2,
        seed=7,
        with_three_shot=False,
    )


def found_of_ten(true_positives: int) -> EvaluateResult:
    """What a model scores that predicts as many entities as there are: ten, of them so many true."""
    counts = F1Counts(true_positives=true_positives, predicted=GOLD, gold=GOLD)
    nothing = F1Counts(true_positives=0, predicted=0, gold=0)
    return EvaluateResult(
        mean_loss=None,
        num_label_tokens=100,
        num_examples=8,
        num_passages=2,
        strict=counts,
        lenient=counts,
        strict_agnostic=counts,
        lenient_agnostic=counts,
        strict_interval=F1Interval(low=0.1, high=0.9),
        per_type=(
            TypeCounts(entity_type="drug", strict=counts, lenient=counts),
            TypeCounts(entity_type="test", strict=nothing, lenient=nothing),
        ),
    )


def make_findings(true_positives: Mapping[str, tuple[int, int]], run: admin_pb2.RunReport) -> DemoFindings:
    """Findings of a demo of two sites; of each model, the true ones of ten on the notes of either site."""
    scores = {
        ScoreKey(model=model, site=site): found_of_ten(count)
        for model, counts in true_positives.items()
        for site, count in zip(SITES, counts, strict=True)
    }
    return DemoFindings(
        run=run,
        release=Release(
            folder=Path("/out of/release"),
            check=("verify", "/out of/release", "--ca", "/out of/root.pem"),
            said=("/out of/release: yes", "updates signed by keys that the root confirms: 4 of 4"),
        ),
        base_model=BaseModelSize(parameters=500, bytes=1000),
        scores=scores,
        sites=SITES,
        adapter_folder=Path("/out of/adapter"),
        adapter_parameters=50,
        base_model_location="/models/base",
        sample_note=Path("/out of/note.txt"),
    )


def make_run(phases: tuple[admin_pb2.Phase.ValueType, ...], *, is_over: bool = True) -> admin_pb2.RunReport:
    """A run of two sites, a round for each of ``phases``; each site moved 30 bytes up and 40 down in each."""
    state = admin_pb2.RUN_STATE_COMPLETED if is_over else admin_pb2.RUN_STATE_RUNNING
    report = admin_pb2.RunReport(summary=admin_pb2.RunSummary(name="trial", state=state))
    for number, phase in enumerate(phases, start=1):
        past = report.rounds.add(round_number=number, phase=phase)
        past.duration.seconds = 10 * number
        for site in SITES:
            past.roster.add(
                site=site, outcome=admin_pb2.SITE_OUTCOME_ACCEPTED, upload_bytes=30, download_bytes=40, weight=0.5
            )
    return report


ASPIRIN = {"id": "T1", "type": "drug", "start": 17, "end": 24, "text": "aspirin"}


def write_passages(path: Path, sentences: list[int]) -> Path:
    """A file of passages with so many sentences each."""
    with path.open("w", encoding="utf-8") as file:
        for number, count in enumerate(sentences):
            text = " ".join(["The patient took aspirin."] * count)
            record = {"id": f"passage-{number}", "text": text, "entities": [ASPIRIN]}
            file.write(json.dumps(record) + "\n")
    return path
