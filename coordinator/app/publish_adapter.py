"""Writes a round's candidate into the registry: a plain PEFT folder with a model card and its lineage.

A version is immutable: its folder is written beside its place and renamed into it, so it is there whole or not at all,
and its files are read-only, since the weights are a hard link to what agents download. Decides nothing about promotion.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from dataclasses import asdict
from pathlib import Path

from common.files import sync_file, sync_folder
from common.peft_folder import CONFIG_FILE, LINEAGE_FILE, WEIGHTS_FILE, peft_config
from coordinator.domain.values import Round, Run, TaskScores

CARD_FILE = "README.md"
SERVED = "served"
_BY_SIZE = " Not every update was scored there, so the weights are those of sizes alone."
_PARTIAL = (
    " Factors of each site stayed there, so this version is no adapter by itself: a site's own ones belong to it."
)
_WRITABLE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


def version_folder(registry: Path, run: Run, version: int) -> Path:
    """Where version ``version`` of the run's adapter lies: ``<registry>/<run name>/v0001``."""
    return registry / run.terms.name / version_name(version)


def version_name(version: int) -> str:
    """The name of a version's folder."""
    return f"v{version:04d}"


def is_published(registry: Path, run: Run, closed: Round) -> bool:
    """Whether ``publish`` would change nothing."""
    folder = version_folder(registry, run, closed.number)
    is_last = closed.number == _last_promoted(run)
    return folder.exists() and (not is_last or _served_version(folder.parent) >= closed.number)


def publish(registry: Path, run: Run, closed: Round, weights: Path) -> Path:
    """Write the folder of ``closed``'s candidate, whose file is ``weights``; returns the folder.

    Done twice it changes nothing. ``served`` beside the versions points at the last promoted one; a version that is
    published late, by a ``run`` as it once was, does not turn it back.
    """
    folder = version_folder(registry, run, closed.number)
    if not folder.exists():
        draft = folder.with_name(f".{folder.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        _fill(draft, run, closed, weights)
        sync_folder(draft)
        draft.rename(folder)
        sync_folder(folder.parent)
    if closed.number == _last_promoted(run) and closed.number > _served_version(folder.parent):
        _point(folder.parent / SERVED, folder.name)
    for changed in (folder.parent, registry, registry.parent):
        sync_folder(changed)
    return folder


def _fill(folder: Path, run: Run, closed: Round, weights: Path) -> None:
    for name, content in files_beside_weights(run, closed).items():
        (folder / name).write_bytes(content)
    try:
        os.link(weights, folder / WEIGHTS_FILE)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(weights, folder / WEIGHTS_FILE)
    for path in folder.iterdir():
        path.chmod(stat.S_IMODE(path.stat().st_mode) & ~_WRITABLE)
        sync_file(path)


def files_beside_weights(run: Run, closed: Round) -> dict[str, bytes]:
    """The small files of a version's folder, by name."""
    assert closed.candidate is not None, "what is published has a candidate"
    return {
        CONFIG_FILE: _json(peft_config(run.spec_of(closed.candidate), run.terms)),
        LINEAGE_FILE: _json(lineage(run, closed)),
        CARD_FILE: model_card(run, closed).encode(),
    }


def _json(document: object) -> bytes:
    return json.dumps(document, indent=2, sort_keys=True).encode() + b"\n"


def _last_promoted(run: Run) -> int:
    return max((past.number for past in run.rounds if past.is_promoted), default=0)


def _served_version(folder: Path) -> int:
    """The number of the version that ``served`` in the run's folder points at; 0 when there is none."""
    try:
        return int((folder / SERVED).readlink().name.removeprefix("v"))
    except FileNotFoundError:
        return 0


def _point(link: Path, target: str) -> None:
    draft = link.with_name(f".{link.name}.{target}.draft")
    draft.unlink(missing_ok=True)
    draft.symlink_to(target)
    draft.replace(link)


def lineage(run: Run, closed: Round) -> dict[str, object]:
    """Where the adapter comes from: terms, parent, roster and weights, digests, scores. No text of any note."""
    assert closed.candidate is not None
    return {
        "run_id": run.run_id,
        "terms": json.loads(run.terms.canonical),
        "terms_digest": run.terms.digest,
        "round": closed.number,
        "phase": closed.phase,
        "digest": closed.candidate.digest,
        "parent_digest": closed.global_adapter.digest,
        "roster": [
            {
                "site": entry.site,
                "outcome": entry.outcome,
                "reason": entry.reason,
                "weight": entry.weight,
                "lora_rank": entry.lora_rank or run.terms.lora.lora_rank,
                "validation_loss": entry.scores.mean_loss if entry.scores else None,
                "num_examples": entry.update.num_examples if entry.update else 0,
                "num_label_tokens": entry.update.num_label_tokens if entry.update else 0,
                "tasks": [asdict(each) for each in entry.update.tasks] if entry.update else [],
                "update_digest": entry.update.file.digest if entry.update else None,
            }
            for entry in closed.roster
        ],
        "scores": _scores(closed),
        "is_unscored": closed.is_unscored,
        "is_partial": closed.is_partial,
        "is_weighed_by_size": closed.is_weighed_by_size,
    }


def _scores(closed: Round) -> dict[str, object] | None:
    if closed.scores is None:
        return None
    scores = closed.scores
    return {
        "mean_loss": scores.mean_loss,
        "strict_f1": None if scores.strict is None else scores.strict.value,
        "lenient_f1": None if scores.lenient is None else scores.lenient.value,
        "num_examples": scores.num_examples,
        "data_digest": scores.data_digest,
        "tasks": [_task_scores(each) for each in scores.tasks],
    }


def _task_scores(scores: TaskScores) -> dict[str, object]:
    return {
        "task": scores.task,
        "mean_loss": scores.mean_loss,
        "strict_f1": None if scores.strict is None else scores.strict.value,
        "lenient_f1": None if scores.lenient is None else scores.lenient.value,
        "num_examples": scores.num_examples,
    }


def _caveats(closed: Round) -> str:
    return (_BY_SIZE if closed.is_weighed_by_size else "") + (_PARTIAL if closed.is_partial else "")


def model_card(run: Run, closed: Round) -> str:
    """The folder's README: what the adapter is for, and its lineage, for a person."""
    assert closed.candidate is not None
    terms, spec = run.terms, run.spec_of(closed.candidate)
    rows = "\n".join(
        f"| {entry.site} | {entry.outcome} | {entry.update.num_examples if entry.update else 0} | {entry.weight:.4f} |"
        for entry in closed.roster
    )
    scores = (
        "not scored" if closed.scores is None else ", ".join(f"{k} {v}" for k, v in (_scores(closed) or {}).items())
    )
    return f"""---
library_name: peft
base_model: {terms.base_model.name}
tags: [federated-learning, lora, clinical-information-extraction]
---

# {terms.name}, version {closed.number}

A LoRA adapter (rank {spec.lora_rank}, alpha {spec.lora_alpha}, {spec.parameters:,} parameters) for
**{terms.base_model.name}**, trained by a federation with `{terms.aggregation.strategy}`. It extracts
{", ".join(terms.task.entity_types)} from clinical notes. No note left the site that holds it.

| site | outcome | examples | weight |
|---|---|--:|--:|
{rows}

Round {closed.number} ended as **{closed.phase}**{" on a subset of the sites invited" if closed.is_subset else ""}.
On the consortium's validation set: {scores}.{_caveats(closed)}

- weights: `{closed.candidate.digest}`
- trained from: `{closed.global_adapter.digest}`
- terms of the run: `{terms.digest}`
- base model weights: `{terms.base_model.weights_digest}`

`{LINEAGE_FILE}` holds all of this for programs. Not a medical device; check what it extracts.
"""
