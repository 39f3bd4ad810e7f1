"""What a demo found out, as numbers: scores, margins between models, bytes. Pure; it prints and writes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from demo.release import Release
from demo.scoring import ScoreKey
from fedmedlora.v1 import admin_pb2
from site_agent.orders import EvaluateResult, F1Counts
from site_agent.trainer.extraction.scoring import f1, macro_f1

ZERO_SHOT, THREE_SHOT, FEDERATED = "zero_shot", "three_shot", "federated"


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseModelSize:
    """The base model, as it would travel if it did."""

    parameters: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoFindings:
    """Everything that the report is made of."""

    run: admin_pb2.RunReport
    release: Release
    base_model: BaseModelSize
    scores: Mapping[ScoreKey, EvaluateResult]
    sites: Sequence[str]
    adapter_folder: Path
    adapter_parameters: int
    base_model_location: str
    sample_note: Path

    @property
    def shared_models(self) -> list[str]:
        """Models that are the same for every site; the three-shot one only when it was asked for."""
        models = (ZERO_SHOT, THREE_SHOT, FEDERATED)
        return [model for model in models if ScoreKey(model=model, site=self.sites[0]) in self.scores]

    def result(self, model: str, site: str) -> EvaluateResult:
        """What one model scored on one site's notes."""
        return self.scores[ScoreKey(model=model, site=site)]

    def strict_f1(self, model: str, site: str) -> float:
        """Strict F1, type-aware and micro-averaged: the score that models are compared by."""
        return f1(_counts(self.result(model, site).strict))


def single_site(site: str) -> str:
    """The name of the model that ``site`` trained on its own."""
    return f"single_site:{site}"


def scores_of(found: DemoFindings, model: str, site: str) -> dict[str, float]:
    """The two scores of a cell of the table."""
    result = found.result(model, site)
    return {"strict_f1": f1(_counts(result.strict)), "lenient_f1": f1(_counts(result.lenient))}


def details_of(result: EvaluateResult) -> dict[str, object]:
    """Everything known about one model on one site's notes: all F1s of the paper, with their counts."""
    per_type = {
        one.entity_type: {"strict": _with_f1(one.strict), "lenient": _with_f1(one.lenient)} for one in result.per_type
    }
    interval = result.strict_interval
    return {
        "strict": _with_f1(_counts(result.strict)),
        "lenient": _with_f1(_counts(result.lenient)),
        "strict_type_agnostic": _with_f1(_counts(result.strict_agnostic)),
        "lenient_type_agnostic": _with_f1(_counts(result.lenient_agnostic)),
        "strict_macro_f1": macro_f1(one.strict for one in result.per_type),
        "lenient_macro_f1": macro_f1(one.lenient for one in result.per_type),
        "per_type": per_type,
        "strict_f1_interval_95": [interval.low, interval.high] if interval else None,
        "malformed_answers": result.malformed_answers,
    }


def scored_notes(found: DemoFindings, site: str) -> dict[str, int]:
    """What the models were scored on at one site."""
    result = found.result(FEDERATED, site)
    gold = _counts(result.strict).gold
    return {"passages": result.num_passages, "sentences": result.num_examples, "gold_entities": gold}


def margins(found: DemoFindings, site: str) -> dict[str, float | None]:
    """The federated model's strict F1 at one site against those of others; None where there is nothing to compare."""
    federated, alone = found.strict_f1(FEDERATED, site), found.strict_f1(single_site(site), site)
    three_shot = found.strict_f1(THREE_SHOT, site) if THREE_SHOT in found.shared_models else None
    return {
        "federated_minus_zero_shot": federated - found.strict_f1(ZERO_SHOT, site),
        "federated_minus_three_shot": None if three_shot is None else federated - three_shot,
        "federated_over_single_site": federated / alone if alone else None,
    }


def means(found: DemoFindings) -> dict[str, float | None]:
    """Mean strict F1 over sites of the federated model, and of single-site models on the other sites' notes."""
    cross = [
        found.strict_f1(single_site(trained), site)
        for trained in found.sites
        for site in found.sites
        if site != trained
    ]
    return {
        "federated_strict_f1": fmean(found.strict_f1(FEDERATED, site) for site in found.sites),
        "single_site_on_other_sites_strict_f1": fmean(cross) if cross else None,
    }


def travelled(found: DemoFindings) -> dict[str, float]:
    """Bytes between the coordinator and the sites that sent an update; the evaluator's are not in it.

    ``full_model_bytes`` is what as many trips of the base model would have been.
    """
    entries = [entry for past in found.run.rounds for entry in past.roster if entry.upload_bytes]
    up, down = sum(entry.upload_bytes for entry in entries), sum(entry.download_bytes for entry in entries)
    full_model = 2 * found.base_model.bytes * len(entries)
    return {
        "sites_and_rounds": len(entries),
        "upload_bytes": up,
        "download_bytes": down,
        "full_model_bytes": full_model,
        "share_of_full_model": (up + down) / full_model if full_model else 0.0,
    }


def _counts(counts: F1Counts | None) -> F1Counts:
    assert counts is not None, "a scored model has counts"
    return counts


def _with_f1(counts: F1Counts) -> dict[str, float]:
    return {"f1": f1(counts), **asdict(counts)}
