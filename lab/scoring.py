"""Scores models on test sets, and on the consortium's validation set, by the sites' own trainer. It trains nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

from common.terms import BaseModelTerms, LoraTerms, Terms, TrainingTerms
from lab.cells import Adapter, Cell
from lab.corpora import NoteFile
from lab.findings import Scored, Setting
from lab.rounds import Machine
from lab.slots import Priority
from lab.workshop import Workshop
from site_agent.orders import BaseModelSource, EvaluateOrder, EvaluateResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Something to score: an adapter, or the bare base model, and what to say of it in every row.

    Attributes:
        lora_rank: Of the adapter.
    """

    arm: str
    seed: int
    trained_on: str
    site: str = ""
    adapter: Adapter | None
    lora_rank: int
    terms: Terms
    round_number: int = 0
    examples: int = 0

    @property
    def says(self) -> str:
        """What it is, for a person."""
        if self.adapter is None:
            return f"{self.arm}, seed {self.seed}, base model"
        whose = f" of {self.site}" if self.site else ""
        after = f" after round {self.round_number}" if self.round_number else ""
        return f"{self.arm}, seed {self.seed}, model{whose} trained on {self.trained_on}{after}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """Where scores are made, and on what.

    Attributes:
        asked: Of each test set, where it is not the set itself, the file whose annotations say what is asked of it.
    """

    tests: Mapping[str, NoteFile]
    asked: Mapping[str, NoteFile] = field(default_factory=dict)
    validation: tuple[NoteFile, ...]
    machine: Machine
    base_model: BaseModelTerms
    workshop: Workshop

    async def score(self, model: Model, settings: Mapping[str, Setting], priority: Priority) -> list[Scored]:
        """One order over all test sets; each is asked for the types that it annotates."""
        names = list(settings)
        files = tuple(self.tests[name] for name in names)
        asked = tuple(self.asked.get(name, self.tests[name]) for name in names) if self.asked else ()
        order = replace(self._order(model, files, is_scored=True), asked_files=tuple(str(file.path) for file in asked))
        if model.adapter is None:
            order = replace(order, lora=LoraTerms())
        says = f"{model.says} scored on {', '.join(names)}"
        cell = Cell(order=order, notes=files, asked=asked, adapter=model.adapter, says=says)
        done = await self.workshop.perform(cell, priority)
        assert isinstance(done.result, EvaluateResult)
        rows = []
        for scores, (index, name) in product(done.result.tasks, enumerate(names)):
            documents = [one for one in scores.documents if one.file == index]
            if not documents:  # the corpus does not annotate what the task asks for
                continue
            row = Scored(
                arm=model.arm,
                seed=model.seed,
                trained_on=model.trained_on,
                site=model.site,
                setting=settings[name],
                test_set=name,
                round_number=model.round_number,
                examples=model.examples,
                task=scores.task,
                strict=tuple(one.strict for one in documents),
                lenient=tuple(one.lenient for one in documents),
                strict_agnostic=tuple(one.strict_agnostic for one in documents if one.strict_agnostic),
                lenient_agnostic=tuple(one.lenient_agnostic for one in documents if one.lenient_agnostic),
            )
            for told in scores.files:
                if told.file == index:
                    row = replace(row, per_type=told.per_type, answers=told.answers,
                                  malformed_answers=told.malformed_answers)  # fmt: skip
            rows.append(row)
        return rows

    async def validation_loss(self, model: Model, priority: Priority) -> float:
        """Mean token cross-entropy in nats on the consortium's validation set."""
        order = self._order(model, self.validation, is_scored=False)
        says = f"{model.arm}, seed {model.seed}, loss on the validation set"
        cell = Cell(order=order, notes=self.validation, adapter=model.adapter, says=says)
        done = await self.workshop.perform(cell, priority)
        assert isinstance(done.result, EvaluateResult) and done.result.mean_loss is not None
        return done.result.mean_loss

    def _order(self, model: Model, files: Sequence[NoteFile], *, is_scored: bool) -> EvaluateOrder:
        source = BaseModelSource(
            location=self.machine.base_model,
            expected=self.base_model,
            device=self.machine.device,
            threads=self.machine.threads,
        )
        terms = model.terms
        # Decoding asks nothing of the training terms but how the base model is held: then equal adapters share a cell.
        decoding = TrainingTerms(quantization=terms.training.quantization)
        return EvaluateOrder(
            base_model=source,
            lora=replace(terms.lora, lora_rank=model.lora_rank, least_lora_rank=0),
            task=terms.task,
            training=decoding if is_scored else terms.training,
            data_files=tuple(str(file.path) for file in files),
            generate=is_scored,
            measure_loss=not is_scored,
            tell_documents=is_scored,
        )
