"""Which type of the project's schema each type of a source becomes, as a site says it in a TOML file.

A name that the file does not list stands for itself where the schema has it; anything else is unmapped, and an import
that meets it is refused: nothing is left out in silence.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, Field

from common.config import load_toml
from common.label_schema import ENTITY_TYPES, MODIFIER_TYPES, RELATION_TYPES

# Not imported. Of an attribute: the attribute alone.
DROP = "drop"
# Of an attribute: the entity that has it, too.
DROP_ENTITY = "drop-entity"
# Everything that is not listed.
ANY = "*"
# The tables, and the names that stand for themselves in each.
ENTITIES, RELATIONS, ATTRIBUTES = "entities", "relations", "attributes"
_OF_THE_SCHEMA: Mapping[str, Collection[str]] = {ENTITIES: ENTITY_TYPES, RELATIONS: RELATION_TYPES, ATTRIBUTES: ()}


def _one_of(*allowed: str) -> AfterValidator:
    def check(value: str) -> str:
        if value not in allowed:
            raise ValueError(f"expected one of {', '.join(allowed)}")
        return value

    return AfterValidator(check)


_EntityType: TypeAlias = Annotated[str, _one_of(DROP, *ENTITY_TYPES)]
_RelationType: TypeAlias = Annotated[str, _one_of(DROP, *RELATION_TYPES)]
_AttributeType: TypeAlias = Annotated[str, _one_of(DROP, DROP_ENTITY, *MODIFIER_TYPES)]


class _TypeMapFile(BaseModel):
    """The tables of a type map's file; `reversed` lists relations of the source that run from modifier to entity."""

    version: Literal[1] = 1
    entities: dict[str, _EntityType] = Field(default_factory=dict)
    relations: dict[str, _RelationType] = Field(default_factory=dict)
    reversed: list[str] = Field(default_factory=list)
    attributes: dict[str, _AttributeType] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeMap:
    """Types of a source to types of the schema, or to `DROP`; the look-ups give None for what is not mapped."""

    entities: Mapping[str, str] = field(default_factory=dict)
    relations: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)
    reversed: frozenset[str] = frozenset()

    def entity(self, name: str) -> str | None:
        """The entity type that ``name`` stands for."""
        return self.entities.get(self.entry(ENTITIES, name) or "") or (name if name in ENTITY_TYPES else None)

    def relation(self, name: str) -> str | None:
        """The relation type that ``name`` stands for."""
        return self.relations.get(self.entry(RELATIONS, name) or "") or (name if name in RELATION_TYPES else None)

    def attribute(self, name: str, value: str) -> str | None:
        """The modifier type that an attribute stands for, looked up as ``name=value``, then as ``name``."""
        return self.attributes.get(self.entry(ATTRIBUTES, name, value) or "")

    def entry(self, table: str, name: str, value: str = "") -> str | None:
        """Which key of ``table`` says what a name becomes; None where the schema alone does, or nothing."""
        keys = self.tables()[table]
        looked_up = (f"{name}={value}", name) if table == ATTRIBUTES else (name,)
        listed = next((key for key in looked_up if key in keys), None)
        return listed or (ANY if ANY in keys and name not in _OF_THE_SCHEMA[table] else None)

    def tables(self) -> Mapping[str, Mapping[str, str]]:
        """What the map lists, by table."""
        return {ENTITIES: self.entities, RELATIONS: self.relations, ATTRIBUTES: self.attributes}


def load_type_map(path: Path) -> TypeMap:
    """The type map of a TOML file.

    Raises:
        InputInvalidError: CONFIG_INVALID, with everything that is wrong with the file.
    """
    tables = load_toml(path, _TypeMapFile)
    return TypeMap(
        entities=tables.entities,
        relations=tables.relations,
        attributes=tables.attributes,
        reversed=frozenset(tables.reversed),
    )
