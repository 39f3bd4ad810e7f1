"""Which entity and relation types there are, and which pairs may be related. Holds no text and no offsets.

Both sides read it: a coordinator refuses a run that nobody could train, and a site asks for what is allowed. The
entity types and the modifier pairs are those of the Fed-MedLoRA paper (arXiv 2601.22124, authors' code);
``adverse_effect`` and ``treats`` come from the annotated corpora.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from common.errors import InputInvalidError, Reason
from common.task_terms import TaskTerms

MAIN_TYPES = ("drug", "problem", "test", "treatment")
MODIFIER_TYPES = (
    "bodyloc",
    "condition",
    "course",
    "dosage",
    "duration",
    "form",
    "frequency",
    "labvalue",
    "negation",
    "reference_range",
    "route",
    "severity",
    "strength",
    "subject",
    "temporal",
    "uncertain",
)
ENTITY_TYPES = (*MAIN_TYPES, *MODIFIER_TYPES)

HAS_ATTRIBUTE = "hasAttr"
ADVERSE_EFFECT = "adverse_effect"
TREATS = "treats"
RELATION_TYPES = (HAS_ATTRIBUTE, ADVERSE_EFFECT, TREATS)

MODIFIERS_OF: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "problem": frozenset(
            {"severity", "condition", "uncertain", "subject", "bodyloc", "course", "temporal", "negation"}
        ),
        "treatment": frozenset({"temporal", "negation"}),
        "drug": frozenset({"strength", "dosage", "duration", "form", "frequency", "route", "temporal", "negation"}),
        "test": frozenset({"labvalue", "reference_range", "temporal", "negation"}),
    }
)
# Of each relation type: the types of heads, and of each the types of tails.
TAILS_OF: Mapping[str, Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        HAS_ATTRIBUTE: MODIFIERS_OF,
        ADVERSE_EFFECT: MappingProxyType({"drug": frozenset({"problem"})}),
        TREATS: MappingProxyType({"drug": frozenset({"problem"})}),
    }
)


def is_allowed_relation(relation_type: str, head_type: str, tail_type: str) -> bool:
    """Whether the schema knows a relation of this type from an entity of ``head_type`` to one of ``tail_type``.

    Importers do not enforce it: corpora relate more pairs than the paper asks for.
    """
    return tail_type in TAILS_OF.get(relation_type, {}).get(head_type, frozenset())


def role_of(relation_type: str, tail_type: str) -> str:
    """What the tail is to its head, in one word: of ``hasAttr`` the modifier's type, else the relation's.

    A role says as much as both: it is what a question about a head names, and an answer.
    """
    return tail_type if relation_type == HAS_ATTRIBUTE else relation_type


def relation_of(role: str) -> tuple[str, str]:
    """Relation type and tail type of a role: the inverse of `role_of`, for relations that the schema knows."""
    return (HAS_ATTRIBUTE, role) if role in MODIFIER_TYPES else (role, "problem")


def check_relation_types(relation_types: Iterable[str]) -> tuple[str, ...]:
    """Return the types sorted, each once, if the schema knows them all.

    Raises:
        InputInvalidError: SETTINGS_UNSUPPORTED.
    """
    checked = tuple(sorted(set(relation_types)))
    if not set(checked) <= set(RELATION_TYPES):
        raise InputInvalidError(
            Reason.SETTINGS_UNSUPPORTED,
            f"relation types: expected some of {', '.join(sorted(RELATION_TYPES))}; got {', '.join(checked)[:200]!r}",
        )
    return checked


def check_entity_types(entity_types: Iterable[str]) -> tuple[str, ...]:
    """Return the types sorted, each once, if there is at least one and the schema knows them all.

    Raises:
        InputInvalidError: SETTINGS_UNSUPPORTED.
    """
    checked = tuple(sorted(set(entity_types)))
    if not checked or not set(checked) <= set(ENTITY_TYPES):
        raise InputInvalidError(
            Reason.SETTINGS_UNSUPPORTED,
            f"entity types: expected some of {', '.join(sorted(ENTITY_TYPES))}; got {', '.join(checked)[:200]!r}",
        )
    return checked


def check_task(task: TaskTerms) -> None:
    """Check that every type is one of the schema, and every relation type has a head among the entity types.

    A site refuses what it does not know, and asks nothing about heads that are no type of the run: hours later, when
    nothing can be done about it but to begin again.

    Raises:
        InputInvalidError: TERMS_INVALID, with all problems.
    """
    problems = [
        *_unknown("task.entity_types", task.entity_types, ENTITY_TYPES),
        *_unknown("task.relation_types", task.relation_types, RELATION_TYPES),
    ]
    for relation_type in task.relation_types:
        heads = TAILS_OF.get(relation_type)
        if heads is not None and heads.keys().isdisjoint(task.entity_types):
            problems.append(
                f"task.relation_types: {relation_type} begins at an entity of the type {' or '.join(sorted(heads))}; "
                f"expected that among task.entity_types, got {', '.join(task.entity_types)[:200]!r}"
            )
    if problems:
        raise InputInvalidError(Reason.TERMS_INVALID, "; ".join(problems))


def _unknown(what: str, types: Iterable[str], known: Iterable[str]) -> list[str]:
    strange = sorted(set(types) - set(known))
    if not strange:
        return []
    return [f"{what}: expected some of {', '.join(sorted(known))}; got {', '.join(strange)[:200]!r}"]
