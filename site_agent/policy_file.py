"""The site's policy as a file of its own (TOML), validated whole: every problem in one error. It decides nothing.

It is the hospital's: no message of the coordinator is read here, and the agent never writes it. Unknown keys are
refused, because a bound that is misspelt would bound nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, tzinfo
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from common.adapter import MAX_LORA_RANK
from common.config import ByteSize, config_invalid, parse_toml, read_config
from common.errors import InputInvalidError
from common.ids import Digest, check_digest, digest_of
from site_agent.domain.policy import (
    METRICS,
    MINUTES_A_DAY,
    Anything,
    BaseModelDigests,
    Bound,
    Choice,
    EgressPolicy,
    Hours,
    Range,
    SitePolicy,
)
from site_agent.domain.term_rules import RULES, By, every_field

ANY = "any"
_HOURS = re.compile(r"(\d\d):(\d\d)-(\d\d):(\d\d)", re.ASCII)
_SMALLEST_CELL = 10


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _digest(value: str) -> Digest:
    try:
        return check_digest(value, "digest")
    except InputInvalidError as error:
        raise ValueError(error.message) from None


def _hours(text: str) -> Hours:
    match = _HOURS.fullmatch(text)
    numbers = [int(number) for number in match.groups()] if match else []
    if not numbers or numbers[1] > 59 or numbers[3] > 59:
        raise ValueError("expected hours such as '19:00-06:30'")
    begins, ends = numbers[0] * 60 + numbers[1], numbers[2] * 60 + numbers[3]
    if begins >= MINUTES_A_DAY or ends > MINUTES_A_DAY or begins == ends:
        raise ValueError("expected hours from 00:00 to 24:00 that are not empty")
    return Hours(begins_minute=begins, ends_minute=ends)


def _zone(name: str) -> str:
    _zone_of(name)
    return name


def _zone_of(name: str) -> tzinfo:
    """UTC is there on machines, too, that have no time zones."""
    try:
        return UTC if name == "UTC" else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("expected a time zone that this machine knows, such as 'Europe/Berlin'") from None


class FederationSection(_Section):
    """Whose runs this site takes part in."""

    consortium: str = Field(min_length=1)
    coordinators: tuple[str, ...] = Field(min_length=1)


class BaseModelEntry(_Section):
    """A base model, as ``fedmed-site model digest`` prints it; the name is for people."""

    name: str = ""
    weights_digest: Annotated[Digest, AfterValidator(_digest)]
    tokenizer_digest: Annotated[Digest, AfterValidator(_digest)]
    chat_template_digest: Annotated[Digest, AfterValidator(_digest)]


class ApprovalSection(_Section):
    """Whether runs within this policy need a person."""

    standing: bool = False


class TimeSection(_Section):
    """When this site trains, and how much of its device it gives."""

    time_zone: Annotated[str, AfterValidator(_zone)] = "UTC"
    hours: tuple[str, ...] = ()
    rounds_a_day: int = Field(default=0, ge=0, le=10_000)
    gpu_share: float = Field(default=1.0, gt=0, le=1)

    @model_validator(mode="after")
    def _are_hours(self) -> Self:
        for text in self.hours:
            _hours(text)
        return self


class EgressSection(_Section):
    """What may leave."""

    min_examples: int = Field(ge=1)
    max_norm: float = Field(gt=0, allow_inf_nan=False)
    max_bytes: ByteSize
    tensors: tuple[str, ...] = ("base_model.model.*.lora_A.weight", "base_model.model.*.lora_B.weight")
    max_side: int = Field(default=65_536, ge=1)
    dtypes: tuple[Literal["bf16", "f32"], ...] = ("bf16", "f32")
    metrics: tuple[str, ...] = ("num_examples", "num_label_tokens")
    smallest_cell: int = Field(default=_SMALLEST_CELL, ge=0)
    progress_losses: bool = False

    @model_validator(mode="after")
    def _are_metrics(self) -> Self:
        unknown = sorted(set(self.metrics) - METRICS)
        if unknown:
            raise ValueError(f"metrics: expected some of {sorted(METRICS)}, got {unknown}")
        return self


class PolicyFile(_Section):
    """The whole file."""

    strategies: tuple[str, ...] = Field(min_length=1)
    max_lora_rank: int = Field(ge=1, le=MAX_LORA_RANK)
    federation: FederationSection
    base_models: tuple[BaseModelEntry, ...] = Field(min_length=1)
    approval: ApprovalSection = ApprovalSection()
    times: TimeSection = TimeSection()
    egress: EgressSection
    terms: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenPolicy:
    """What the file says.

    Attributes:
        consortium: The name in the certificates of the federation.
        coordinators: Names of those that the agent may dial, as their certificates prove them.
        zone: In which hours and days are counted.
    """

    consortium: str
    coordinators: frozenset[str]
    zone: tzinfo
    policy: SitePolicy


def narrowed(written: WrittenPolicy, *, strategies: Iterable[str] | None, max_lora_rank: int) -> WrittenPolicy:
    """The policy with these strategies out of its own (None: all of them), and at most this rank (0: its own)."""
    policy = written.policy
    chosen = policy.strategies if strategies is None else policy.strategies.intersection(strategies)
    rank = min(policy.max_lora_rank, max_lora_rank or policy.max_lora_rank)
    return replace(written, policy=replace(policy, strategies=chosen, max_lora_rank=rank))


def load_policy(path: Path, kinds: Iterable[str], weights_digest: Digest | None) -> WrittenPolicy:
    """The policy in ``path`` for an agent that can do these kinds of work.

    Raises:
        InputInvalidError: CONFIG_INVALID, with all problems.
    """
    content = read_config(path)
    file = parse_toml(path, content, PolicyFile)
    bounds, problems = _bounds(file.terms)
    if problems:
        raise config_invalid(path, problems)
    policy = SitePolicy(
        kinds=frozenset(kinds),
        strategies=frozenset(file.strategies),
        weights_digest=weights_digest,
        base_models=frozenset(
            BaseModelDigests(
                weights=each.weights_digest, tokenizer=each.tokenizer_digest, chat_template=each.chat_template_digest
            )
            for each in file.base_models
        ),
        terms=bounds,
        max_lora_rank=file.max_lora_rank,
        hours=tuple(_hours(text) for text in file.times.hours),
        max_rounds_a_day=file.times.rounds_a_day,
        gpu_share=file.times.gpu_share,
        egress=_egress(file.egress),
        has_standing_approval=file.approval.standing,
        digest=digest_of(content),
    )
    return WrittenPolicy(
        consortium=file.federation.consortium,
        coordinators=frozenset(file.federation.coordinators),
        zone=_zone_of(file.times.time_zone),
        policy=policy,
    )


def _egress(section: EgressSection) -> EgressPolicy:
    return EgressPolicy(
        tensors=section.tensors,
        max_side=section.max_side,
        dtypes=frozenset(section.dtypes),
        max_bytes=section.max_bytes,
        max_norm=section.max_norm,
        min_examples=section.min_examples,
        metrics=frozenset(section.metrics),
        smallest_cell=section.smallest_cell,
        may_tell_losses=section.progress_losses,
    )


# The table `terms`: its sections and keys are those of the terms, and each value is a bound of its field's type.


def _bounds(tables: Mapping[str, Any]) -> tuple[dict[str, Bound], list[str]]:
    fields = {path: default for path, default in every_field() if path in RULES and RULES[path].by is By.BOUND}
    bounds: dict[str, Bound] = {}
    problems = []
    for path, value in _leaves(tables):
        expected = f"terms.{path}: expected {_expected(fields[path])}" if path in fields else ""
        bound = _bound(value, fields[path]) if path in fields else None
        if path not in fields:
            problems.append(f"terms.{path}: {_no_such_key(path)}")
        elif bound is None:
            problems.append(f"{expected}, got {value!r}"[:300])
        else:
            bounds[path] = bound
    return bounds, problems


def _leaves(tables: Mapping[str, Any], path: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in tables.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _no_such_key(path: str) -> str:
    if path not in RULES:
        return "unknown key"
    by = RULES[path].by
    return f"judged by {by}, not here" if by is not By.NOBODY else "judged by nobody: it changes nothing for a site"


def _bound(value: Any, default: Any) -> Bound | None:
    """The bound that ``value`` writes down for a field whose default is ``default``; None when it is none."""
    if value == ANY:
        return Anything()
    if not isinstance(value, list):
        return None
    if isinstance(default, bool):
        is_right = bool(value) and all(isinstance(each, bool) for each in value)
        return Choice(words=frozenset("true" if each else "false" for each in value)) if is_right else None
    if isinstance(default, int | float):
        is_right = len(value) == 2 and all(isinstance(each, int | float) for each in value)
        is_right = is_right and not any(isinstance(each, bool) for each in value) and value[0] <= value[1]
        return Range(least=value[0], most=value[1]) if is_right else None
    if not (value or isinstance(default, tuple)) or not all(isinstance(each, str) for each in value):
        return None
    if isinstance(default, StrEnum) and not set(value) <= {str(each) for each in type(default)}:
        return None
    return Choice(words=frozenset(value))


def _expected(default: Any) -> str:
    if isinstance(default, bool):
        return "[false], [true], [false, true] or 'any'"
    if isinstance(default, int | float):
        return "[least, most] or 'any'"
    if isinstance(default, StrEnum):
        return f"a list of some of {[str(each) for each in type(default)]}, or 'any'"
    return "a list of words, or 'any'"
