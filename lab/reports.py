"""Writes an experiment's report: numbers, tables and figures in its folder; and lines for whoever starts it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from common.errors import FedMedError, InputInvalidError, Reason
from common.files import make_folder, write_whole
from common.ids import Digest
from common.task_terms import TaskTerms
from common.terms import Terms
from coordinator.domain.aggregation import check_needs, strategy_of
from lab.arms import CENTRE, Bench, of_one_task
from lab.corpora import NoteFile, check_ids
from lab.estimate import EstimatingWorkshop
from lab.experiment import Experiment, terms_of
from lab.figures import draw_all
from lab.findings import Findings, Kept
from lab.kept import read_kept, write_kept
from lab.latex import latex
from lab.numbers import write_numbers
from lab.rounds import check_ranks
from lab.tables import report

_FINDINGS = "findings.jsonl"


def found_in(folder: Path) -> dict[Digest, Kept]:
    """What a folder of results has findings of; raises as `lab.kept.read_kept`."""
    file = folder / _FINDINGS
    return read_kept([file] if file.exists() else [])


def write_report(folder: Path, experiment: Experiment, findings: Findings) -> list[Path]:
    """Write findings, numbers, report, table and figures into the folder; returns their paths.

    What the file of findings holds by now, and is not asked for, stays in it: it may be asked for again.
    """
    make_folder(folder)
    kept, numbers, text, table = (folder / name for name in (_FINDINGS, "numbers.csv", "report.md", "table.tex"))
    write_kept(kept, {**found_in(folder), **{one.asked: one for one in findings.kept}}.values())
    write_numbers(numbers, experiment, findings)
    write_whole(text, report(experiment, findings).encode())
    write_whole(table, latex(experiment, findings).encode())
    return [kept, numbers, text, table, *draw_all(experiment, findings, folder)]


def check(bench: Bench) -> Iterator[str]:
    """What an experiment works on, in lines; everything that it needs is looked at.

    Raises:
        InputInvalidError: what is wrong.
    """
    _check_arms(bench)
    yield from _notes(bench)
    check_ids(bench.validation)
    check_ids(bench.tests.values())
    yield f"validation set: {sum(file.sentences for file in bench.validation)} sentences"
    for name, file in bench.tests.items():
        yield f"test set {name}: {file.sentences} sentences"


def _check_arms(bench: Bench) -> None:
    experiment = bench.experiment
    types: dict[str, frozenset[str]] = {}
    for arm in experiment.arms:
        for seed in experiment.seeds_of(arm):
            sites = [site.name for site in experiment.sites_of(arm)] if arm.kind == "federated" else [CENTRE]
            terms = terms_of(experiment, arm, seed, sites, bench.base_model)
            _check_types(f"arm {arm.name}", terms.task, types)
            if arm.model == "encoder":  # no strategy has a part in it
                continue
            if arm.kind == "federated":
                _check_strategy(arm.name, terms, experiment)


def _check_strategy(arm: str, terms: Terms, experiment: Experiment) -> None:
    try:
        check_needs(strategy_of(terms), terms)
        check_ranks(terms, experiment.max_lora_ranks)
    except FedMedError as error:
        raise InputInvalidError(error.reason, f"arm {arm}: {error.message}") from None


def _notes(bench: Bench) -> Iterator[str]:
    """What sites train on, and a new site."""
    experiment = bench.experiment
    for seed in experiment.seeds:
        notes = {site: bench.notes_of(site, seed) for site in experiment.sites}
        for site, held in notes.items():
            yield f"site {site.name}, seed {seed}: {held.sentences} sentences of {site.corpus}{_left_out(held)}"
        if any(arm.kind == "centralised" for arm in experiment.arms):
            check_ids(notes.values())
    if (new := experiment.new_site) is not None:
        starts = [experiment.new_site_arm(start) for start in new.continues]
        terms, *_ = [terms_of(experiment, arm, experiment.seeds[0], [CENTRE], bench.base_model) for arm in starts]
        for seed, task in itertools.product(new.seeds or experiment.seeds, terms.task.tasks):
            held = bench.few_of(new, seed, of_one_task(terms, task))
            yield f"new site, seed {seed}, {task}: {held.sentences} sentences of {new.corpus}{_left_out(held)}"


def _left_out(held: NoteFile) -> str:
    return f", {held.left_out} passages left out that are in a test or validation set" if held.left_out else ""


def _check_types(name: str, task: TaskTerms, known: dict[str, frozenset[str]]) -> None:
    """Check that an arm asks for the types of those before: with other ones, no document has the same gold in both."""
    for what, asked in (("entity_types", task.entity_types), ("relation_types", task.relation_types or ())):
        if asked and known.setdefault(what, frozenset(asked)) != frozenset(asked):
            expected, got = ", ".join(sorted(known[what])), ", ".join(sorted(asked))
            message = f"{name}: task.{what}: expected those of the arms before, {expected}, got {got}"
            raise InputInvalidError(Reason.TERMS_INVALID, message)


def told(estimated: EstimatingWorkshop, at_once: int) -> Iterator[str]:
    """What is yet to be done, and how long it takes."""
    for one in estimated.pending.values():
        yield f"{timedelta(seconds=round(one.seconds))!s:>9}  {one.says}"
    seconds = sum(one.seconds for one in estimated.pending.values())
    rates = ", ".join(f"{kind} {rate:.2f}" for kind, rate in estimated.rates.items())
    yield (
        f"{len(estimated.pending)} cells to do, {len(estimated.done)} done; about {timedelta(seconds=round(seconds))} "
        f"of a core, {timedelta(seconds=round(seconds / at_once))} with --jobs {at_once} (seconds a sentence: {rates})"
    )
