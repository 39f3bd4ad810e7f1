"""The part of a run's terms that says what the model learns to do. `common.terms` holds it, and checks its bounds."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from common.added_later import ADDED_LATER


class Task(StrEnum):
    """What is learnt from a note; each has examples, a loss and scores of its own."""

    ENTITIES = "entities"  # the entities of a sentence (NER)
    RELATIONS = "relations"  # what a sentence relates to one given entity of it (RE)


class PromptForm(StrEnum):
    """How the model answers (the paper's two forms)."""

    SPAN = "span"  # the sentence rewritten with <span class="problem">...</span>
    JSON = "json"  # a JSON list of {"type": "text"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskTerms:
    """What the model learns to do: entities of these types and relations of these, asked for in this form.

    Attributes:
        relation_types: None, unless RELATIONS is a task of the run. Heads are entities of ``entity_types``; which
            pairs may be related, and so the types of tails, is the label schema's matter.
        relations_only: Whether ENTITIES is no task of the run; ``entity_types`` are those of the heads then.
    """

    entity_types: tuple[str, ...] = ("drug", "problem", "test", "treatment")
    prompt_form: PromptForm = PromptForm.JSON
    max_new_tokens: int = 256
    relation_types: tuple[str, ...] = field(default=(), metadata=ADDED_LATER)
    relations_only: bool = field(default=False, metadata=ADDED_LATER)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks of the run, one at least when the terms were checked."""
        entities = () if self.relations_only else (Task.ENTITIES,)
        return (*entities, Task.RELATIONS) if self.relation_types else entities
